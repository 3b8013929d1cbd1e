package migrations

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// watched are the flows that are tried twenty times a second; both denials are of
// policies that the cluster has from its start.
var watched = []string{
	"--allow", "mesh:mesh:8080", "--allow", "edge:checkout:8443",
	"--deny", "edge:mesh:8080", "--deny", "mesh:checkout:8443",
	"--hold", "mesh:mesh:7000",
}

// watch is a `lab flows` that runs.
type watch struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	said *lines
	done chan error
}

// seen is what `lab flows` reports.
type seen struct {
	Tries, Failed, Flows, Late, Opened, Held, HeldLost int
	Longest                                            time.Duration
	Worst                                              string
	Bad                                                []struct {
		From, To      struct{ Name, Node string }
		Allowed, Held bool
		Bad           []struct {
			At  time.Time
			Why string
		}
		Broken string
	}
}

// watchFlows watches until the test ends, at the most.
func watchFlows(t *testing.T) *watch {
	t.Helper()
	w := beginWatch(t)
	t.Cleanup(w.kill)
	return w
}

func (w *watch) kill() { _ = w.cmd.Process.Kill() }

// beginWatch begins to watch, and returns once every flow is tried.
func beginWatch(t *testing.T) *watch {
	t.Helper()
	args := append([]string{"flows", cluster, "--for", "2h"}, watched...)
	w := &watch{cmd: exec.Command(filepath.Join(p.BinDir, "lab"), args...), said: &lines{}, done: make(chan error, 1)}
	w.cmd.Env = append(os.Environ(), "PORTCULLIS_LAB_DIR="+p.LabDir)
	w.cmd.Stdout, w.cmd.Stderr = &w.out, w.said
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, w.cmd.Start())
	go func() { w.done <- w.cmd.Wait() }()
	for end := time.Now().Add(time.Minute); !strings.Contains(w.said.String(), "watching"); time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-w.done:
			t.Fatalf("lab flows: %v: %s", err, w.said)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("lab flows does not begin: %s", w.said)
		}
	}
	return w
}

// stop ends the watch and tells what was seen.
func (w *watch) stop(t *testing.T) seen {
	t.Helper()
	must(t, w.cmd.Process.Signal(syscall.SIGINT))
	select {
	case err := <-w.done:
		if err != nil {
			t.Fatalf("lab flows: %v: %s", err, w.said)
		}
	case <-time.After(time.Minute):
		t.Fatalf("lab flows does not end: %s", w.said)
	}
	var s seen
	must(t, json.Unmarshal(w.out.Bytes(), &s))
	t.Logf("%d flows, %d tries: %d failed, %d times a denied one open, %d of %d held lost, %d ticks late; longest gap %s (%s)",
		s.Flows, s.Tries, s.Failed, s.Opened, s.HeldLost, s.Held, s.Late, s.Longest, s.Worst)
	return s
}

// unharmed wants no flow to have failed, and none that policy denies to have been
// open, but for those of nodes that are excused: one that boots loses its connections,
// and starts its pods before Felix, with Canal alone as well.
func (s seen) unharmed(t *testing.T, excused ...string) {
	t.Helper()
	if s.Tries == 0 || s.Held == 0 {
		t.Error("nothing was watched")
	}
	for _, f := range s.Bad {
		if slices.Contains(excused, f.From.Node) || slices.Contains(excused, f.To.Node) {
			continue
		}
		var tries []string
		for _, b := range f.Bad {
			tries = append(tries, b.At.Format("15:04:05.000 ")+b.Why)
		}
		t.Errorf("%s (%s) to %s (%s), allowed %t, held %t: %s %s", f.From.Name, f.From.Node, f.To.Name, f.To.Node, f.Allowed, f.Held, strings.Join(tries, ", "), f.Broken)
	}
}

// connected sees by connections of its own that pods reach each other, and are kept
// apart, as policies say. Pods of a node that has booted need a while.
func connected(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	args := append([]string{"flows", cluster, "--for", "3s"}, watched...)
	wrong := ""
	for ctx.Err() == nil {
		var s seen
		text, err := p.Lab(ctx, args...)
		if err == nil {
			err = json.Unmarshal([]byte(text), &s)
		}
		if s.Opened > 0 {
			t.Errorf("%d times a flow that policy denies was open", s.Opened)
		}
		if err == nil && s.Failed+s.HeldLost == 0 && s.Tries > 0 {
			return
		}
		wrong = fmt.Sprintf("%d of %d failed, %d of %d held lost, %v", s.Failed, s.Tries, s.HeldLost, s.Held, err)
	}
	t.Errorf("pods are not connected as they were: %s", wrong)
}

// lines is a writer that can be read meanwhile.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
