package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"portcullis.dev/portcullis/probes/dialogue"
)

// What a Request may hold.
const (
	MaxPeers     = 5000
	MaxAddresses = 4096
	// DefaultTimeout holds where a request has none.
	DefaultTimeout = 30 * time.Second
	MaxTimeout     = 5 * time.Minute
)

var (
	// deviceName is what the kernel takes, without what would be odd in a message.
	deviceName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`)
	// cniName is what the CNI specification lets networks and containers be called.
	cniName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,252}$`)
)

// ParseRequest reads and validates a request. The error is one line that says
// what is wrong and where.
func ParseRequest(data []byte) (*Request, error) {
	return dialogue.Parse(data, Version, (*Request).validate)
}

// timeout is how long the Op may take.
func (r *Request) timeout() time.Duration {
	if r.TimeoutMS == 0 {
		return DefaultTimeout
	}
	return time.Duration(r.TimeoutMS) * time.Millisecond
}

func (r *Request) validate() error {
	if limit := int(MaxTimeout.Milliseconds()); r.TimeoutMS < 0 || r.TimeoutMS > limit {
		return fmt.Errorf("timeoutMS: %d is not between 0 and %d", r.TimeoutMS, limit)
	}
	if r.Migration != "" && !migrationName.MatchString(r.Migration) {
		return fmt.Errorf("migration: %q cannot name a migration", r.Migration)
	}
	for _, d := range []struct{ field, name string }{{"device", r.Device}, {"calico", r.Calico}} {
		if d.name != "" && !deviceName.MatchString(d.name) {
			return fmt.Errorf("%s: %q cannot name a network device", d.field, d.name)
		}
	}
	if r.Network != "" && !cniName.MatchString(r.Network) {
		return fmt.Errorf("network: %q cannot name a CNI network", r.Network)
	}
	if err := r.validatePeers(); err != nil {
		return err
	}
	if err := r.validateAddresses(); err != nil {
		return err
	}
	return r.validateOp()
}

// needs names the fields that an Op cannot do without.
var needs = map[Op][]string{
	OpLook:    nil,
	OpSave:    {"migration"},
	OpSpares:  {"device"},
	OpPing:    {"device"},
	OpLeave:   {"device", "calico"},
	OpEnter:   {"device"},
	OpRestore: {"migration"},
	OpUnlink:  {"device"},
	OpClean:   {"migration"},
	OpForget:  {"migration"},
}

func (r *Request) validateOp() error {
	fields, known := needs[r.Op]
	if !known {
		return fmt.Errorf("op: %q is not one of look, save, spares, ping, leave, enter, restore, unlink, clean, forget", r.Op)
	}
	given := map[string]string{"migration": r.Migration, "device": r.Device, "calico": r.Calico}
	for _, f := range fields {
		if given[f] == "" {
			return fmt.Errorf("%s: %s cannot be done without it", f, r.Op)
		}
	}
	if r.Op != OpPing && r.Device != "" && r.Device == r.Calico {
		return fmt.Errorf("calico: %s cannot be flannel's device and Calico's", r.Device)
	}
	if r.Op == OpRestore && len(r.Addresses) > 0 && r.Network == "" {
		return errors.New("network: addresses cannot be restored without it")
	}
	return nil
}

// validatePeers sees that peers are IPv4 networks, none a part of another.
func (r *Request) validatePeers() error {
	if len(r.Peers) > MaxPeers {
		return fmt.Errorf("peers: %d are more than %d", len(r.Peers), MaxPeers)
	}
	for i, p := range r.Peers {
		if err := podNetwork(p); err != nil {
			return fmt.Errorf("peers[%d]: %w", i, err)
		}
	}
	all := slices.Clone(r.Peers)
	if r.Own != (netip.Prefix{}) {
		if err := podNetwork(r.Own); err != nil {
			return fmt.Errorf("own: %w", err)
		}
		all = append(all, r.Own)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	for i := 1; i < len(all); i++ {
		if all[i-1].Overlaps(all[i]) {
			return fmt.Errorf("peers: %s and %s overlap", all[i-1], all[i])
		}
	}
	return nil
}

func podNetwork(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("it is not a network")
	case !p.Addr().Is4():
		return fmt.Errorf("%s is not an IPv4 network", p)
	case p != p.Masked():
		return fmt.Errorf("%s is not a network: did you mean %s?", p, p.Masked())
	case p.Bits() < 8 || p.Bits() > 30:
		return fmt.Errorf("%s is not between /8 and /30", p)
	}
	return nil
}

func (r *Request) validateAddresses() error {
	if len(r.Addresses) > MaxAddresses {
		return fmt.Errorf("addresses: %d are more than %d", len(r.Addresses), MaxAddresses)
	}
	seen := map[netip.Addr]bool{}
	for i, a := range r.Addresses {
		switch {
		case !a.IP.IsValid() || a.IP.Zone() != "" || a.IP.Is4In6():
			return fmt.Errorf("addresses[%d].ip: %q is not a pod's address", i, a.IP)
		case r.Own.IsValid() && !r.Own.Contains(a.IP):
			return fmt.Errorf("addresses[%d].ip: %s is not in the node's pod network %s", i, a.IP, r.Own)
		case seen[a.IP]:
			return fmt.Errorf("addresses[%d].ip: %s is there twice", i, a.IP)
		case !cniName.MatchString(a.Container):
			return fmt.Errorf("addresses[%d].container: %q cannot name a container", i, a.Container)
		case !deviceName.MatchString(a.Interface):
			return fmt.Errorf("addresses[%d].interface: %q cannot name a network device", i, a.Interface)
		}
		seen[a.IP] = true
	}
	return nil
}
