package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Marker is the environment variable that every process of a lab carries, with
// the state directory as its value. It finds them when state.json is lost.
const Marker = "PORTCULLIS_LAB_OF"

// GuestMarker is carried, in its place, by what only uses the lab and is to go
// with it: the demo's Temporal and Portcullis. `up` leaves them alone.
const GuestMarker = "PORTCULLIS_LAB_GUEST_OF"

// Process is one process, told from any later one with the same number by its start time.
type Process struct {
	PID int `json:"pid"`
	// Start is the time of its start in clock ticks since the boot.
	Start uint64 `json:"start"`
}

// Identify reads the start time of a running process.
func Identify(pid int) (Process, error) {
	start, _, err := stat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: start}, nil
}

// Alive says that this very process still runs.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	start, st, err := stat(p.PID)
	return err == nil && start == p.Start && st != 'Z' && st != 'X'
}

// Signal sends sig to this very process. The pidfd closes the gap between the
// check and the signal.
func (p Process) Signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return ignoreGone(err)
	}
	defer unix.Close(fd)
	if !p.Alive() {
		return nil
	}
	return ignoreGone(unix.PidfdSendSignal(fd, sig, nil, 0))
}

// End asks processes to end, and kills those that have not after grace.
func End(ps []Process, grace time.Duration) error {
	var errs []error
	if grace > 0 {
		errs = append(errs, signalAll(ps, unix.SIGTERM), nil)
		if waitGone(ps, grace) {
			return nil
		}
	}
	errs = append(errs, signalAll(ps, unix.SIGKILL))
	if !waitGone(ps, 10*time.Second) {
		for _, p := range ps {
			if p.Alive() {
				errs = append(errs, fmt.Errorf("process %d does not end", p.PID))
			}
		}
	}
	return errors.Join(errs...)
}

// Marked are all processes that carry the marker of the lab in dir, or of its
// guests, but not this process and those that it was started by.
func Marked(dir string) []Process {
	own, guest := []byte(Marker+"="+dir), []byte(GuestMarker+"="+dir)
	return withEnvironment(func(e []byte) bool { return bytes.Equal(e, own) || bytes.Equal(e, guest) })
}

// MarkedOthers are the processes of all labs but the one in dir.
func MarkedOthers(dir string) []Process {
	own := []byte(Marker + "=" + dir)
	return withEnvironment(func(e []byte) bool {
		return bytes.HasPrefix(e, []byte(Marker+"=")) && !bytes.Equal(e, own)
	})
}

func withEnvironment(match func(variable []byte) bool) []Process {
	own := ancestors(os.Getpid())
	var out []Process
	for _, pid := range PIDs() {
		if own[pid] {
			continue
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue
		}
		for e := range bytes.SplitSeq(env, []byte{0}) {
			if match(e) {
				if p, err := Identify(pid); err == nil {
					out = append(out, p)
				}
				break
			}
		}
	}
	return out
}

// Strays are processes of the lab in dir that are neither known nor descend from a known one.
func Strays(dir string, known map[int]bool) []Process {
	var out []Process
	own := []byte(Marker + "=" + dir)
	for _, p := range withEnvironment(func(e []byte) bool { return bytes.Equal(e, own) }) {
		related := false
		for a := range ancestors(p.PID) {
			related = related || known[a]
		}
		if !related {
			out = append(out, p)
		}
	}
	return out
}

// PIDs are the numbers of all processes.
func PIDs() []int {
	names, _ := filepath.Glob("/proc/[0-9]*")
	var out []int
	for _, n := range names {
		if pid, err := strconv.Atoi(filepath.Base(n)); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// Descends says that a process is another, or was started by it or by one of its descendants.
func Descends(pid, from int) bool { return ancestors(pid)[from] }

func ancestors(pid int) map[int]bool {
	out := map[int]bool{}
	for pid > 0 && !out[pid] {
		out[pid] = true
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		fields, err := statFields(b)
		if err != nil {
			break
		}
		pid, _ = strconv.Atoi(fields[1])
	}
	return out
}

func stat(pid int) (start uint64, st byte, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	f, err := statFields(b)
	if err != nil {
		return 0, 0, err
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	return start, f[0][0], err
}

// CPUTicks is the processor time that a process and its ended children have used, in clock ticks.
func CPUTicks(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f, err := statFields(b)
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, v := range f[11:15] {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// statFields are the fields after the command's name, which may hold spaces
// and brackets itself: state, parent and so on.
func statFields(b []byte) ([]string, error) {
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return nil, fmt.Errorf("unexpected process status %q", b)
	}
	return f, nil
}

func signalAll(ps []Process, sig unix.Signal) error {
	var errs []error
	for _, p := range ps {
		errs = append(errs, p.Signal(sig))
	}
	return errors.Join(errs...)
}

func waitGone(ps []Process, limit time.Duration) bool {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		alive := false
		for _, p := range ps {
			alive = alive || p.Alive()
		}
		if !alive {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
