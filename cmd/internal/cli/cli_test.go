package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

func TestExitCodeFollowsTheErrorsType(t *testing.T) {
	for want, cases := range map[int][]error{
		exitOK:          {nil},
		exitUnexpected:  {errors.New("odd")},
		exitUsage:       {usagef("which?")},
		exitInvalid:     {errs.Invalid("x"), serviceerror.NewInvalidArgument("x")},
		exitNotFound:    {errs.NotFound("x"), serviceerror.NewNotFound("x"), &os.PathError{Op: "open", Path: "p", Err: os.ErrNotExist}},
		exitConflict:    {errs.Conflict("x")},
		exitHeld:        {errs.Held("x")},
		exitDenied:      {errs.Denied("x"), errs.Untrusted("x")},
		exitUnavailable: {errs.Unavailable("x"), errs.Deadline("x"), context.DeadlineExceeded},
		exitNotPassed:   {errs.Failed("x"), notPassed{state: contract.StateRolledBack}},
		exitPreflight:   {errs.Preflight("x"), preflightEnded{status: preflight.Fail}},
		exitUnknown:     {preflightEnded{status: preflight.Unsure}},
		exitInterrupted: {context.Canceled},
	} {
		for _, err := range cases {
			require.Equal(t, want, exitCode(err), "%v", err)
			if err != nil {
				require.Equal(t, want, exitCode(fmt.Errorf("around: %w", err)), "wrapped %v", err)
			}
		}
	}
}

// The table that people read has each code that a program can end with.
func TestEveryTypeHasADocumentedCode(t *testing.T) {
	documented := map[int]bool{}
	for _, e := range exitTable {
		require.NotEmpty(t, e.meaning)
		documented[e.code] = true
	}
	for kind, code := range codeOfType {
		require.True(t, documented[code], kind)
	}
	require.Contains(t, run(t, nil, "help", "exit-codes").out, "held after a rollback")
}

func TestWrongCommandLines(t *testing.T) {
	for name, args := range map[string][]string{
		"unknown verb":         {"frobnicate"},
		"near verb":            {"rolout"},
		"unknown rollout verb": {"rollout", "frobnicate"},
		"unknown flag":         {"rollout", "list", "--frob"},
		"unknown output":       {"version", "-o", "xml"},
		"no file":              {"rollout", "start"},
		"no pipeline":          {"rollout", "status"},
		"name and file":        {"rollout", "status", "x", "-f", goodPipeline},
		"two pipelines":        {"rollout", "status", "x", "y"},
		"no evidence":          {"rollout", "approve", "x"},
		"no reason":            {"rollout", "rollback", "-f", goodPipeline},
		"bad address":          {"rollout", "status", "x", "--temporal-address", "nowhere"},
		"half a certificate":   {"rollout", "status", "x", "--temporal-tls-cert", "c.pem"},
		"limit":                {"rollout", "list", "--limit", "0"},
		"agents of whom":       {"agent", "install"},
		"agents of all and x":  {"agent", "remove", "--all", "x"},
		"server without file":  {"server"},
		"validate nothing":     {"pipeline", "validate"},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, nil, args...)
			require.Equal(t, exitUsage, r.code, r.errors)
			requireOneLine(t, r.errors)
			require.Empty(t, r.out)
		})
	}
}

func TestHelpOfAGroupIsNoError(t *testing.T) {
	for _, group := range []string{"rollout", "pipeline", "agent", "node"} {
		r := run(t, nil, group)
		require.Zero(t, r.code)
		require.Contains(t, r.out, "Available Commands")
	}
}

// Bad input, as far as the file alone can show it: one clear line with the
// place, an exit code of its own, and no word to Temporal.
func TestBadPipelinesReachNobody(t *testing.T) {
	files, err := filepath.Glob("../config/testdata/bad/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		for _, verb := range [][]string{
			{"pipeline", "validate", file}, {"rollout", "start", "-f", file}, {"rollout", "plan", "-f", file},
			{"rollout", "rollback", "-f", file, "--why", "x"}, {"probe", "-f", file},
		} {
			r := run(t, nil, verb...)
			require.Equal(t, exitInvalid, r.code, "%v: %s", verb, r.errors)
			require.Contains(t, r.errors, file+":")
			for line := range strings.Lines(r.errors) {
				requireOneLine(t, line)
			}
		}
	}
}

func TestErrorsAsJSON(t *testing.T) {
	r := run(t, nil, "pipeline", "validate", "../config/testdata/bad/many.yaml", "-o", "json")
	require.Equal(t, exitInvalid, r.code)
	var told struct{ Error failure }
	require.NoError(t, json.Unmarshal([]byte(r.errors), &told))
	require.Equal(t, exitInvalid, told.Error.ExitCode)
	require.Equal(t, errs.TypeInvalid, told.Error.Type)
	require.Equal(t, "spec.source.brnch", told.Error.Places[1].Path)
	var result struct{ Files []checked }
	require.NoError(t, json.Unmarshal([]byte(r.out), &result))
	require.False(t, result.Files[0].Valid)
}

func TestValidateNamesEachFile(t *testing.T) {
	r := run(t, nil, "pipeline", "validate", goodPipeline, "../config/testdata/bad/kind.yaml")
	require.Equal(t, exitInvalid, r.code)
	require.Contains(t, r.out, "pipeline network-policies is valid")
	requireOneLine(t, r.errors)
	require.Equal(t, exitNotFound, run(t, nil, "pipeline", "validate", "no-such-file.yaml").code)
}

func TestTemporalThatIsNotThere(t *testing.T) {
	var errOut strings.Builder
	code := Main(t.Context(), Options{
		Program: "portcullis", Args: []string{"clusters", "--temporal-address", "127.0.0.1:1"},
		Stdout: &errOut, Stderr: &errOut,
	})
	require.Equal(t, exitUnavailable, code)
	require.Contains(t, errOut.String(), "Temporal at 127.0.0.1:1 does not answer")
	requireOneLine(t, errOut.String())
}

func TestSettingsComeFromFlagThenEnvironmentThenFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.yaml")
	require.NoError(t, os.WriteFile(file, []byte("temporal: {address: 'file:1', namespace: fromfile, taskQueue: fromfile}\n"), 0o600))
	var got client.Options
	code := Main(t.Context(), Options{
		Program: "portcullis", Args: []string{"rollout", "list", "--config", file, "--temporal-address", "flag:1"},
		Stdout: &strings.Builder{}, Stderr: &strings.Builder{},
		LookupEnv: func(name string) (string, bool) {
			v, ok := map[string]string{"PORTCULLIS_TEMPORAL_ADDRESS": "env:1", "PORTCULLIS_TEMPORAL_NAMESPACE": "fromenv"}[name]
			return v, ok
		},
		Dial: func(_ context.Context, o client.Options) (client.Client, error) {
			got = o
			return &fakeTemporal{}, nil
		},
	})
	require.Zero(t, code)
	require.Equal(t, "flag:1", got.HostPort)
	require.Equal(t, "fromenv", got.Namespace)
}

func TestVersion(t *testing.T) {
	r := run(t, nil, "version", "-o", "json")
	require.Zero(t, r.code)
	var v map[string]string
	require.NoError(t, json.Unmarshal([]byte(r.out), &v))
	require.NotEmpty(t, v["version"])
	require.Equal(t, contract.APIVersion, v["pipeline"])
}

func TestDocumentationHasTheSameCodes(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/cli.md")
	require.NoError(t, err)
	for _, e := range exitTable {
		require.Contains(t, string(doc), fmt.Sprintf("| %d | %s |", e.code, e.meaning))
	}
}
