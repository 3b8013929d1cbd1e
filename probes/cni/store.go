package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// maxFile bounds one file of a CNI configuration; real ones have a few KiB.
	maxFile = 1 << 20
	// maxFiles bounds a folder of them.
	maxFiles = 100
	// retired is appended to the name of a file that is not to be read any
	// more: container runtimes read .conf, .conflist and .json alone.
	retired = ".portcullis-retired"
	// partial is appended to the name of a file that is being written.
	partial = ".portcullis-partial"
	// index is the file that makes a saved copy complete.
	index = "snapshot.json"
)

// Store changes the folder that the container runtime reads its CNI
// configuration from, and keeps what was in it in another folder of the node,
// which survives reboots. Paths are resolved inside these two, so that a symbolic
// link cannot lead out of them.
type Store struct {
	conf, keep *os.Root
}

// OpenStore opens both folders; conf must exist, keep is made.
func OpenStore(conf, keep string) (*Store, error) {
	c, err := os.OpenRoot(conf)
	if err != nil {
		return nil, fmt.Errorf("cannot open the folder of CNI configurations: %w", err)
	}
	if err := os.MkdirAll(keep, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the folder for the saved CNI configuration: %w", err), c.Close())
	}
	k, err := os.OpenRoot(keep)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the folder for the saved CNI configuration: %w", err), c.Close())
	}
	return &Store{conf: c, keep: k}, nil
}

// Close closes both folders.
func (s *Store) Close() error { return errors.Join(s.conf.Close(), s.keep.Close()) }

// File is one file of a CNI configuration. Its content stays on the node: some
// hold credentials.
type File struct {
	Name   string      `json:"name"`
	Mode   fs.FileMode `json:"mode"`
	SHA256 string      `json:"sha256"`
	// Network and Plugins are what a network configuration is called and made
	// of; empty for other files.
	Network string   `json:"network,omitempty"`
	Plugins []string `json:"plugins,omitempty"`
	// IPAM is the address management of the first plugin that has one.
	IPAM string `json:"ipam,omitempty"`
}

// Config tells whether a container runtime would read the file as a network's configuration.
func (f File) Config() bool { return isConfig(f.Name) }

func isConfig(name string) bool {
	switch path.Ext(name) {
	case ".conf", ".conflist", ".json":
		return true
	}
	return false
}

// Active is the configuration that the container runtime uses: the first by name.
// It is nil where there is none.
func Active(files []File) *File {
	for i := range files {
		if files[i].Config() {
			return &files[i]
		}
	}
	return nil
}

