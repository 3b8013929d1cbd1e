package cni

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// flanneldRules are the rules of flannel's iptables manager (pkg/trafficmngr/iptables).
const flanneldRules = `
-t nat -N FLANNEL-POSTRTG
-t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-t nat -A FLANNEL-POSTRTG -s 10.42.0.0/24 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-t nat -A FLANNEL-POSTRTG ! -s 10.42.0.0/16 -d 10.42.0.0/24 -m comment --comment "flanneld masq" -j RETURN
-t nat -A FLANNEL-POSTRTG -s 10.42.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-t nat -A FLANNEL-POSTRTG ! -s 10.42.0.0/16 -d 10.42.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-t filter -N FLANNEL-FWD
-t filter -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-t filter -A FLANNEL-FWD -s 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-t filter -A FLANNEL-FWD -d 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
`

// othersRules are such as kube-proxy, Felix and others write to the same chains. Each
// must be there afterwards as it was.
const othersRules = `
-t nat -N KUBE-POSTROUTING
-t nat -N cali-POSTROUTING
-t nat -A POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
-t nat -A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-t nat -A POSTROUTING -d 192.0.2.9/32 -p tcp -m tcp --dport 80 -j SNAT --to-source 192.0.2.1
-t nat -A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.0.2.5:80
-t nat -A OUTPUT -m addrtype --dst-type LOCAL -j RETURN
-t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-t nat -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-t nat -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-t filter -N cali-FORWARD
-t filter -A FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
-t filter -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-t filter -A FORWARD -m set --match-set cali-test src -j ACCEPT
-t filter -A FORWARD -p tcp -m multiport --dports 80,443,8000:8100 -j ACCEPT
-t filter -A FORWARD -m statistic --mode random --probability 0.33333333349 -j ACCEPT
-t filter -A FORWARD -p icmp -m icmp --icmp-type 8 -m limit --limit 5/sec -j ACCEPT
-t filter -A FORWARD -m physdev --physdev-is-bridged -j ACCEPT
-t filter -A FORWARD -p udp -m udp --dport 4789 -m comment --comment "a comment of nobody's" -m addrtype --src-type LOCAL -j ACCEPT
-t filter -A INPUT -m state --state INVALID -j DROP
-t filter -A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m connlimit --connlimit-above 100 -j REJECT --reject-with tcp-reset
-t filter -A INPUT -m recent --name portscan --rcheck --seconds 60 -j DROP
-t filter -A INPUT -m hashlimit --hashlimit-upto 5/sec --hashlimit-name h -j ACCEPT
-t filter -A OUTPUT -m owner --uid-owner 0 -j ACCEPT
-t filter -A cali-FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT
-t filter -A cali-FORWARD -j LOG --log-prefix "cali: "
-t filter -A cali-FORWARD -j NFLOG --nflog-group 1
`

// needProgram skips a test where this machine lacks a program, or its kernel what
// the program is for.
func needProgram(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("there is no %s on this machine", program)
	}
	list := []string{"-w", "-t", "nat", "-S"}
	if program == "nft" {
		list = []string{"list", "tables"}
	}
	inNamespace(t, func(t *testing.T) {
		if out, err := exec.Command(program, list...).CombinedOutput(); err != nil {
			t.Skipf("%s does not work on this machine: %s", program, out)
		}
	})
	if t.Skipped() {
		t.SkipNow()
	}
}

// write runs iptables with each line. Ones that this machine's kernel or iptables
// does not know are left out where some may be.
func (n *testNode) write(program, lines string, some bool) {
	n.Helper()
	written := 0
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if !some {
			n.sh(program + " -w " + line)
			continue
		}
		out, err := exec.Command("sh", "-c", program+" -w "+line).CombinedOutput()
		if err != nil {
			n.Logf("left out: %s: %s", line, strings.TrimSpace(string(out)))
			continue
		}
		written++
	}
	if some && written < 15 {
		n.Errorf("only %d rules of others could be written", written)
	}
}

