package preflight

import (
	"cmp"
	"slices"
	"strings"
)

var firewallChecks = []Check{
	{
		ID: "iptables-version", Title: "The node's iptables", Severity: Advised,
		Why:       "CNI plugins such as portmap run the node's own iptables. One that is absent, or that does not lock, makes host ports fail now and then.",
		Threshold: "1.6.2 or later", Source: "Felix, feature detection (restore with lock)",
		Remedy: "install or update the node's iptables package",
		node: func(_ *judging, n *NodeFacts) finding {
			t, u := need(n.IPTables)
			if u != nil {
				return *u
			}
			if t.Path == "" {
				return miss("the node has no iptables program")
			}
			v, ok := version(t.Version)
			switch {
			case !ok:
				return unsure(t.Path + " (" + cmp.Or(t.Flavour, "flavour unknown") + ") did not tell its version")
			case before(v, [4]int{1, 6, 2}):
				return miss("%s (%s)", t.Version, cmp.Or(t.Flavour, "legacy"))
			}
			return pass("%s (%s)", t.Version, cmp.Or(t.Flavour, "legacy"))
		},
	},
	{
		ID: "iptables-one-backend", Title: "One kind of iptables rules", Severity: Advised,
		Why:       "Rules of the old and the new iptables are both applied, but each program sees only its own: Felix then may not find, or not come before, the other's rules.",
		Threshold: "rules of legacy or of nft, not of both", Source: "Felix, feature detection (iptablesBackend Auto)",
		Remedy: "flush the rules of the kind that kubelet and kube-proxy do not use (iptables-legacy or iptables-nft -F and -X in every table), or reboot the node",
		node:   oneBackend,
	},
	{
		ID: "nftables-leftovers", Title: "Rules of others", Severity: Advised,
		Why:       "Rules that another firewall or an earlier pod network left drop or rewrite packets that Calico lets through.",
		Threshold: "no tables or chains of another firewall or pod network", Source: "calico#12920, rke2#11170",
		Remedy: "remove what left them behind, then delete the tables and chains that are named, or reboot the node",
		node:   leftovers,
	},
	{
		ID: "firewalld", Title: "firewalld", Severity: Required, again: true,
		Why:       "firewalld writes its rules over Calico's when it starts or reloads.",
		Threshold: "neither running nor enabled", Source: srcRequirements + "; RKE2, known issues",
		Remedy: "systemctl disable --now firewalld",
		node:   func(_ *judging, n *NodeFacts) finding { return serviceOff(n, "firewalld") },
	},
	{
		ID: "nm-cloud-setup", Title: "nm-cloud-setup", Severity: Required, again: true,
		Why:       "It adds routing tables that take packets of pods off their way.",
		Threshold: "neither running nor enabled", Source: "RKE2, known issues (rke2#1053)",
		Remedy: "systemctl disable --now nm-cloud-setup.service nm-cloud-setup.timer, then reboot the node",
		node:   func(_ *judging, n *NodeFacts) finding { return serviceOff(n, "nm-cloud-setup") },
	},
	{
		ID: "network-manager", Title: "NetworkManager", Severity: Advised,
		Why:       "NetworkManager changes interfaces that it has not been told to leave alone.",
		Threshold: "not running, or unmanaged-devices has cali* and vxlan.calico (tunl* for IP-in-IP)", Source: srcRequirements,
		Remedy: "write unmanaged-devices=interface-name:cali*;interface-name:tunl*;interface-name:vxlan.calico;interface-name:flannel* into /etc/NetworkManager/conf.d/calico.conf and reload it",
		node:   networkManager,
	},
}

func oneBackend(_ *judging, n *NodeFacts) finding {
	legacy, u := need(n.LegacyTables)
	if u != nil {
		return *u
	}
	tables, u := need(n.NFTables)
	if u != nil {
		return *u
	}
	var nft []string
	for _, t := range tables {
		if t.Family == "ip" && slices.Contains([]string{"filter", "nat", "mangle", "raw"}, t.Name) && len(t.Chains) > 0 {
			nft = append(nft, t.Name)
		}
	}
	switch {
	case len(legacy) > 0 && len(nft) > 0:
		return miss("legacy tables %s beside nft tables %s", strings.Join(legacy, ", "), strings.Join(nft, ", "))
	case len(legacy) > 0:
		return pass("legacy")
	case len(nft) > 0:
		return pass("nft")
	}
	return pass("no rules of iptables")
}

