package netw

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
	"portcullis.dev/portcullis/deploy/lab/internal/nsrun"
)

func block(t *testing.T, target string, args ...string) fault.Fault {
	t.Helper()
	params, err := fault.ParseParams(args)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fault.New(fault.Block, target, params)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestBlockRules(t *testing.T) {
	for want, f := range map[string]fault.Fault{
		`oifname "plab-a-1" ip protocol udp udp dport 8472 counter drop
iifname "plab-a-1" ip protocol udp udp dport 8472 counter drop`: block(t, "a-1", "proto=udp", "port=8472"),
		`iifname "plab-a-2" oifname "plab-a-1" ip protocol tcp counter drop`: block(t, "a-1", "peer=a-2", "direction=in"),
		`iifname "plab-a-1" oifname "plab-a-2" ip protocol 4 counter drop`:   block(t, "a-1", "peer=a-2", "proto=4", "direction=out"),
	} {
		got := blockRules([]fault.Fault{f})
		if !strings.Contains(strings.ReplaceAll(got, "\t", ""), want) {
			t.Errorf("%s: no %s in\n%s", f, want, got)
		}
	}
	if got := blockRules(nil); strings.Contains(got, "{") {
		t.Errorf("a table is left without blocks:\n%s", got)
	}
}

// The kernel takes the rules, again and again, and they are gone afterwards. It
// is asked in a network namespace that is thrown away.
func TestBlocksAreTaken(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs nft and root")
	}
	err := nsrun.Do(nsrun.Target{}, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		for range 2 {
			if err := SetBlocks([]fault.Fault{block(t, "a-1", "proto=udp", "port=8472"), block(t, "a-1", "proto=icmp", "peer=a-2"), block(t, "a-2", "proto=4")}); err != nil {
				return err
			}
		}
		if there, err := Blocking(); err != nil || !there {
			t.Errorf("blocking: %t, %v", there, err)
		}
		for range 2 {
			if err := removeBlocks(); err != nil {
				return err
			}
		}
		if there, err := Blocking(); err != nil || there {
			t.Errorf("still blocking: %t, %v", there, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