func (n *testNode) rules(program string) string {
	n.Helper()
	var all strings.Builder
	for _, table := range []string{"nat", "filter"} {
		all.WriteString(n.sh(program + " -w -t " + table + " -S"))
	}
	return all.String()
}

func (n *testNode) calicosNow() {
	n.Helper()
	n.file(n.Conf, "10-calico.conflist", calico)
}

func TestFlannelsRulesGoAndOthersStay(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			program := "iptables-" + kind
			needProgram(t, program)
			inNode(t, func(n *testNode) {
				if out, err := exec.Command("ipset", "create", "cali-test", "hash:net").CombinedOutput(); err != nil {
					n.Logf("there is no IP set: %v: %s", err, out)
				}
				n.calicosNow()
				n.does(request(OpSave))
				n.write(program, othersRules, true)
				before := n.rules(program)
				n.write(program, flanneldRules, false)
				want := []string{
					"1 of flannel's rules and chain FLANNEL-FWD in table ip filter of iptables-" + kind,
					"1 of flannel's rules and chain FLANNEL-POSTRTG in table ip nat of iptables-" + kind,
				}
				state := n.ask(request(OpLook)).State
				for _, w := range want {
					if !slices.Contains(state.Residue, w) {
						n.Errorf("residue %q, unknown %q: want %q", state.Residue, state.Unknown, w)
					}
				}
				if reply := n.does(request(OpClean)); len(reply.State.Residue)+len(reply.State.Unknown) > 0 {
					n.Errorf("left: %q, unknown %q", reply.State.Residue, reply.State.Unknown)
				}
				if after := n.rules(program); after != before {
					n.Errorf("the rules of others were\n%sand are\n%s", before, after)
				}
			})
		})
	}
}

// Flannel of before 0.22 has no chains: its rules are known by their comments. A chain
// is left over where the rule that jumped to it is gone.
func TestOldRulesAndLoneChains(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			program := "iptables-" + kind
			needProgram(t, program)
			inNode(t, func(n *testNode) {
				n.calicosNow()
				n.does(request(OpSave))
				before := n.rules(program)
				n.write(program, `
					-t nat -A POSTROUTING -s 10.42.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE
					-t filter -A FORWARD -s 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
					-t filter -A FORWARD -d 10.42.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
					-t nat -N FLANNEL-POSTRTG
					-t nat -A FLANNEL-POSTRTG -j RETURN`, false)
				n.does(request(OpClean))
				if after := n.rules(program); after != before {
					n.Errorf("the rules were\n%sand are\n%s", before, after)
				}
			})
		})
	}
}

func TestFlannelsTablesGoAndCalicosStay(t *testing.T) {
	needProgram(t, "nft")
	inNode(t, func(n *testNode) {
		n.calicosNow()
		n.does(request(OpSave))
		n.sh(`nft 'add table ip flannel-ipv4; add chain ip flannel-ipv4 forward { type filter hook forward priority 0; }; add rule ip flannel-ipv4 forward ip saddr 10.42.0.0/16 accept; add table ip6 flannel-ipv6'`)
		n.sh(`nft 'add table arp calico-arp; add chain arp calico-arp filter-OUTPUT { type filter hook output priority 0; }; add table ip calico; add table inet firewalld'`)
		state := n.ask(request(OpLook)).State
		if !slices.Contains(state.Residue, "nftables table flannel-ipv4") || !slices.Contains(state.Residue, "nftables table flannel-ipv6") {
			n.Errorf("residue: %q", state.Residue)
		}
		n.does(request(OpClean))
		if got := strings.Fields(n.sh("nft list tables")); strings.Join(got, " ") != "table arp calico-arp table ip calico table inet firewalld" {
			n.Errorf("tables: %q", got)
		}
	})
}

