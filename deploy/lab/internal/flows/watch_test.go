package flows

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// namespace is a process in a network namespace of its own, with loopback up.
func namespace(t *testing.T) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	cmd := exec.Command("unshare", "-n", "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	// Not /proc/self: the first thread may have been left in a namespace.
	runtime.LockOSThread()
	own, err := os.Readlink("/proc/thread-self/ns/net")
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		ns, err := os.Readlink("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/net")
		if err == nil && ns != own {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the namespace was not made")
		}
	}
	inside(t, cmd.Process.Pid, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return cmd.Process.Pid
}

// inside runs f in the network namespace of a process.
func inside(t *testing.T, pid int, f func() error) {
	t.Helper()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // never given back: it ends with the goroutine
		ns, err := netns.GetFromPid(pid)
		if err == nil {
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// echo serves on a port inside; it is closed by what it returns.
func echo(t *testing.T, pid int, address string) func() {
	t.Helper()
	var l net.Listener
	inside(t, pid, func() (err error) { l, err = net.Listen("tcp4", address); return err })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	return func() { _ = l.Close() }
}

func TestWatch(t *testing.T) {
	pid := namespace(t)
	stop := echo(t, pid, "127.0.0.1:8000")
	echo(t, pid, "127.0.0.1:8001")
	from := Pod{Name: "a", Node: "n1", PID: pid}
	to := func(name string) Pod { return Pod{Name: name, Node: "n2", IP: "127.0.0.1"} }
	w, err := Start(context.Background(), []Flow{
		{From: from, To: to("goes"), Port: 8000, Allowed: true},
		{From: from, To: to("stays"), Port: 8001, Allowed: true},
		{From: from, To: to("open"), Port: 8001},
		{From: from, To: to("refuses"), Port: 8002},
		{From: from, To: to("held"), Port: 8001, Allowed: true, Held: true},
	}, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond)
	w.Mark("the server goes")
	stop()
	time.Sleep(400 * time.Millisecond)
	r, err := w.Stop()
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]Seen{}
	for _, s := range r.Flows {
		bad[s.To.Name] = s
	}
	if s := bad["goes"]; len(s.Bad) < 5 || s.Bad[len(s.Bad)-1].Why != "refused" || len(s.Gaps(r.Every)) == 0 {
		t.Errorf("goes: %d of %d bad, gaps %v", len(s.Bad), s.Tries, s.Gaps(r.Every))
	}
	if s := bad["stays"]; len(s.Bad) > 0 || s.Tries < 5 {
		t.Errorf("stays: %+v", s)
	}
	for _, name := range []string{"open", "refuses"} {
		if s := bad[name]; len(s.Bad) < 5 || s.Bad[0].Why != "open" {
			t.Errorf("%s is denied and answered, and counts %d of %d", name, len(s.Bad), s.Tries)
		}
	}
	if s := bad["held"]; s.Broken != "" || len(s.Bad) > 0 {
		t.Errorf("held: %+v", s)
	}
	totals := r.Totals()
	if totals.Held != 1 || totals.HeldLost != 0 || totals.Opened == 0 || totals.Worst != "a to goes" || totals.Longest < 50*time.Millisecond {
		t.Errorf("totals: %+v", totals)
	}
	if picture := r.SVG("a test"); !strings.Contains(picture, "the server goes") || !strings.Contains(picture, "n1 to n2") || !strings.Contains(picture, colourOpen) {
		t.Error("the picture lacks the event, the flow or that one was open")
	}
}

func TestHeldConnectionThatBreaks(t *testing.T) {
	pid := namespace(t)
	var l net.Listener
	inside(t, pid, func() (err error) { l, err = net.Listen("tcp4", "127.0.0.1:8000"); return err })
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if c, err := l.Accept(); err == nil {
			_, _ = c.Read(make([]byte, 1)) // it was in use
			_ = c.Close()
		}
	}()
	defer l.Close()
	w, err := Start(context.Background(), []Flow{{From: Pod{Name: "a", PID: pid}, To: Pod{Name: "b", IP: "127.0.0.1"}, Port: 8000, Allowed: true, Held: true}}, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	<-closed
	time.Sleep(300 * time.Millisecond)
	r, err := w.Stop()
	if err != nil || r.Totals().HeldLost != 1 {
		t.Errorf("totals %+v, %v", r.Totals(), err)
	}
}

func TestStartFailsWhereThereIsNoPod(t *testing.T) {
	if _, err := Start(context.Background(), []Flow{{From: Pod{Name: "gone", PID: 1 << 30}, To: Pod{IP: "127.0.0.1"}, Port: 1}}, time.Second); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("error %v", err)
	}
}

