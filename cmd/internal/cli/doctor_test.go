package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"portcullis.dev/portcullis/cmd/internal/doctor"
)

// nothingThere is a daemon's file with nothing behind it.
func nothingThere(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "server.yaml")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte("token-x:s3cret"), 0o600))
	require.NoError(t, os.WriteFile(file, []byte("rancher: {url: 'https://127.0.0.1:1', tokenFile: token}\nagent: {image: x}\n"), 0o600))
	return file
}

func runDoctor(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Main(t.Context(), Options{
		Program: "portcullis", Args: append([]string{"doctor"}, args...), Stdout: &o, Stderr: &e,
		Dial: func(context.Context, client.Options) (client.Client, error) {
			return nil, serviceerror.NewUnavailable("connection refused")
		},
	})
	return code, o.String(), e.String()
}

func TestDoctorTellsWhatIsBrokenAndHowToMendIt(t *testing.T) {
	file := nothingThere(t)
	code, out, errOut := runDoctor(t, "--config", file)
	require.Equal(t, exitNotPassed, code)
	requireOneLine(t, errOut)
	require.Contains(t, errOut, "2 checks of")
	for _, want := range []string{"fail", doctor.TemporalReach, doctor.RancherReach, "-> see that it is up", "skipped", "Rancher cannot be used"} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out+errOut, "s3cret")

	code, out, errOut = runDoctor(t, "--config", file, "-o", "json")
	require.Equal(t, exitNotPassed, code)
	var report doctor.Report
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.Equal(t, doctor.Fail, report.Status)
	require.Equal(t, 2, report.Counts[doctor.Fail])
	var told struct{ Error failure }
	require.NoError(t, json.Unmarshal([]byte(errOut), &told))
	require.Equal(t, exitNotPassed, told.Error.ExitCode)
}

func TestDoctorsCommandLine(t *testing.T) {
	file := nothingThere(t)
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"no file":         {nil, exitUsage},
		"one and all":     {[]string{"--config", file, "--all", "--cluster", "x"}, exitUsage},
		"no time":         {[]string{"--config", file, "--timeout", "0s"}, exitUsage},
		"words":           {[]string{"--config", file, "everything"}, exitUsage},
		"file not there":  {[]string{"--config", "no-such-file.yaml"}, exitNotFound},
		"bad pipeline":    {[]string{"--config", file, "-f", "../config/testdata/bad/kind.yaml"}, exitInvalid},
		"pipeline is not": {[]string{"--config", file, "-f", "no-such-file.yaml"}, exitNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			code, out, errOut := runDoctor(t, c.args...)
			require.Equal(t, c.code, code, errOut)
			require.Empty(t, out)
			require.NotEmpty(t, strings.TrimSpace(errOut))
			require.Less(t, time.Since(began), 10*time.Second)
		})
	}
}
