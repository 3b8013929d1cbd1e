package node

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes/preflight"
)

// tryIPSet makes, fills, reads and destroys an IP set, in a network namespace of
// its own. A trial that is killed in its middle so leaves nothing behind.
func tryIPSet() (preflight.Trial, error) {
	type result struct {
		trial preflight.Trial
		err   error
	}
	done := make(chan result, 1)
	go func() {
		// Not unlocked: the thread ends with the goroutine, and with it the namespace.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("cannot make a network namespace for the trial: %w", err)}
			return
		}
		step, err := ipset()
		switch {
		case errors.Is(err, unix.EPERM):
			// The agent's own lack of a right says nothing about the kernel.
			done <- result{err: fmt.Errorf("%s: not permitted (the agent needs NET_ADMIN)", step)}
		case err != nil:
			done <- result{trial: preflight.Trial{Detail: oneLine(fmt.Sprintf("%s: %v", step, err))}}
		default:
			done <- result{trial: preflight.Trial{OK: true, Detail: "a set was made, filled, read and destroyed"}}
		}
	}()
	r := <-done
	return r.trial, r.err
}

// ipset says what it was doing when it failed.
func ipset() (step string, err error) {
	suffix := make([]byte, 6)
	if _, err := rand.Read(suffix); err != nil {
		return "naming the set", err
	}
	name := "portcullis-" + hex.EncodeToString(suffix)
	entry := &netlink.IPSetEntry{IP: net.IPv4(192, 0, 2, 1).To4()}
	if err := netlink.IpsetCreate(name, "hash:ip", netlink.IpsetCreateOptions{Family: unix.AF_INET}); err != nil {
		return "creating a set", err
	}
	defer func() {
		if destroyErr := netlink.IpsetDestroy(name); err == nil && destroyErr != nil {
			step, err = "destroying the set", destroyErr
		}
	}()
	if err := netlink.IpsetAdd(name, entry); err != nil {
		return "adding to the set", err
	}
	in, err := netlink.IpsetTest(name, entry)
	if err != nil {
		return "reading the set", err
	}
	if !in {
		return "reading the set", errors.New("what was added is not in it")
	}
	return "", nil
}

// getInfo is IPT_SO_GET_INFO and iptInfo what it answers (struct ipt_getinfo).
const getInfo = 64

type iptInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	entries    uint32
	size       uint32
}

// legacyTables lists the tables of the old iptables that have rules or chains of
// their own. Only tables that the kernel has already are looked at, for looking
// at another would make it.
func legacyTables() ([]string, error) {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the tables of the old iptables cannot be listed: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var out []string
	for _, name := range bytes.Fields(names) {
		info := iptInfo{}
		copy(info.name[:len(info.name)-1], name)
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, getInfo,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return nil, fmt.Errorf("the table %s of the old iptables cannot be read: %w", name, errno)
		}
		// An empty table has a policy for each hook and an end.
		if int(info.entries) > bits.OnesCount32(info.validHooks)+1 {
			out = append(out, string(name))
		}
	}
	return out, nil
}

// The messages and attributes of nftables that are used (linux/netfilter/nf_tables.h).
const (
	nftGetTable   = 1
	nftGetChain   = 4
	nftTableName  = 1
	nftChainTable = 1
	nftChainName  = 3
	// maxChains bounds what is reported of a table.
	maxChains = 4096
)

// nfTables lists the tables and chains of nftables.
func nfTables() ([]preflight.NFTable, error) {
	var out []preflight.NFTable
	index := map[[2]string]int{}
	err := nftDump(nftGetTable, func(family string, attrs map[uint16]string) {
		index[[2]string{family, attrs[nftTableName]}] = len(out)
		out = append(out, preflight.NFTable{Family: family, Name: attrs[nftTableName]})
	})
	if err != nil {
		return nil, err
	}
	err = nftDump(nftGetChain, func(family string, attrs map[uint16]string) {
		i, ok := index[[2]string{family, attrs[nftChainTable]}]
		if ok && len(out[i].Chains) < maxChains && interesting(attrs[nftChainName]) {
			out[i].Chains = append(out[i].Chains, attrs[nftChainName])
		}
	})
	return out, err
}

// interesting leaves out the thousands of chains that are named by hash.
func interesting(chain string) bool {
	for _, p := range []string{"KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-", "cali-pi-", "cali-po-", "cali-pri-", "cali-pro-", "cali-tw-", "cali-fw-", "cali-sm-"} {
		if len(chain) > len(p) && chain[:len(p)] == p {
			return false
		}
	}
	return true
}

var nftFamilies = map[uint8]string{1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

func nftDump(message int, each func(family string, attrs map[uint16]string)) error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|message, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	answers, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	switch {
	case errors.Is(err, unix.EPERM):
		return errors.New("nftables cannot be listed: not permitted (the agent needs NET_ADMIN)")
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		// A kernel without nftables has none of its tables.
		return nil
	case err != nil:
		return fmt.Errorf("nftables cannot be listed: %w", err)
	}
	for _, a := range answers {
		if len(a) < nl.SizeofNfgenmsg {
			return errors.New("nftables answered with something that is not understood")
		}
		parsed, err := nl.ParseRouteAttr(a[nl.SizeofNfgenmsg:])
		if err != nil {
			return fmt.Errorf("nftables answered with something that is not understood: %w", err)
		}
		attrs := map[uint16]string{}
		for _, p := range parsed {
			attrs[p.Attr.Type&^unix.NLA_F_NESTED] = string(bytes.TrimRight(p.Value, "\x00"))
		}
		each(nftFamilies[a[0]], attrs)
	}
	return nil
}

// maxLinks and maxRoutes bound what is reported of a node.
const (
	maxLinks  = 1000
	maxRoutes = 200
)

// links lists the node's interfaces but those of pods.
func links() ([]preflight.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("the node's interfaces cannot be listed: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("the node's addresses cannot be listed: %w", err)
	}
	var out []preflight.Link
	for _, l := range all {
		a := l.Attrs()
		link := preflight.Link{Name: a.Name, Kind: l.Type(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0, MAC: a.HardwareAddr.String()}
		for _, addr := range addrs {
			if addr.LinkIndex == a.Index {
				link.Addresses = append(link.Addresses, addr.IPNet.String())
			}
		}
		if v, ok := l.(*netlink.Vxlan); ok {
			link.VNI, link.Port = v.VxlanId, v.Port
		}
		if link.Kind == "veth" && len(link.Addresses) == 0 || len(out) >= maxLinks {
			continue
		}
		out = append(out, link)
	}
	return out, nil
}

// routes lists default routes and those with an MTU of their own.
func routes() ([]preflight.Route, error) {
	all, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("the node's routes cannot be listed: %w", err)
	}
	out := []preflight.Route{}
	for _, r := range all {
		isDefault := r.Dst == nil || r.Dst.IP.IsUnspecified()
		if !isDefault && r.MTU == 0 || len(out) >= maxRoutes {
			continue
		}
		route := preflight.Route{To: "default", MTU: r.MTU}
		if !isDefault {
			route.To = r.Dst.String()
		}
		if r.Gw != nil {
			route.Via = r.Gw.String()
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			route.Link = l.Attrs().Name
		}
		out = append(out, route)
	}
	return out, nil
}