func TestGaps(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	s := Seen{
		Bad: []Try{{At: at(100)}, {At: at(150)}, {At: at(210)}, {At: at(1000)}, {At: at(1200)}},
		ok:  []time.Time{at(50), at(260), at(900), at(1050)},
	}
	gaps := s.Gaps(50 * time.Millisecond)
	// From the first failure to the next success; the last has none.
	want := []Gap{{at(100), 160 * time.Millisecond, 3}, {at(1000), 50 * time.Millisecond, 1}, {at(1200), 50 * time.Millisecond, 1}}
	if !slices.Equal(gaps, want) {
		t.Errorf("gaps: %v, want %v", gaps, want)
	}
	if s.Longest(50*time.Millisecond) != want[0] {
		t.Errorf("longest: %v", s.Longest(50*time.Millisecond))
	}
}

// What counts of a flow whose pod is new or goes.
func TestSeen(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	bad := []Try{{At: at(0)}, {At: at(100)}, {At: at(300)}, {At: at(900)}}
	flow := Flow{Allowed: true}
	for name, c := range map[string]struct {
		track *track
		want  int
	}{
		"all of it":              {&track{Flow: flow, bad: bad}, 4},
		"until it ended":         {&track{Flow: flow, bad: bad, until: at(300)}, 2},
		"from its first success": {&track{Flow: flow, bad: bad, settling: true, began: at(0), ok: []time.Time{at(200)}}, 2},
		"from five seconds on":   {&track{Flow: flow, bad: append(bad, Try{At: at(5000)}), settling: true, began: at(0)}, 1},
		"denied, at once":        {&track{bad: bad, settling: true, began: at(0)}, 4},
	} {
		if got := c.track.seen(at(9000)); len(got.Bad) != c.want {
			t.Errorf("%s: %d failures, want %d", name, len(got.Bad), c.want)
		}
	}
}

// A byte that arrived, and that nobody echoes, was not lost.
func TestHeldConnectionThatIsSlow(t *testing.T) {
	pid := namespace(t)
	var l net.Listener
	inside(t, pid, func() (err error) { l, err = net.Listen("tcp4", "127.0.0.1:8000"); return err })
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			<-t.Context().Done()
		}
	}()
	w, err := Start(context.Background(), []Flow{{From: Pod{Name: "a", PID: pid}, To: Pod{Name: "b", IP: "127.0.0.1"}, Port: 8000, Allowed: true, Held: true}}, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(timeout + 400*time.Millisecond)
	r, err := w.Stop()
	if totals := r.Totals(); err != nil || totals.HeldSlow == 0 || totals.HeldLate != 0 || totals.HeldLost != 0 {
		t.Errorf("totals %+v, %v", totals, err)
	}
}

// A held connection that is silent at the end is lost, though nobody has closed it.
func TestSilentToTheEnd(t *testing.T) {
	start := time.Unix(100, 0)
	for seconds, lost := range map[int]bool{2: false, 7: true} {
		tr := track{Flow: Flow{Allowed: true, Held: true}, began: start, heard: start.Add(time.Minute)}
		if s := tr.seen(start.Add(time.Minute + time.Duration(seconds)*time.Second)); (s.Broken != "") != lost {
			t.Errorf("silent for %d s: %q", seconds, s.Broken)
		}
	}
}
