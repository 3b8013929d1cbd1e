package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// lineBreak is what host-local puts between container and interface
// (plugins/ipam/host-local/backend/disk of containernetworking/plugins).
const lineBreak = "\r\n"

// restore puts host-local's entries back before the configuration: from the moment
// that host-local gives addresses again, it knows which are taken.
func (o *operation) restore(ctx context.Context) error {
	snap, err := o.store.Saved(o.Migration)
	if err != nil {
		return err
	}
	if snap == nil {
		return fmt.Errorf("no CNI configuration was saved for %s", o.Migration)
	}
	if err := o.restoreAddresses(ctx); err != nil {
		return err
	}
	before, err := o.store.Read()
	if err != nil {
		return err
	}
	if _, err := o.store.Restore(o.Migration); err != nil {
		return err
	}
	after, err := o.store.Read()
	if err != nil {
		return err
	}
	o.noteFiles(before, after)
	return nil
}

// noteFiles says which files differ.
func (o *operation) noteFiles(before, after []File) {
	was := map[string]File{}
	for _, f := range before {
		was[f.Name] = f
	}
	for _, f := range after {
		if w, there := was[f.Name]; !there || w.SHA256 != f.SHA256 || w.Mode != f.Mode {
			o.changed("put %s back", f.Name)
		}
		delete(was, f.Name)
	}
	for _, f := range before {
		if _, gone := was[f.Name]; gone {
			o.changed("retired %s", f.Name)
		}
	}
}

// restoreAddresses writes host-local's entries. An entry of another container makes
// it fail before anything is written.
func (o *operation) restoreAddresses(ctx context.Context) error {
	if len(o.Addresses) == 0 {
		return nil
	}
	root, err := os.OpenRoot(o.host.Networks)
	if err != nil {
		return fmt.Errorf("cannot open host-local's folder: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll(o.Network, 0o755); err != nil {
		return fmt.Errorf("cannot make host-local's folder of %s: %w", o.Network, err)
	}
	lock, err := root.OpenFile(path.Join(o.Network, "lock"), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open host-local's lock: %w", err)
	}
	defer lock.Close()
	if err := flock(ctx, lock); err != nil {
		return fmt.Errorf("cannot take host-local's lock of %s: %w", o.Network, err)
	}
	if err := ignoreMissing(root.Remove(partialEntry)); err != nil {
		return fmt.Errorf("cannot remove what an earlier attempt left: %w", err)
	}
	var write []Address
	for _, a := range o.Addresses {
		there, err := o.reserved(root, a)
		if err != nil {
			return err
		}
		if !there {
			write = append(write, a)
		}
	}
	for _, a := range write {
		if err := o.reserve(root, a); err != nil {
			return fmt.Errorf("cannot write host-local's entry of %s: %w", a.IP, err)
		}
	}
	if len(write) > 0 {
		o.changed("wrote %d addresses for host-local", len(write))
	}
	return syncAt(root, o.Network)
}

// entry is host-local's file of an address, inside its folder.
func (o *operation) entry(a Address) string { return path.Join(o.Network, a.IP.String()) }

// reserved tells whether the entry is there. One without a container, as of a
// host-local that was killed in its middle, is none.
func (o *operation) reserved(root *os.Root, a Address) (bool, error) {
	f, err := root.Open(o.entry(a))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read host-local's entry of %s: %w", a.IP, err)
	}
	defer f.Close()
	data := make([]byte, 1024)
	n, _ := f.Read(data)
	container, device, _ := strings.Cut(strings.TrimSpace(string(data[:n])), lineBreak)
	switch {
	case container == "":
		return false, nil
	case container == a.Container && (device == "" || device == a.Interface):
		return true, nil
	}
	return false, fmt.Errorf("host-local has given %s to container %.64q, not to %s: see which of the two has it, and remove %s where it is the other",
		a.IP, container, a.Container, path.Join("/var/lib/cni/networks", o.entry(a)))
}

// partialEntry is an entry that is being written. It is outside the network's
// folder, in which host-local takes every file for an entry.
const partialEntry = ".portcullis" + partial

// reserve writes an entry whole or not at all.
func (o *operation) reserve(root *os.Root, a Address) error {
	f, err := root.OpenFile(partialEntry, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(a.Container + lineBreak + a.Interface)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = root.Rename(partialEntry, o.entry(a))
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(root.Remove(partialEntry)))
	}
	return nil
}
