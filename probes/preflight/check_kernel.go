package preflight

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var kernelChecks = []Check{
	{
		ID: "kernel-version", Title: "Kernel version", Severity: Required, again: true,
		Why:       "Calico is tested on these kernels only. Older ones lack parts of netfilter and eBPF that Felix uses.",
		Threshold: "5.10 or later from Calico 3.29 on (RHEL 8: 4.18.0-305), 3.10 or later before",
		Source:    srcRequirements, Remedy: "update the node's kernel, then reboot the node",
		node: kernelVersion,
	},
	{
		ID: "kernel-checksum-offload", Title: "Checksum offload on VXLAN devices", Severity: Advised,
		Why:       "Kernels up to 5.7 compute wrong checksums for packets that are translated and then encapsulated: connections to services time out now and then.",
		Threshold: "later than 5.7", Source: "Felix, feature detection (calico#4865)",
		Remedy: "set FelixConfiguration featureDetectOverride ChecksumOffloadBroken=true, or update the kernel",
		node:   checksumOffload,
	},
	{
		ID: "kernel-modules", Title: "Kernel modules", Severity: Required, again: true,
		Why:       "Felix programs rules that need these modules; without one, its whole rule set is refused and no policy is enforced.",
		Threshold: "each loaded, loadable or built in", Source: srcRequirements + "; calicoctl node checksystem",
		Remedy: "install the package with the kernel's further modules (kernel-modules-extra on RHEL), or load them at boot from /etc/modules-load.d",
		node:   kernelModules,
	},
	{
		ID: "kernel-config", Title: "Kernel options", Severity: Required, again: true,
		Why:       "An option that is not set cannot be had by loading a module.",
		Threshold: "network namespaces, netfilter and connection tracking are set", Source: srcRequirements + "; kubeadm, system specification",
		Remedy: "use a kernel that has these options",
		node:   kernelConfig,
	},
	{
		ID: "ipset-works", Title: "IP sets can be made", Severity: Required, again: true,
		Why:       "Policies by selector become IP sets. A module that is there can still be shut off by the kernel's lockdown or by security software.",
		Threshold: "a set is created, filled, read and destroyed", Source: srcJudgement,
		Remedy: "load ip_set and ip_set_hash_ip, and see what the kernel's log says about them",
		node: func(_ *judging, n *NodeFacts) finding {
			t, u := need(n.IPSet)
			switch {
			case u != nil:
				return *u
			case !t.OK:
				return miss("%s", t.Detail)
			}
			return pass("%s", t.Detail)
		},
	},
	{
		ID: "conntrack-room", Title: "Room in connection tracking", Severity: Required, again: true,
		Why:       "A full table drops new connections. While two overlays forward side by side, flows are tracked anew.",
		Threshold: "below 80 % used; above 95 % fails", Source: srcJudgement,
		Remedy: "raise net.netfilter.nf_conntrack_max, or find what opens so many connections",
		node:   conntrackRoom,
	},
	{
		ID: "sysctl-forwarding", Title: "IPv4 forwarding", Severity: Required, again: true,
		Why:       "Without it the node forwards nothing for pods.",
		Threshold: "net.ipv4.ip_forward is 1", Source: "kubeadm, preflight; " + srcRequirements,
		Remedy: "sysctl -w net.ipv4.ip_forward=1, and keep it in /etc/sysctl.d",
		node: func(_ *judging, n *NodeFacts) finding {
			s, u := need(n.Sysctls)
			if u != nil {
				return *u
			}
			v, ok := s["net.ipv4.ip_forward"]
			switch {
			case !ok:
				return unsure("net.ipv4.ip_forward could not be read")
			case v != "1":
				return miss("net.ipv4.ip_forward is %s", v)
			}
			return pass("net.ipv4.ip_forward is 1")
		},
	},
	{
		ID: "sysctl-forwarding-kept", Title: "IPv4 forwarding after a reboot", Severity: Advised,
		Why:       "A file that sets it to 0 takes the node's pods off the network at its next boot, or when somebody applies the files again.",
		Threshold: "no file sets net.ipv4.ip_forward to 0", Source: srcJudgement,
		Remedy: "remove the setting, or set it to 1 in a file of /etc/sysctl.d that sorts last",
		node: func(_ *judging, n *NodeFacts) finding {
			s, u := need(n.SysctlFiles)
			if u != nil {
				return *u
			}
			for _, k := range []string{"net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"} {
				if s[k] == "0" {
					return miss("the node's sysctl files set %s to 0", k)
				}
			}
			if s["net.ipv4.ip_forward"] == "1" {
				return pass("set to 1 in the node's sysctl files")
			}
			return pass("no file sets it to 0; kubelet and the CNI set it to 1")
		},
	},
	{
		ID: "sysctl-rp-filter", Title: "Reverse path filter", Severity: Advised,
		Why:       "The strict filter on a node with several networks drops packets of the overlay that come in by another interface than answers would leave by.",
		Threshold: "net.ipv4.conf.all.rp_filter is not 1 on a node with several networks", Source: srcJudgement,
		Remedy: "set net.ipv4.conf.all.rp_filter to 0 or 2 on such nodes; Felix has a filter of its own for pods",
		node:   rpFilter,
	},
	{
		ID: "sysctl-inotify", Title: "inotify limits", Severity: Advised,
		Why:       "Felix and the CNI plugin watch files; a node that has no watches left makes them miss changes.",
		Threshold: "fs.inotify.max_user_instances at least 512, max_user_watches at least 65536 (RKE2 advises 8192 and 524288)", Source: "RKE2, known issues; " + srcJudgement,
		Remedy: "set fs.inotify.max_user_instances=8192 and fs.inotify.max_user_watches=524288 in /etc/sysctl.d",
		node:   inotify,
	},
}

