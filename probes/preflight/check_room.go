package preflight

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var roomChecks = []Check{
	{
		ID: "cpu-room", Title: "Processor time", Severity: Advised,
		Why:       "While two pod networks run side by side, a node computes the policies twice. On one that is busy already, readiness probes fail.",
		Threshold: "the load of 5 minutes is below 2 for each processor", Source: srcJudgement,
		Remedy: "move work off the node first",
		node: func(_ *judging, n *NodeFacts) finding {
			c, u := need(n.CPU)
			switch {
			case u != nil:
				return *u
			case c.Count <= 0 || c.Load5 < 0:
				return unsure("the load cannot be read")
			case c.Load5 >= 2*float64(c.Count):
				return miss("load %.1f on %d processors", c.Load5, c.Count)
			}
			return pass("load %.1f on %d processors", c.Load5, c.Count)
		},
	},
	{
		ID: "memory-room", Title: "Memory", Severity: Required, again: true,
		Why:       "calico-node needs about 150 MiB beside what runs; without it, the kernel kills something.",
		Threshold: "256 MiB available; below 512 MiB warns", Source: srcJudgement + " (twice the resident size of Felix, and room for its peak at start)",
		Remedy: "move work off the node first, or give it more memory",
		node: func(_ *judging, n *NodeFacts) finding {
			m, u := need(n.Memory)
			switch {
			case u != nil:
				return *u
			case m.Total <= 0:
				return unsure("the memory cannot be read")
			case m.Available < 256<<20:
				return miss("%s available", size(m.Available))
			case m.Available < 512<<20:
				return warn("%s available", size(m.Available))
			}
			return pass("%s available", size(m.Available))
		},
	},
	{
		ID: "disk-room", Title: "Disk", Severity: Required, again: true,
		Why:       "Kubelet evicts pods and removes images at its thresholds; the images of the new network must fit before that.",
		Threshold: "2 GiB and 10 % free (15 % for images warns), 5 % of inodes", Source: "Kubernetes, default eviction thresholds; " + srcJudgement,
		Remedy: "free space on the file system, such as by removing unused images",
		node:   diskRoom,
	},
	{
		ID: "clock", Title: "Clock", Severity: Required, again: true,
		Why:       "Certificates and service account tokens are refused by a clock that is wrong, and the order of events in logs is lost.",
		Threshold: "within 10 s of the daemon's clock; more than 1 s warns", Source: srcJudgement,
		Remedy: "let chrony or systemd-timesyncd keep the node's clock",
		node: func(_ *judging, n *NodeFacts) finding {
			d, u := need(n.ClockSkew)
			if u != nil {
				return *u
			}
			switch off := d.Abs(); {
			case off > 10*time.Second:
				return miss("%s off", off.Round(100*time.Millisecond))
			case off > time.Second:
				return warn("%s off", off.Round(100*time.Millisecond))
			}
			return pass("within a second")
		},
	},
	{
		ID: "ports-free", Title: "Ports that Calico binds", Severity: Required,
		Why:       "Felix does not become ready, or the overlay cannot be made, when another program has its port.",
		Threshold: "free, or held by the pod network itself", Source: srcRKE2Ports,
		Remedy: "stop the program that is named, or give Felix another port",
		node:   portsFree,
	},
	{
		ID: "images-present", Title: "Images on the node", Severity: Advised, again: true,
		Why:       "An image that must be pulled first makes the node wait without a network that is looked after, and a registry that does not answer makes that long.",
		Threshold: "every image that is asked for is on the node", Source: srcJudgement + "; Cilium, preflight",
		Remedy: "pull the images on the node before (a DaemonSet that runs them once will do)",
		when:   func(j *judging) bool { return len(j.target.Images) > 0 },
		node:   imagesPresent,
	},
}

// size prints bytes in MiB or GiB.
func size(b int64) string {
	if b >= 10<<30 {
		return fmt.Sprintf("%d GiB", b>>30)
	}
	if b >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", b>>20)
}

