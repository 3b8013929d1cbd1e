package cni

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// look tells what the node has. What cannot be read is in Unknown.
func (o *operation) look() State {
	s := State{Files: []File{}}
	unknown := func(err error) {
		if err != nil {
			s.Unknown = append(s.Unknown, oneLine(err.Error()))
		}
	}
	var err error
	s.BootID, err = o.bootID()
	unknown(err)
	unknown(o.lookFiles(&s))
	s.Devices, err = devices()
	unknown(err)
	s.Routes, err = o.routes()
	unknown(err)
	if o.store == nil {
		return s
	}
	found, failed := o.residues()
	for _, r := range found {
		s.Residue = append(s.Residue, r.what)
	}
	for _, err := range failed {
		unknown(err)
	}
	return s
}

func (o *operation) bootID() (string, error) {
	data, err := os.ReadFile(filepath.Join(o.host.Proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("cannot tell the boot ID: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func (o *operation) lookFiles(s *State) error {
	if o.store == nil {
		return nil
	}
	files, err := o.store.Read()
	if err != nil {
		return err
	}
	s.Files = files
	if o.Migration == "" {
		return nil
	}
	snap, err := o.store.Saved(o.Migration)
	s.Saved = snap != nil
	return err
}

// devices lists the VXLAN devices.
func devices() ([]Device, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list the devices: %w", err)
	}
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("cannot list the addresses: %w", err)
	}
	var out []Device
	for _, l := range links {
		v, ok := l.(*netlink.Vxlan)
		if !ok {
			continue
		}
		d := Device{Name: v.Name, VNI: v.VxlanId, Port: v.Port, MTU: v.MTU, Up: v.Flags&net.FlagUp != 0, MAC: v.HardwareAddr.String()}
		for _, a := range addresses {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && a.LinkIndex == v.Index && !ip.IsLinkLocalUnicast() {
				d.Address = append(d.Address, ip.Unmap())
			}
		}
		out = append(out, d)
	}
	return out, nil
}
