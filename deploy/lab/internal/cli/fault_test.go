package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
)

func TestKindsAreAllListed(t *testing.T) {
	var b bytes.Buffer
	if err := writeKinds(&b); err != nil {
		t.Fatal(err)
	}
	for _, k := range fault.Kinds {
		if !strings.Contains(b.String(), k.What) {
			t.Errorf("%s is not described", k.Name)
		}
		for _, p := range k.Params {
			if !strings.Contains(b.String(), "  "+p.Name+"="+p.Default) {
				t.Errorf("%s: parameter %s is not described", k.Name, p.Name)
			}
		}
	}
}

// Mistakes are told before the lab is touched.
func TestFaultArguments(t *testing.T) {
	for want, args := range map[string][]string{
		"no kind of fault":     {"fault", "inject", "plague", "canal-1"},
		"want NAME=VALUE":      {"fault", "inject", "mtu", "canal-1", "1400"},
		`has no "size"`:        {"fault", "inject", "mtu", "canal-1", "size=1"},
		"requires at least 2":  {"fault", "inject", "mtu"},
		"say which faults":     {"fault", "clear"},
		"faults to clear, or ": {"fault", "clear", "mtu", "--all"},
	} {
		cmd := Command()
		cmd.SetArgs(append(args, "--state", t.TempDir()))
		cmd.SetOut(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", args, err, want)
		}
	}
}

func TestListen(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		c, err := listen(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