// Read lists the files that are there now, by name.
func (s *Store) Read() ([]File, error) {
	names, err := list(s.conf)
	if err != nil {
		return nil, fmt.Errorf("cannot list the CNI configurations: %w", err)
	}
	files := make([]File, 0, len(names))
	for _, name := range names {
		file, _, err := read(s.conf, name)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

func list(root *os.Root) ([]string, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > maxFiles {
		return nil, fmt.Errorf("it has more than %d entries", maxFiles)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && !leftover(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func read(root *os.Root, name string) (File, []byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return File{}, nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return File{}, nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return File{}, nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if len(data) > maxFile {
		return File{}, nil, fmt.Errorf("%s is larger than 1 MiB, which no CNI configuration is", name)
	}
	file := File{Name: name, Mode: st.Mode().Perm(), SHA256: sum(data)}
	if isConfig(name) {
		file.Network, file.Plugins, file.IPAM = describe(data)
	}
	return file, data, nil
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// describe reads what a configuration, a list of plugins or one plugin, is made
// of. What cannot be read is left empty: the file is saved and put back all the same.
func describe(data []byte) (network string, plugins []string, ipam string) {
	type plugin struct {
		Type string `json:"type"`
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	var conf struct {
		Name    string   `json:"name"`
		Plugins []plugin `json:"plugins"`
		plugin
	}
	if json.Unmarshal(data, &conf) != nil {
		return "", nil, ""
	}
	if len(conf.Plugins) == 0 && conf.Type != "" {
		conf.Plugins = []plugin{conf.plugin}
	}
	for _, p := range conf.Plugins {
		plugins = append(plugins, p.Type)
		if ipam == "" {
			ipam = p.IPAM.Type
		}
	}
	return conf.Name, plugins, ipam
}

// Snapshot is what a node's CNI configuration was before a migration.
type Snapshot struct {
	Migration string    `json:"migration"`
	TakenAt   time.Time `json:"takenAt"`
	Files     []File    `json:"files"`
}

var migrationName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)

// Save keeps a copy of every file. The first copy of a migration stays: what is
// saved again later may be half swapped.
func (s *Store) Save(migration string, now time.Time) (*Snapshot, error) {
	if saved, err := s.Saved(migration); saved != nil || err != nil {
		return saved, err
	}
	names, err := list(s.conf)
	if err != nil {
		return nil, fmt.Errorf("cannot list the CNI configurations: %w", err)
	}
	if err := s.keep.MkdirAll(migration, 0o700); err != nil {
		return nil, fmt.Errorf("cannot save the CNI configuration: %w", err)
	}
	snap := &Snapshot{Migration: migration, TakenAt: now.UTC().Truncate(time.Second)}
	for _, name := range names {
		file, data, err := read(s.conf, name)
		if err != nil {
			return nil, err
		}
		if err := write(s.keep, path.Join(migration, "files-"+name), data, 0o600); err != nil {
			return nil, fmt.Errorf("cannot save %s: %w", name, err)
		}
		snap.Files = append(snap.Files, file)
	}
	data, err := json.Marshal(snap)
	if err != nil {
		return nil, err
	}
	// Written last: without it there is no copy, with it there is a whole one.
	if err := write(s.keep, path.Join(migration, index), data, 0o600); err != nil {
		return nil, fmt.Errorf("cannot save the CNI configuration: %w", err)
	}
	return snap, nil
}

// Saved reads the copy of a migration; nil where there is none.
func (s *Store) Saved(migration string) (*Snapshot, error) {
	if !migrationName.MatchString(migration) {
		return nil, fmt.Errorf("%q cannot name a migration", migration)
	}
	_, data, err := read(s.keep, path.Join(migration, index))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var snap Snapshot
	if err := json.Unmarshal(data, &snap); err != nil {
		return nil, fmt.Errorf("the saved CNI configuration of %s cannot be read: %w", migration, err)
	}
	return &snap, nil
}

// Retire takes configurations out of the container runtime's sight, in one step
// each. They must have been saved, as they are; ones that are gone are passed over.
func (s *Store) Retire(migration string, names ...string) error {
	snap, err := s.Saved(migration)
	if err != nil {
		return err
	}
	if snap == nil {
		return fmt.Errorf("the CNI configuration was not saved for %s, so nothing of it is taken away", migration)
	}
	for _, name := range names {
		file, _, err := read(s.conf, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(snap.Files, func(f File) bool { return f.Name == name && f.SHA256 == file.SHA256 }) {
			return fmt.Errorf("%s was changed after it was saved for %s; look at it, and put it back or remove it", name, migration)
		}
		if err := s.conf.Rename(name, name+retired); err != nil {
			return fmt.Errorf("cannot retire %s: %w", name, err)
		}
	}
	return syncDir(s.conf)
}

// Restore makes the configurations what they were when they were saved: first it writes what
// is missing or changed, of other files only what is missing, and then retires the configurations that were not there.
// The container runtime sees the old or the new configuration at every moment, and
// never none.
func (s *Store) Restore(migration string) (*Snapshot, error) {
	snap, err := s.Saved(migration)
	if err != nil {
		return nil, err
	}
	if snap == nil {
		return nil, fmt.Errorf("no CNI configuration was saved for %s", migration)
	}
	was := map[string]bool{}
	for _, file := range snap.Files {
		was[file.Name] = true
		// Credentials are renewed all the time: those that are there are the better ones.
		if _, err := s.conf.Stat(file.Name); err == nil && !isConfig(file.Name) {
			continue
		}
		if err := s.putBack(migration, file); err != nil {
			return nil, err
		}
	}
	names, err := list(s.conf)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if isConfig(name) && !was[name] {
			if err := s.conf.Rename(name, name+retired); err != nil {
				return nil, fmt.Errorf("cannot retire %s: %w", name, err)
			}
		}
	}
	return snap, syncDir(s.conf)
}

func (s *Store) putBack(migration string, file File) error {
	if now, _, err := read(s.conf, file.Name); err == nil && now.SHA256 == file.SHA256 && now.Mode == file.Mode {
		return nil
	}
	saved, data, err := read(s.keep, path.Join(migration, "files-"+file.Name))
	if err != nil {
		return err
	}
	if saved.SHA256 != file.SHA256 {
		return fmt.Errorf("the saved copy of %s is damaged: its hash is not the one that was recorded", file.Name)
	}
	if err := write(s.conf, file.Name, data, file.Mode); err != nil {
		return fmt.Errorf("cannot put %s back: %w", file.Name, err)
	}
	return nil
}

// Leftovers lists what was taken out of the container runtime's sight, and what was not
// written to its end.
func (s *Store) Leftovers() (names []string, err error) {
	dir, err := s.conf.Open(".")
	if err != nil {
		return nil, err
	}
	entries, err := dir.ReadDir(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return nil, fmt.Errorf("cannot list the CNI configurations: %w", err)
	}
	for _, e := range entries {
		if leftover(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func leftover(name string) bool {
	return strings.HasSuffix(name, retired) || strings.HasSuffix(name, partial)
}

// Discard removes one of the Leftovers, where the migration has a copy of
// what was there before it.
func (s *Store) Discard(migration, name string) error {
	snap, err := s.Saved(migration)
	if err != nil {
		return err
	}
	if snap == nil {
		return fmt.Errorf("the CNI configuration was not saved for %s, so nothing of it is taken away", migration)
	}
	if !leftover(name) {
		return fmt.Errorf("%s is in use, and not removed", name)
	}
	if err := ignoreMissing(s.conf.Remove(name)); err != nil {
		return fmt.Errorf("cannot remove %s: %w", name, err)
	}
	return syncDir(s.conf)
}

// Forget removes a migration's copy and what it retired, when nothing is to be
// put back any more.
func (s *Store) Forget(migration string) error {
	if _, err := s.Saved(migration); err != nil {
		return err
	}
	dir, err := s.conf.Open(".")
	if err != nil {
		return err
	}
	entries, err := dir.ReadDir(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("cannot list the CNI configurations: %w", err)
	}
	for _, e := range entries {
		if leftover(e.Name()) {
			if err := s.conf.Remove(e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot remove %s: %w", e.Name(), err)
			}
		}
	}
	if err := s.keep.RemoveAll(migration); err != nil {
		return fmt.Errorf("cannot remove the saved CNI configuration of %s: %w", migration, err)
	}
	return errors.Join(syncDir(s.conf), syncDir(s.keep))
}

// write puts a file in place whole or not at all, also when the node loses power.
func write(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	part := name + partial
	f, err := root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	// The mask of the process does not apply to what is put back as it was.
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = root.Rename(part, name)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(root.Remove(part)))
	}
	return syncAt(root, path.Dir(name))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(root *os.Root) error { return syncAt(root, ".") }

func syncAt(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
