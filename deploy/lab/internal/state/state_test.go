package state

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestStoreSurvives(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("second Open: %v, want ErrBusy", err)
	}
	if err := s.Update(func(d *Data) {
		d.BootID = "b"
		d.Processes = map[string]Record{"etcd": {Process: Process{PID: 7, Start: 9}}}
	}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s, err = Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if d := s.Get(); d.BootID != "b" || d.Processes["etcd"].Process != (Process{PID: 7, Start: 9}) {
		t.Errorf("state %+v", d)
	}
}

func TestReadRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil {
		t.Error("a damaged file was read")
	}
}

func TestMakeDirRemembersOnlyWhatWasMissing(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	root := t.TempDir()
	for range 2 {
		if err := s.MakeDir(filepath.Join(root, "a", "b")); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{filepath.Join(root, "a"), filepath.Join(root, "a", "b")}
	if got := s.Get().Dirs; !slices.Equal(got, want) {
		t.Errorf("dirs %v, want %v", got, want)
	}
}

func TestProcessIdentity(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.Env = append(os.Environ(), Marker+"=/the/lab")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	p, err := Identify(cmd.Process.Pid)
	if err != nil || !p.Alive() {
		t.Fatalf("identify: %+v %v", p, err)
	}
	recycled := Process{PID: p.PID, Start: p.Start + 1}
	if recycled.Alive() {
		t.Error("a process with another start time counts as alive")
	}
	if err := End([]Process{recycled}, time.Second); err != nil {
		t.Error(err)
	}
	// The environment shows once the child has become the program.
	for end := time.Now().Add(5 * time.Second); !slices.Contains(Marked("/the/lab"), p); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the marked process was not found")
		}
	}
	if !slices.Contains(Strays("/the/lab", nil), p) || slices.Contains(Strays("/the/lab", map[int]bool{p.PID: true}), p) {
		t.Error("a process of the lab is a stray where it is not recorded, and only there")
	}
	if slices.Contains(Marked("/the"), p) {
		t.Error("a process of another lab was found")
	}
	if err := End([]Process{p}, time.Second); err != nil {
		t.Error(err)
	}
	<-done
	if p.Alive() {
		t.Error("still alive")
	}
}

// What only uses the lab goes with it, and is not taken for a leftover of it.
func TestGuestsAreNoStrays(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.Env = append(os.Environ(), GuestMarker+"=/the/lab")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	p, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); !slices.Contains(Marked("/the/lab"), p); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the guest would not go with the lab")
		}
	}
	if slices.Contains(Strays("/the/lab", nil), p) {
		t.Error("a guest is ended as a stray")
	}
}

func TestStatFieldsWithOddName(t *testing.T) {
	f, err := statFields([]byte("12 (a) b ) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20"))
	if err != nil || f[0] != "S" || f[1] != "1" || f[19] != "777" {
		t.Errorf("%v %v", f, err)
	}
}
