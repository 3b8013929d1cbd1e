package node

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"

	"portcullis.dev/portcullis/probes/preflight"
)

// The parsers take what stands in files of nodes, which may be anything.

// lines calls f with each line that is neither empty nor a comment.
func lines(text []byte, f func(string)) {
	s := bufio.NewScanner(bytes.NewReader(text))
	s.Buffer(make([]byte, 64<<10), maxFileLine)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' && line[0] != ';' {
			f(line)
		}
	}
}

const maxFileLine = 1 << 20

// parseKernelConfig reads the options that are set: y, m, or a value.
func parseKernelConfig(text []byte) map[string]string {
	out := map[string]string{}
	lines(text, func(line string) {
		if key, value, ok := strings.Cut(line, "="); ok && strings.HasPrefix(key, "CONFIG_") {
			out[key] = strings.Trim(value, `"`)
		}
	})
	return out
}

// moduleName is the kernel's name of a module's file: dashes are underscores.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// parseModulesDep reads modules.dep or modules.builtin.
func parseModulesDep(text []byte) map[string]bool {
	out := map[string]bool{}
	lines(text, func(line string) {
		file, _, _ := strings.Cut(line, ":")
		if strings.Contains(file, ".ko") {
			out[moduleName(strings.TrimSpace(file))] = true
		}
	})
	return out
}

// parseProcModules reads /proc/modules.
func parseProcModules(text []byte) map[string]bool {
	out := map[string]bool{}
	lines(text, func(line string) {
		name, _, _ := strings.Cut(line, " ")
		out[name] = true
	})
	return out
}

// parseModprobe reads which modules a configuration of modprobe makes impossible to load.
func parseModprobe(text []byte, barred map[string]bool) {
	lines(text, func(line string) {
		f := strings.Fields(line)
		if len(f) >= 3 && f[0] == "install" && (path.Base(f[2]) == "false" || path.Base(f[2]) == "true") {
			barred[strings.ReplaceAll(f[1], "-", "_")] = true
		}
	})
}

var iptablesVersion = regexp.MustCompile(`iptables v(\d+\.\d+(?:\.\d+)?)(?: \(([a-z_]+)\))?`)

// parseIPTables reads what iptables --version says.
func parseIPTables(text string) (number, flavour string, err error) {
	m := iptablesVersion.FindStringSubmatch(text)
	if m == nil {
		return "", "", fmt.Errorf("iptables --version says %.60q", text)
	}
	flavour = "legacy"
	if m[2] == "nf_tables" {
		flavour = "nft"
	}
	return m[1], flavour, nil
}

// parseSysctl reads a file of sysctl.d into settings; later ones win.
func parseSysctl(text []byte, into map[string]string) {
	lines(text, func(line string) {
		key, value, ok := strings.Cut(strings.TrimPrefix(line, "-"), "=")
		if ok {
			key = strings.TrimSpace(key)
			if first := strings.IndexAny(key, "./"); first >= 0 && key[first] == '/' {
				key = strings.ReplaceAll(key, "/", ".")
			}
			into[key] = strings.TrimSpace(value)
		}
	})
}

// parseUnmanaged reads the patterns of unmanaged-devices of a file of NetworkManager.
func parseUnmanaged(text []byte) (out []string) {
	lines(text, func(line string) {
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.TrimRight(strings.TrimSpace(key), "+") != "unmanaged-devices" {
			return
		}
		for _, p := range strings.FieldsFunc(value, func(r rune) bool { return r == ';' || r == ',' }) {
			if p = strings.TrimSpace(p); p != "" {
				out = append(out, p)
			}
		}
	})
	return out
}