// strangers are names of tables or beginnings of chains that others make.
var strangers = []struct{ table, chain, who string }{
	{table: "firewalld", who: "firewalld"},
	{table: "ufw", who: "ufw"},
	{chain: "ufw-", who: "ufw"},
	{chain: "CILIUM_", who: "Cilium"},
	{chain: "OLD_CILIUM_", who: "Cilium"},
	{chain: "WEAVE-", who: "Weave"},
	{chain: "ANTREA-", who: "Antrea"},
	{chain: "KUBE-ROUTER-", who: "kube-router"},
	{chain: "OVN-KUBE-", who: "OVN"},
}

func leftovers(j *judging, n *NodeFacts) finding {
	tables, u := need(n.NFTables)
	if u != nil {
		return *u
	}
	// The tables of the old iptables cannot be read without changing the kernel's
	// module list; that there are none is enough.
	var found []string
	for _, t := range tables {
		for _, s := range strangers {
			if s.table != "" && t.Name == s.table {
				found = append(found, "table "+t.Family+" "+t.Name+" ("+s.who+")")
			}
			for _, c := range t.Chains {
				if s.chain != "" && strings.HasPrefix(c, s.chain) {
					found = append(found, "chain "+c+" ("+s.who+")")
				}
			}
		}
		found = append(found, residue(j, t)...)
	}
	if len(found) > 0 {
		more := len(found) - 5
		text := strings.Join(found[:min(5, len(found))], ", ")
		if more > 0 {
			return miss("%s and %d more", text, more)
		}
		return miss("%s", text)
	}
	return pass("none in %d nftables tables", len(tables))
}

// residue is what flannel or Calico left although it is not on the cluster any more.
func residue(j *judging, t NFTable) (found []string) {
	if !j.cluster.DaemonSets.Known {
		return nil
	}
	flannel, felix := false, false
	for _, d := range j.cluster.DaemonSets.Value {
		flannel = flannel || d.Flavour == FlavourCanal || d.Flavour == FlavourRKE2Canal || d.Flavour == FlavourFlannel
		felix = felix || d.Flavour == FlavourCanal || d.Flavour == FlavourRKE2Canal || d.Flavour == FlavourCalico
	}
	if !felix && t.Family == "arp" && t.Name == "calico-arp" {
		found = append(found, "table arp calico-arp (Felix, which does not run)")
	}
	for _, c := range t.Chains {
		switch {
		case !flannel && strings.HasPrefix(c, "FLANNEL-"):
			found = append(found, "chain "+c+" (flannel, which does not run)")
		case !felix && strings.HasPrefix(c, "cali-") && !strings.Contains(c, ":"):
			found = append(found, "chain "+c+" (Felix, which does not run)")
		}
	}
	return found
}

func serviceOff(n *NodeFacts, name string) finding {
	services, u := need(n.Services)
	if u != nil {
		return *u
	}
	switch s, known := services[name]; {
	case !known:
		return unsure("it cannot be told what the node does with " + name)
	case s == ServiceRunning || s == ServiceEnabled:
		return miss("%s", s)
	default:
		return pass("%s", s)
	}
}

func networkManager(j *judging, n *NodeFacts) finding {
	m, u := need(n.NetworkManager)
	if u != nil {
		return *u
	}
	if !m.Running {
		return pass("not running")
	}
	wanted := []string{"cali*"}
	switch j.target.Encapsulation {
	case VXLAN:
		wanted = append(wanted, "vxlan.calico")
	case IPIP:
		wanted = append(wanted, "tunl*")
	}
	var missing []string
	for _, w := range wanted {
		if !slices.ContainsFunc(m.Unmanaged, func(p string) bool { return covers(strings.TrimPrefix(p, "interface-name:"), w) }) {
			missing = append(missing, w)
		}
	}
	if len(missing) > 0 {
		return miss("it runs and manages %s", strings.Join(missing, ", "))
	}
	return pass("it runs and leaves Calico's interfaces alone")
}

// covers says whether a pattern that may end with a star covers a name or pattern.
func covers(pattern, name string) bool {
	prefix, star := strings.CutSuffix(pattern, "*")
	if !star {
		return pattern == name
	}
	return strings.HasPrefix(strings.TrimSuffix(name, "*"), prefix)
}
