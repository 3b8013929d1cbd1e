package substrate

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
	"portcullis.dev/portcullis/deploy/lab/internal/nsrun"
)

// hidden are modules that a node does not show, by name, with their options in
// the kernel's configuration.
type hidden map[string]string

// moduleOptions are the options of modules whose names do not say them.
var moduleOptions = map[string]string{
	"br_netfilter": "BRIDGE_NETFILTER", "ip6_tables": "IP6_NF_IPTABLES", "ip_tables": "IP_NF_IPTABLES", "ipip": "NET_IPIP",
	"ipt_REJECT": "IP_NF_TARGET_REJECT", "ipt_rpfilter": "IP_NF_MATCH_RPFILTER", "nf_conntrack_netlink": "NF_CT_NETLINK", "nf_tables": "NF_TABLES",
	"xt_addrtype": "NETFILTER_XT_MATCH_ADDRTYPE", "xt_comment": "NETFILTER_XT_MATCH_COMMENT", "xt_conntrack": "NETFILTER_XT_MATCH_CONNTRACK",
	"xt_mark": "NETFILTER_XT_MARK", "xt_multiport": "NETFILTER_XT_MATCH_MULTIPORT", "xt_rpfilter": "IP_NF_MATCH_RPFILTER",
	"xt_set": "NETFILTER_XT_SET", "xt_u32": "NETFILTER_XT_MATCH_U32",
}

// hide are the modules that faults hide.
func hide(faults []fault.Fault) hidden {
	out := hidden{}
	for _, f := range faults {
		name, option := f.Params["name"], f.Params["config"]
		if option == "" {
			option = moduleOptions[name]
		}
		if option == "" {
			option = strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		}
		out[moduleName(name)] = option
	}
	return out
}

// moduleName is how the kernel writes a module: without dashes.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// syncModules shows a node the modules that the machine has, but for those that
// faults hide. Only what the node shows is changed: the kernel has them still.
func (l *Lab) syncModules(node string) error {
	h := hide(fault.Of(l.Faults(), fault.Module, node))
	dir := l.nodeDir(node, "modules")
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	return nsrun.Do(nsrun.Target{PID: l.Processes()[holderName(node)].PID}, func() error {
		return showModules(dir, strings.TrimSpace(string(release)), h)
	})
}

// sysModules has a folder for each module that is loaded or built in.
const sysModules = "/sys/module"

// moduleFiles are what tells of modules, with what takes some out.
func moduleFiles(release string) map[string]func(content []byte, h hidden) ([]byte, error) {
	lib := path.Join(modulesDir, release)
	return map[string]func([]byte, hidden) ([]byte, error){
		"/proc/modules":                       withoutLines(firstField),
		path.Join(lib, "modules.dep"):         withoutLines(objectFile),
		path.Join(lib, "modules.builtin"):     withoutLines(objectFile),
		path.Join(lib, "modules.order"):       withoutLines(objectFile),
		path.Join(lib, "modules.alias"):       withoutLines(lastField),
		path.Join(lib, "modules.symbols"):     withoutLines(lastField),
		path.Join(lib, "modules.dep.bin"):     nothing, // then modprobe reads the file without .bin
		path.Join(lib, "modules.alias.bin"):   nothing,
		path.Join(lib, "modules.symbols.bin"): nothing,
		path.Join(lib, "modules.builtin.bin"): nothing,
		"/proc/config.gz":                     withoutOptionsGzip,
		"/boot/config-" + release:             withoutOptions,
	}
}

// showModules runs in a node's mount namespace: it takes earlier views away and
// mounts new ones, whose files are in dir.
func showModules(dir, release string, h hidden) error {
	files := moduleFiles(release)
	for f := range files {
		if err := unmountAll(f); err != nil {
			return err
		}
	}
	if err := unmountAll(sysModules); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil || len(h) == 0 {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for f, without := range files {
		content, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if content, err = without(content, h); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		view := filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(f, "/"), "/", "-"))
		if err := os.WriteFile(view, content, 0o444); err != nil {
			return err
		}
		if err := bind(view, f); err != nil {
			return err
		}
	}
	return showSysModules(filepath.Join(dir, "sys"), h)
}

// showSysModules mounts a folder over /sys/module that has all of it but what is hidden.
func showSysModules(aside string, h hidden) error {
	entries, err := os.ReadDir(sysModules)
	if err != nil {
		return err
	}
	if err := os.Mkdir(aside, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", aside, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return fmt.Errorf("mount %s: %w", aside, err)
	}
	// Else what is taken away here goes where it is to be seen, too.
	if err := unix.Mount("", aside, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", aside, err)
	}
	// Mounted a second time where it is to be seen, it is not needed here.
	defer func() { _ = unix.Unmount(aside, unix.MNT_DETACH) }()
	for _, e := range entries {
		if _, ok := h[e.Name()]; ok {
			continue
		}
		to := filepath.Join(aside, e.Name())
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		if err := bind(filepath.Join(sysModules, e.Name()), to); err != nil {
			return err
		}
	}
	return bind(aside, sysModules)
}

// unmountAll takes away all that is mounted on a path; what the node has there
// from its beginning is no mount.
func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// withoutLines drops the lines that are about a hidden module, which about finds.
func withoutLines(about func(fields []string) string) func([]byte, hidden) ([]byte, error) {
	return func(content []byte, h hidden) ([]byte, error) {
		var out bytes.Buffer
		for line := range bytes.Lines(content) {
			if f := strings.Fields(string(line)); len(f) > 0 {
				if _, ok := h[moduleName(about(f))]; ok {
					continue
				}
			}
			out.Write(line)
		}
		return out.Bytes(), nil
	}
}

func firstField(f []string) string { return f[0] }
func lastField(f []string) string  { return f[len(f)-1] }

// objectFile is the module of a line such as kernel/net/vxlan.ko.xz: kernel/net/udp_tunnel.ko.xz
func objectFile(f []string) string {
	name, _, _ := strings.Cut(path.Base(strings.TrimSuffix(f[0], ":")), ".ko")
	return name
}

func nothing([]byte, hidden) ([]byte, error) { return nil, nil }

// withoutOptions says of the hidden modules' options what a kernel says that was
// built without them.
func withoutOptions(content []byte, h hidden) ([]byte, error) {
	off := map[string]bool{}
	for _, option := range h {
		off["CONFIG_"+option] = true
	}
	var out bytes.Buffer
	for line := range bytes.Lines(content) {
		if name, _, ok := bytes.Cut(line, []byte("=")); ok && off[string(name)] {
			fmt.Fprintf(&out, "# %s is not set\n", name)
			continue
		}
		out.Write(line)
	}
	return out.Bytes(), nil
}

func withoutOptionsGzip(content []byte, h hidden) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if plain, err = withoutOptions(plain, h); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