// parseSubnetEnv reads flannel's subnet.env.
func parseSubnetEnv(text []byte) (e preflight.SubnetEnv, err error) {
	e.Present = true
	lines(text, func(line string) {
		key, value, _ := strings.Cut(line, "=")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		switch strings.TrimSpace(strings.TrimPrefix(key, "export ")) {
		case "FLANNEL_NETWORK":
			e.Network = value
		case "FLANNEL_SUBNET":
			e.Subnet = value
		case "FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET":
			e.IPv6 = e.IPv6 || value != "" && value != "::/0"
		case "FLANNEL_MTU":
			if n, convErr := strconv.Atoi(value); convErr == nil && n > 0 {
				e.MTU = n
			}
		case "FLANNEL_IPMASQ":
			e.IPMasq = value == "true"
		}
	})
	if _, err := netip.ParsePrefix(e.Subnet); err != nil {
		return e, fmt.Errorf("subnet.env has the subnet %.60q", e.Subnet)
	}
	return e, nil
}

// parseCNI reads a CNI configuration: a list of plugins, or one.
func parseCNI(file string, text []byte) preflight.CNIConfig {
	c := preflight.CNIConfig{File: file}
	type plugin struct {
		Type string `json:"type"`
		MTU  any    `json:"mtu"`
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
		Delegate json.RawMessage `json:"delegate"`
	}
	var doc struct {
		plugin
		Name    string   `json:"name"`
		Plugins []plugin `json:"plugins"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		c.Error = "it is not JSON that can be read"
		return c
	}
	c.Name = doc.Name
	plugins := doc.Plugins
	if !strings.HasSuffix(file, ".conflist") {
		plugins = []plugin{doc.plugin}
	}
	for _, p := range plugins {
		if p.Type == "" {
			c.Error = "a plugin has no type"
			return c
		}
		c.Plugins = append(c.Plugins, p.Type)
	}
	switch {
	case len(plugins) == 0:
		c.Error = "it has no plugins"
	case c.Name == "":
		c.Error = "it has no name"
	default:
		c.IPAM = plugins[0].IPAM.Type
		if n, ok := plugins[0].MTU.(float64); ok && n > 0 && n < 1<<16 {
			c.MTU = int(n)
		}
	}
	return c
}

// socket is a line of /proc/net/tcp and its like.
type socket struct {
	address netip.Addr
	port    int
	// listening is true for TCP sockets that listen and UDP sockets without a peer.
	listening bool
	inode     uint64
}

// The states of sockets in /proc/net.
const (
	stateListen = "0A"
	stateClosed = "07"
)

// parseSockets reads /proc/net/tcp, udp, tcp6 or udp6.
func parseSockets(text []byte) ([]socket, error) {
	var out []socket
	var bad error
	head := true
	lines(text, func(line string) {
		if head {
			head = false
			return
		}
		s, err := parseSocket(strings.Fields(line))
		if err != nil {
			bad = err
			return
		}
		out = append(out, s)
	})
	return out, bad
}

func parseSocket(f []string) (socket, error) {
	if len(f) < 10 {
		return socket{}, errors.New("a line of the kernel's sockets is too short")
	}
	address, port, ok := strings.Cut(f[1], ":")
	addr, err := parseHexAddr(address)
	p, err2 := strconv.ParseUint(port, 16, 16)
	inode, err3 := strconv.ParseUint(f[9], 10, 64)
	if !ok || errors.Join(err, err2, err3) != nil {
		return socket{}, fmt.Errorf("a line of the kernel's sockets is not understood: %.80q", strings.Join(f, " "))
	}
	return socket{address: addr, port: int(p), listening: f[3] == stateListen || f[3] == stateClosed, inode: inode}, nil
}

// parseHexAddr reads an address as the kernel prints it: words in the machine's order.
func parseHexAddr(s string) (netip.Addr, error) {
	if len(s) != 8 && len(s) != 32 {
		return netip.Addr{}, fmt.Errorf("%.40q is not an address", s)
	}
	out := make([]byte, len(s)/2)
	for i := 0; i < len(s); i += 8 {
		v, err := strconv.ParseUint(s[i:i+8], 16, 32)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("%.40q is not an address", s)
		}
		binary.NativeEndian.PutUint32(out[i/2:], uint32(v))
	}
	addr, _ := netip.AddrFromSlice(out)
	return addr.Unmap(), nil
}
