// Package state remembers on disk everything that the lab made on the machine,
// so that `lab down` can take it away again after any crash.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

const fileName = "state.json"

// Data is what state.json holds.
type Data struct {
	// BootID tells process numbers of this boot from those of an earlier one.
	BootID string        `json:"bootID"`
	Plan   topology.Plan `json:"plan"`
	// Ready says that `lab up` came to its end.
	Ready     bool              `json:"ready"`
	Processes map[string]Record `json:"processes"`
	// Dirs are folders that the machine did not have, in the order of their making.
	Dirs []string `json:"dirs"`
	// Images are the references that change with every build.
	Images Images `json:"images"`
	// Faults are in force.
	Faults []fault.Fault `json:"faults,omitempty"`
}

// Record is a process with what it takes to start it again.
type Record struct {
	Process
	Command []string `json:"command"`
	// NetNS and Node say where it runs: in a network namespace alone, or in all
	// namespaces of a node.
	NetNS string `json:"netNS,omitempty"`
	Node  string `json:"node,omitempty"`
}

// Images of the repository's own programs, as loaded into the nodes.
type Images struct {
	Portcullis string `json:"portcullis"`
	Workload   string `json:"workload"`
}

// Store is state.json, held by one program at a time.
type Store struct {
	// Damage is why the record could not be read. Only taking the lab away, which
	// finds things by their names too, may go on with it.
	Damage error

	dir  string
	lock *os.File

	mu   sync.Mutex
	data Data
}

// ErrBusy says that another program changes this lab right now.
var ErrBusy = errors.New("another lab command is running on this state directory; wait for it to end")

// Open reads the state in dir and locks it until Close. A file that is missing
// gives an empty state; so does a damaged one, with the error in Damage.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s: %w", dir, ErrBusy)
	}
	data, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return &Store{dir: dir, lock: lock, data: data, Damage: err}, nil
}

// Read returns the state in dir without locking it, for commands that only look.
func Read(dir string) (Data, error) {
	d := Data{Processes: map[string]Record{}}
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return Data{Processes: map[string]Record{}}, fmt.Errorf("%s is damaged: %w; `lab down` works all the same", filepath.Join(dir, fileName), err)
	}
	if d.Processes == nil {
		d.Processes = map[string]Record{}
	}
	return d, nil
}

// Close lets other programs in.
func (s *Store) Close() { s.lock.Close() }

// Get returns a copy of the state.
func (s *Store) Get() Data {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.data
	d.Dirs, d.Faults = slices.Clone(d.Dirs), slices.Clone(d.Faults)
	d.Processes = make(map[string]Record, len(s.data.Processes))
	for k, v := range s.data.Processes {
		d.Processes[k] = v
	}
	return d
}

// Update changes the state and writes it to disk before it returns.
func (s *Store) Update(change func(*Data)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.data)
	b, err := json.MarshalIndent(s.data, "", " ")
	if err != nil {
		return err
	}
	file := filepath.Join(s.dir, fileName)
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// MakeDir makes a folder and its parents on the machine, and remembers each that was not there.
func (s *Store) MakeDir(path string) error {
	var missing []string
	for p := filepath.Clean(path); p != "/"; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil {
			break
		}
		missing = append(missing, p)
	}
	slices.Reverse(missing)
	for _, p := range missing {
		if err := s.Update(func(d *Data) {
			if !slices.Contains(d.Dirs, p) {
				d.Dirs = append(d.Dirs, p)
			}
		}); err != nil {
			return err
		}
		if err := os.Mkdir(p, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// BootID of the running kernel.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