func TestFilesRoutesAndDevicesGo(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.overlays()
		n.does(request(OpSave))
		n.file(n.Host.Run, "subnet.env", "FLANNEL_NETWORK=10.42.0.0/16\n")
		folder := filepath.Join(n.Networks, "k8s-pod-network")
		if err := os.Mkdir(folder, 0o755); err != nil {
			n.Error(err)
		}
		n.file(folder, "10.42.0.9", "abc\r\neth0")
		n.sh("ip route add blackhole 10.42.0.0/24 && ip route add blackhole 10.42.0.0/26 proto 80 && ip link add cni0 type bridge")
		n.does(request(OpEnter))
		n.does(request(OpSpares))

		// On a node that is Canal's, what Canal needs stays.
		canals := n.refuses(request(OpClean), "cannot remove file 10-canal.conflist: there is no other CNI configuration: without it, no pod could be started")
		if len(canals.State.Files) != 1 {
			n.Errorf("files: %+v", canals.State.Files)
		}
		if slices.ContainsFunc(canals.State.Residue, func(r string) bool { return strings.Contains(r, "networks") }) {
			n.Errorf("addresses that host-local gives are residue: %q", canals.State.Residue)
		}
		n.calicosNow()
		if got := n.ask(request(OpLook)).State.Residue; !slices.Equal(got, []string{
			"device flannel.1", "6 routes through flannel.1", "file 10-canal.conflist", "folder /var/lib/cni/networks/k8s-pod-network",
		}) {
			n.Errorf("residue: %q", got)
		}
		n.does(request(OpClean))
		n.felix(three...)
		n.does(request(OpUnlink))
		state := n.does(request(OpClean)).State
		if len(state.Residue)+len(state.Unknown) > 0 || len(state.Files) != 1 || state.Files[0].Name != "10-calico.conflist" {
			n.Errorf("left: %q, unknown %q, files %+v", state.Residue, state.Unknown, state.Files)
		}
		if got := n.sh("ip route show type blackhole"); strings.TrimSpace(got) != "blackhole 10.42.0.0/26 proto 80" {
			n.Errorf("black holes: %s", got)
		}
		if _, err := os.Lstat(folder); !errors.Is(err, fs.ErrNotExist) {
			n.Errorf("host-local's folder: %v", err)
		}
		// There is nothing that is not taken for Calico's where the network is not told.
		unsure := request(OpLook)
		unsure.Own = netip.Prefix{}
		n.sh("ip route add blackhole 10.42.0.0/24")
		if got := n.ask(unsure).State; len(got.Unknown) != 1 || !strings.Contains(got.Unknown[0], "whether a black hole is flannel's cannot be told") {
			n.Errorf("unknown: %q", got.Unknown)
		}
	})
}

// What was not saved, or was changed since, is not removed.
func TestCleanKeepsWhatHasNoCopy(t *testing.T) {
	inNode(t, func(n *testNode) {
		n.calicosNow()
		n.refuses(request(OpClean), "cannot remove file 10-canal.conflist: the CNI configuration was not saved for m1")
		n.does(request(OpSave))
		n.file(n.Conf, "10-canal.conflist", canal+" ")
		n.refuses(request(OpClean), "10-canal.conflist was changed after it was saved for m1")
		n.file(n.Conf, "10-canal.conflist", canal)
		n.file(n.Conf, "10-old.conflist"+retired, "{}")
		if state := n.does(request(OpClean)).State; len(state.Residue) > 0 {
			n.Errorf("left: %q", state.Residue)
		}
	})
}

// The rules of the old iptables are told where the node has no program to remove them.
func TestLegacyWithoutAProgram(t *testing.T) {
	needProgram(t, "iptables-legacy")
	inNode(t, func(n *testNode) {
		n.Root = t.TempDir()
		n.calicosNow()
		n.does(request(OpSave))
		n.write("iptables-legacy", flanneldRules, false)
		reply := n.refuses(request(OpClean), "the node has no iptables-legacy to remove them with: install it and repeat this, or reboot the node")
		if len(reply.State.Residue) != 2 {
			n.Errorf("residue: %q", reply.State.Residue)
		}
	})
}
