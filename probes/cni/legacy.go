package cni

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// What flannel calls its own (pkg/trafficmngr in its source).
const flannelChain = "FLANNEL-"

var (
	flannelTables   = []string{"flannel-ipv4", "flannel-ipv6"}
	flannelComments = []string{"flanneld masq", "flanneld forward"}
)

// Sizes and offsets of what the kernel answers of a table of the old iptables
// (struct ipt_entry and xt_entry_target of linux/netfilter_ipv4/ip_tables.h).
const (
	entryHead    = 112
	targetOffset = 88
	nextOffset   = 90
	targetHead   = 32
	targetName   = 2
	nameLength   = 29
)

// oldTable is what of flannel is in a table of the old iptables.
type oldTable struct {
	name   string
	chains []string
	rules  int
}

var errOldTable = errors.New("a table of the old iptables is not understood")

// parseOldTable finds flannel's chains, and the rules outside them that jump to
// them or have its comment. A chain starts with an entry that names it.
func parseOldTable(name string, entries []byte) (oldTable, error) {
	t := oldTable{name: name}
	starts := map[int]string{}
	var jumps []int
	in := ""
	for at := 0; at < len(entries); {
		e, err := entryAt(entries, at)
		if err != nil {
			return t, err
		}
		if named, ok := e.chain(); ok {
			in = named
			starts[at+len(e)] = named
			if strings.HasPrefix(named, flannelChain) {
				t.chains = append(t.chains, named)
			}
		} else if !strings.HasPrefix(in, flannelChain) {
			if to, ok := e.jump(); ok && !e.commented() {
				jumps = append(jumps, to)
			} else if e.commented() {
				t.rules++
			}
		}
		at += len(e)
	}
	for _, to := range jumps {
		if strings.HasPrefix(starts[to], flannelChain) {
			t.rules++
		}
	}
	slices.Sort(t.chains)
	return t, nil
}

// oldEntry is one rule, whole.
type oldEntry []byte

func entryAt(entries []byte, at int) (oldEntry, error) {
	if len(entries)-at < entryHead {
		return nil, errOldTable
	}
	target := int(binary.NativeEndian.Uint16(entries[at+targetOffset:]))
	next := int(binary.NativeEndian.Uint16(entries[at+nextOffset:]))
	if target < entryHead || next < target+targetHead || at+next > len(entries) {
		return nil, errOldTable
	}
	return entries[at : at+next], nil
}

// target is the name of what is done with a packet, and its data.
func (e oldEntry) target() (string, []byte) {
	t := e[binary.NativeEndian.Uint16(e[targetOffset:]):]
	return cString(t[targetName : targetName+nameLength]), t[targetHead:]
}

// chain is the name of the chain that the entry starts.
func (e oldEntry) chain() (string, bool) {
	kind, data := e.target()
	return cString(data), kind == "ERROR"
}

// jump is where the first rule of the chain is that the entry jumps to.
func (e oldEntry) jump() (int, bool) {
	kind, data := e.target()
	if kind != "" || len(data) < 4 {
		return 0, false
	}
	verdict := int32(binary.NativeEndian.Uint32(data))
	return int(verdict), verdict >= 0
}

// commented tells whether flannel's comment is in the entry's matches.
func (e oldEntry) commented() bool {
	return comment(e[entryHead:binary.NativeEndian.Uint16(e[targetOffset:])])
}

// comment tells whether one of flannel's comments is in what a rule is kept as.
func comment(data []byte) bool {
	return slices.ContainsFunc(flannelComments, func(c string) bool { return bytes.Contains(data, []byte(c)) })
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// oldRemoval writes what iptables-restore is to do so that nothing of flannel is
// left in a table, from what iptables -S tells of it.
func oldRemoval(table, rules string) (script string, found bool) {
	var deletions, flushes, removals []string
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case fields[0] == "-N" && strings.HasPrefix(fields[1], flannelChain):
			flushes = append(flushes, "-F "+fields[1])
			removals = append(removals, "-X "+fields[1])
		case fields[0] == "-A" && !strings.HasPrefix(fields[1], flannelChain) && (comment([]byte(line)) || jumps(fields)):
			deletions = append(deletions, "-D"+strings.TrimPrefix(line, "-A"))
		}
	}
	all := slices.Concat([]string{"*" + table}, deletions, flushes, removals, []string{"COMMIT", ""})
	return strings.Join(all, "\n"), len(all) > 3
}

// jumps tells whether a rule of iptables -S goes to one of flannel's chains.
func jumps(fields []string) bool {
	for i, f := range fields[:len(fields)-1] {
		if (f == "-j" || f == "-g") && strings.HasPrefix(fields[i+1], flannelChain) {
			return true
		}
	}
	return false
}

func rulesAndChains(rules int, chains []string, table, kind string) string {
	var parts []string
	if rules > 0 {
		parts = append(parts, fmt.Sprintf("%d of flannel's rules", rules))
	}
	if len(chains) > 0 {
		slices.Sort(chains)
		parts = append(parts, "chain "+strings.Join(chains, ", "))
	}
	return fmt.Sprintf("%s in table %s of %s", strings.Join(parts, " and "), table, kind)
}