func diskRoom(_ *judging, n *NodeFacts) finding {
	disks, u := need(n.Disks)
	if u != nil {
		return *u
	}
	if len(disks) == 0 {
		return unsure("no file system could be read")
	}
	worst, least := pass(""), ""
	for _, d := range disks {
		if d.Total <= 0 || d.Free < 0 {
			return unsure("the size of " + d.Path + " cannot be read")
		}
		part := float64(d.Free) / float64(d.Total)
		text := fmt.Sprintf("%s: %s (%.0f %%) free", d.Path, size(d.Free), 100*part)
		f := pass("%s", text)
		switch {
		case part < .1 || d.Free < 2<<30:
			f = miss("%s", text)
		case d.Inodes > 0 && float64(d.InodesFree) < .05*float64(d.Inodes):
			f = miss("%s: %d of %d inodes free", d.Path, d.InodesFree, d.Inodes)
		case part < .15:
			f = warn("%s", text)
		}
		if least == "" || slices.Index(order, f.status) < slices.Index(order, worst.status) {
			worst, least = f, text
		}
	}
	return worst
}

// boundPorts are what Calico's programs bind on each node.
func (j *judging) boundPorts() []Path {
	out := []Path{PathHealth, {"tcp", 9091}, {"tcp", 9098}}
	if j.target.Typha {
		out = append(out, PathTypha)
	}
	if j.target.Encapsulation == VXLAN {
		out = append(out, Path{"udp", j.target.Port})
	} else {
		out = append(out, PathBGP)
	}
	return out
}

// ownPrograms hold these ports rightly.
var ownPrograms = []string{"kernel", "calico-node", "felix", "typha", "calico-typha", "bird", "flanneld"}

func portsFree(j *judging, n *NodeFacts) finding {
	ports, u := need(n.Ports)
	if u != nil {
		return *u
	}
	var taken, unknown []string
	free := 0
	for _, want := range j.boundPorts() {
		uses := slices.DeleteFunc(slices.Clone(ports), func(p PortUse) bool { return p.Protocol != want.Protocol || p.Port != want.Port })
		if len(uses) == 0 {
			free++
		}
		for _, p := range uses {
			switch {
			case p.Owner == "":
				unknown = append(unknown, want.String())
			case p.Owner == "kernel" && want.Protocol == "udp" && j.foreignVXLAN(n, want.Port):
				taken = append(taken, fmt.Sprintf("%s by a VXLAN device that is not of the pod network", want))
			case !slices.Contains(ownPrograms, p.Owner):
				taken = append(taken, fmt.Sprintf("%s by %s", want, p.Owner))
			}
		}
	}
	switch {
	case len(taken) > 0:
		return miss("%s", strings.Join(slices.Compact(taken), ", "))
	case len(unknown) > 0:
		return unsure("taken, but it cannot be told by whom: " + strings.Join(slices.Compact(unknown), ", "))
	}
	return pass("%d free, %d held by the pod network", free, len(j.boundPorts())-free)
}

// foreignVXLAN says whether a VXLAN device that is neither flannel's nor Calico's has the port.
func (j *judging) foreignVXLAN(n *NodeFacts, port int) bool {
	return slices.ContainsFunc(n.Links.Value, func(l Link) bool { return l.Kind == "vxlan" && l.Port == port && !ownDevice(l.Name) })
}

func ownDevice(name string) bool { return strings.HasPrefix(name, "flannel") || name == "vxlan.calico" }

func imagesPresent(j *judging, n *NodeFacts) finding {
	if !j.cluster.Nodes.Known {
		return unsure(j.cluster.Nodes.Why)
	}
	node := j.byName[n.Node]
	if node == nil {
		return unsure("the API server does not know the node")
	}
	var missing []string
	for _, image := range j.target.Images {
		if !slices.ContainsFunc(node.Images, func(have string) bool { return sameImage(have, image) }) {
			missing = append(missing, image)
		}
	}
	switch {
	case len(missing) == 0:
		return pass("all %d", len(j.target.Images))
	case node.ImagesCut:
		return unsure("not among the images that kubelet lists, which are not all: " + strings.Join(missing, ", "))
	}
	return miss("missing: %s", strings.Join(missing, ", "))
}

// sameImage compares names, with and without the registry that is the default.
func sameImage(a, b string) bool {
	norm := func(s string) string {
		s = strings.TrimPrefix(s, "docker.io/")
		return strings.TrimPrefix(s, "library/")
	}
	return norm(a) == norm(b)
}
