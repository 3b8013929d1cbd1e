package fault

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Kinds are all that can be injected.
var Kinds = []Kind{
	{
		Name: Block, On: OnNode, What: "packets between the node and others are dropped on the way",
		Params: []Param{
			{Name: "proto", Default: "tcp", Names: true, What: "tcp, udp, icmp or a protocol number such as 4 (IP-in-IP)", check: protocol},
			{Name: "port", Names: true, What: "destination port, of tcp and udp (default: all)", check: optional(number(1, 65535))},
			{Name: "peer", Names: true, What: "the one other node (default: all)", check: optional(word)},
			{Name: "direction", Default: "both", What: "in (to the node), out (from it) or both", check: oneOf("in", "out", "both")},
		},
	},
	{
		Name: MTU, On: OnNode, What: "packets of full size get lost",
		Params: []Param{
			{Name: "value", Default: "1400", What: "bytes", check: number(576, 1499)},
			{Name: "where", Default: "node", What: "node (its uplink is set so) or path (nothing on the node shows it)", check: oneOf("node", "path")},
		},
	},
	{
		Name: Module, On: OnNode, What: "a kernel module is in no list that the node shows: /proc/modules, /sys/module, /lib/modules, the kernel's configuration",
		Params: []Param{
			{Name: "name", Default: "vxlan", Names: true, What: "the module", check: word},
			{Name: "config", What: "its option in the kernel's configuration, without CONFIG_ (default: known for common ones, else the name in capitals)", check: optional(word)},
		},
	},
	{
		Name: Port, On: OnNode, What: "a port is taken by somebody else",
		Params: []Param{
			{Name: "proto", Default: "udp", Names: true, What: "tcp or udp", check: oneOf("tcp", "udp")},
			{Name: "port", Default: "4789", Names: true, What: "the port", check: number(1, 65535)},
		},
	},
	{
		Name: Budget, On: OnCluster, What: "a PodDisruptionBudget allows no eviction of a workload's pods",
		Params: []Param{
			{Name: "namespace", Default: "checkout", Names: true, What: "where the pods are", check: word},
			{Name: "app", Default: "checkout-api", Names: true, What: "their label app", check: word},
		},
	},
	{Name: Power, On: OnNode, What: "the node is off, and boots when the fault is cleared"},
	{
		Name: CNIReadOnly, On: OnNode, What: "the CNI folder cannot be written, by the node and by its pods",
		Params: []Param{
			{Name: "dir", Default: "conf", Names: true, What: "conf (/etc/cni) or bin (/opt/cni)", check: oneOf("conf", "bin")},
		},
	},
	{
		Name: Calico, On: OnNode, What: "Calico does not come up in pods that start from now on",
		Params: []Param{
			{Name: "how", Default: "crash", What: "crash or hang (Calico as network alone; Canal starts as ever), or no-image", check: oneOf("crash", "hang", "no-image")},
			{Name: "image", Default: "node", Names: true, What: "with no-image: node, cni or kube-controllers", check: oneOf("node", "cni", "kube-controllers")},
		},
	},
}

// together checks what no parameter shows alone.
func (k Kind) together(p map[string]string) error {
	switch {
	case k.Name == Block && p["port"] != "" && p["proto"] != "tcp" && p["proto"] != "udp":
		return fmt.Errorf("fault %s: protocol %s has no ports", k.Name, p["proto"])
	case k.Name == Calico && p["how"] != "no-image" && p["image"] != "node":
		return fmt.Errorf("fault %s: only the image node can %s", k.Name, p["how"])
	}
	return nil
}

func protocol(v string) error {
	if slices.Contains([]string{"tcp", "udp", "icmp"}, v) {
		return nil
	}
	if number(0, 255)(v) != nil {
		return errors.New("want tcp, udp, icmp or a number from 0 to 255")
	}
	return nil
}

func number(low, high int) func(string) error {
	return func(v string) error {
		// Written as it will be read again: nothing but digits, and no zero before them.
		if n, err := strconv.Atoi(v); err != nil || n < low || n > high || strconv.Itoa(n) != v {
			return fmt.Errorf("want a number from %d to %d", low, high)
		}
		return nil
	}
}

func oneOf(values ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("want %s", strings.Join(values, " or "))
		}
		return nil
	}
}

func optional(check func(string) error) func(string) error {
	return func(v string) error {
		if v == "" {
			return nil
		}
		return check(v)
	}
}

// words become parts of rules, manifests and file names.
var words = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

func word(v string) error {
	if !words.MatchString(v) {
		return errors.New("want letters, digits, dashes and underscores")
	}
	return nil
}
