package wire

import (
	"bufio"
	"bytes"
	"net/netip"
	"strconv"
	"strings"
)

// resolver is what a pod's resolv.conf says.
type resolver struct {
	servers []netip.Addr
	search  []string
	ndots   int
}

// Limits of resolv.conf(5), as the C library has them.
const (
	maxServers = 3
	maxSearch  = 32
	maxNdots   = 15
)

// parseResolvConf reads a resolv.conf. As in the C library, what cannot be
// understood is passed over and the last search or domain line counts.
func parseResolvConf(text []byte) resolver {
	r := resolver{ndots: 1}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line, _, _ = strings.Cut(line, ";")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(fields[1]); err == nil && len(r.servers) < maxServers {
				r.servers = append(r.servers, addr)
			}
		case "search", "domain":
			r.search = fields[1:min(len(fields), maxSearch+1)]
		case "options":
			r.readOptions(fields[1:])
		}
	}
	return r
}

func (r *resolver) readOptions(options []string) {
	for _, o := range options {
		if value, ok := strings.CutPrefix(o, "ndots:"); ok {
			if n, err := strconv.Atoi(value); err == nil && n >= 0 {
				r.ndots = min(n, maxNdots)
			}
		}
	}
}

// maxCandidates bounds how many names are asked for in the place of one.
const maxCandidates = 8

// candidates are the names that the pod would ask for, in its order.
func (r resolver) candidates(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	var out []string
	for _, s := range r.search {
		if s = strings.Trim(s, "."); s != "" {
			out = append(out, name+"."+s+".")
		}
	}
	if strings.Count(name, ".") >= r.ndots {
		out = append([]string{name + "."}, out...)
		return out[:min(len(out), maxCandidates)]
	}
	return append(out[:min(len(out), maxCandidates-1)], name+".")
}