var versionNumber = regexp.MustCompile(`^v?(\d+)\.(\d+)(?:\.(\d+))?(?:-(\d+))?`)

// version reads the numbers that a version begins with: major, minor, patch, and
// what follows the first dash where that is a number.
func version(s string) (v [4]int, ok bool) {
	m := versionNumber.FindStringSubmatch(s)
	if m == nil {
		return v, false
	}
	for i, part := range m[1:] {
		if part == "" {
			continue
		}
		n, err := strconv.Atoi(part)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

func before(a, b [4]int) bool { return slices.Compare(a[:], b[:]) < 0 }

func kernelVersion(j *judging, n *NodeFacts) finding {
	release, u := need(n.Kernel)
	if u != nil {
		return *u
	}
	have, ok := version(release)
	if !ok {
		return unsure("the kernel's release " + strconv.Quote(release) + " is not understood")
	}
	old := [4]int{3, 10}
	wanted := [4]int{5, 10}
	rhel := strings.Contains(release, ".el8") && !before(have, [4]int{4, 18, 0, 305})
	target, known := version(j.target.Version)
	switch {
	case !before(have, wanted) || rhel:
		return pass("%s", release)
	case before(have, old):
		return miss("%s", release)
	case !known:
		return unsure(release + " is enough for Calico before 3.29 only, and the version that is wanted is not known")
	case !before(target, [4]int{3, 29}):
		return miss("%s", release)
	}
	return warn("%s: enough for Calico %s, but not from 3.29 on", release, j.target.Version)
}

func checksumOffload(_ *judging, n *NodeFacts) finding {
	release, u := need(n.Kernel)
	if u != nil {
		return *u
	}
	have, ok := version(release)
	have[3] = 0
	switch {
	case !ok:
		return unsure("the kernel's release " + strconv.Quote(release) + " is not understood")
	case !before([4]int{5, 7}, have):
		return miss("%s", release)
	}
	return pass("%s", release)
}

func kernelModules(j *judging, n *NodeFacts) finding {
	states, u := need(n.Modules)
	if u != nil {
		return *u
	}
	var missing, unknown []string
	where := map[ModuleState]int{}
	total := 0
	for _, m := range moduleNeeds {
		if m.when != nil && !m.when(j) {
			continue
		}
		total++
		best := ModuleState("")
		for _, name := range m.any {
			s := states[name]
			if s == ModuleLoaded || s == ModuleBuiltin || s == ModuleLoadable {
				best = s
				break
			}
			if s == "" {
				// Not known is not missing.
				best = "?"
			}
		}
		switch best {
		case "":
			missing = append(missing, strings.Join(m.any, " or "))
		case "?":
			unknown = append(unknown, strings.Join(m.any, " or "))
		default:
			where[best]++
		}
	}
	switch {
	case len(missing) > 0:
		return miss("missing: %s", strings.Join(missing, ", "))
	case len(unknown) > 0:
		return unsure("it cannot be told whether the kernel has " + strings.Join(unknown, ", "))
	}
	var parts []string
	for _, s := range []ModuleState{ModuleLoaded, ModuleBuiltin, ModuleLoadable} {
		if where[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", where[s], s))
		}
	}
	return pass("all %d: %s", total, strings.Join(parts, ", "))
}

// neededOptions cannot be modules.
var neededOptions = []string{"CONFIG_NET_NS", "CONFIG_NETFILTER", "CONFIG_CGROUPS"}

func kernelConfig(_ *judging, n *NodeFacts) finding {
	config, u := need(n.KernelConfig)
	if u != nil {
		return *u
	}
	var missing []string
	for _, o := range append(neededOptions, "CONFIG_NF_CONNTRACK") {
		if v := config[o]; v != "y" && v != "m" {
			missing = append(missing, o)
		}
	}
	if len(missing) > 0 {
		return miss("not set: %s", strings.Join(missing, ", "))
	}
	return pass("all set")
}

func conntrackRoom(_ *judging, n *NodeFacts) finding {
	c, u := need(n.Conntrack)
	if u != nil {
		return *u
	}
	if c.Max <= 0 || c.Count < 0 {
		return unsure("the table's size cannot be read")
	}
	used := float64(c.Count) / float64(c.Max)
	switch {
	case used > .95:
		return miss("%.0f %% used: %d of %d", 100*used, c.Count, c.Max)
	case used >= .8:
		return warn("%.0f %% used: %d of %d", 100*used, c.Count, c.Max)
	}
	return pass("%.0f %% of %d used", 100*used, c.Max)
}

func rpFilter(_ *judging, n *NodeFacts) finding {
	s, u := need(n.Sysctls)
	if u != nil {
		return *u
	}
	all, ok := s["net.ipv4.conf.all.rp_filter"]
	if !ok {
		return unsure("net.ipv4.conf.all.rp_filter could not be read")
	}
	if all != "1" {
		return pass("net.ipv4.conf.all.rp_filter is %s", all)
	}
	links, u := need(n.Links)
	if u != nil {
		return *u
	}
	if nets := underlays(links); len(nets) > 1 {
		return miss("net.ipv4.conf.all.rp_filter is 1 on a node with the networks of %s", strings.Join(nets, ", "))
	}
	return pass("net.ipv4.conf.all.rp_filter is 1, and the node has one network")
}

func inotify(_ *judging, n *NodeFacts) finding {
	s, u := need(n.Sysctls)
	if u != nil {
		return *u
	}
	instances, err1 := strconv.Atoi(s["fs.inotify.max_user_instances"])
	watches, err2 := strconv.Atoi(s["fs.inotify.max_user_watches"])
	switch {
	case err1 != nil || err2 != nil:
		return unsure("the limits could not be read")
	case instances < 512 || watches < 65536:
		return miss("%d instances, %d watches", instances, watches)
	}
	return pass("%d instances, %d watches", instances, watches)
}
