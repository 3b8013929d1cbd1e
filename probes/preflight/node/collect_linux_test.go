package node

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes/preflight"
)

// One fact that cannot be had in time, as when a file system hangs, costs that fact alone.
func TestAFactThatHangsIsUnknown(t *testing.T) {
	root, err := openTree(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.close()
	c := &collector{proc: t.TempDir(), root: root}
	pipe := filepath.Join(c.proc, "meminfo")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Lets go whoever still reads.
		if f, err := os.OpenFile(pipe, os.O_RDWR, 0); err == nil {
			time.Sleep(10 * time.Millisecond)
			f.Close()
		}
	})
	if err := os.WriteFile(filepath.Join(c.proc, "loadavg"), []byte("0.1 0.5 0.2 1/2 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.proc, "stat"), []byte("cpu 1\ncpu0 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	got := make(chan *preflight.NodeFacts, 1)
	most := 0
	go func() { got <- c.collect(ctx, func(done, _ int) { most = done }) }()
	select {
	case f := <-got:
		if f.Memory.Known || f.Memory.Why != "measuring it took longer than 8s" || f.CPU.Value.Load5 != 0.5 || most == 0 {
			t.Errorf("memory %+v, CPU %+v, %d were measured", f.Memory, f.CPU, most)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it waits for ever")
	}
}

// Of a program of the node, no more is kept than a version needs.
func TestAskKeepsLittle(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing the root needs root")
	}
	program := filepath.Join(t.TempDir(), "iptables")
	text := "#!/bin/sh\necho 'iptables v1.8.9 (nf_tables)'\nhead -c 10000000 /dev/zero\n"
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := (&collector{root: &tree{path: "/"}}).ask(t.Context(), program)
	if err != nil || len(out) > 4096 || !strings.HasPrefix(out, "iptables v1.8.9") {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestOneLineCutsNoLetter(t *testing.T) {
	if s := oneLine("xy\n " + strings.Repeat("ö", 400)); !utf8.ValidString(s) || len(s) > 300 || !strings.HasPrefix(s, "xy ö") {
		t.Errorf("%q", s)
	}
}
