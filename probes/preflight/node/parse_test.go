package node

import (
	"reflect"
	"strings"
	"testing"

	"portcullis.dev/portcullis/probes/preflight"
)

func TestParseKernelConfig(t *testing.T) {
	got := parseKernelConfig([]byte("# comment\n# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D=\"text\"\nodd\n"))
	if want := map[string]string{"CONFIG_B": "y", "CONFIG_C": "m", "CONFIG_D": "text"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestParseModules(t *testing.T) {
	got := parseModulesDep([]byte("kernel/net/netfilter/ipset/ip_set.ko.xz: kernel/a.ko\nkernel/drivers/net/vxlan/vxlan.ko:\nkernel/net/nf-conntrack.ko.zst: \nodd line\n"))
	if want := map[string]bool{"ip_set": true, "vxlan": true, "nf_conntrack": true}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	if got := parseProcModules([]byte("xt_set 16384 0 - Live 0x0\nip_set 1 1 xt_set, Live 0x0\n")); !got["xt_set"] || !got["ip_set"] || len(got) != 2 {
		t.Errorf("%v", got)
	}
	barred := map[string]bool{}
	parseModprobe([]byte("install ip-set /bin/false\ninstall vxlan /sbin/modprobe --ignore-install vxlan\nblacklist foo\n"), barred)
	if want := map[string]bool{"ip_set": true}; !reflect.DeepEqual(barred, want) {
		t.Errorf("%v", barred)
	}
}

func TestParseIPTables(t *testing.T) {
	for text, want := range map[string][3]string{
		"iptables v1.8.9 (nf_tables)\n": {"1.8.9", "nft"},
		"iptables v1.8.4 (legacy)\n":    {"1.8.4", "legacy"},
		"iptables v1.4.21\n":            {"1.4.21", "legacy"},
		"segfault":                      {"", "", "error"},
	} {
		number, flavour, err := parseIPTables(text)
		if number != want[0] || flavour != want[1] || (err != nil) != (want[2] != "") {
			t.Errorf("%q: %s %s %v", text, number, flavour, err)
		}
	}
}

func TestParseSysctl(t *testing.T) {
	got := map[string]string{}
	parseSysctl([]byte("net.ipv4.ip_forward = 0\n-net/ipv4/conf/all.1/rp_filter=2\n;x=1\nnet.ipv4.ip_forward=1\n"), got)
	if want := map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.1.rp_filter": "2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestParseUnmanaged(t *testing.T) {
	got := parseUnmanaged([]byte("[keyfile]\nunmanaged-devices=interface-name:cali*;interface-name:tunl*\nunmanaged-devices+=interface-name:vxlan.calico,\n"))
	if want := []string{"interface-name:cali*", "interface-name:tunl*", "interface-name:vxlan.calico"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}

func TestParseSubnetEnv(t *testing.T) {
	got, err := parseSubnetEnv([]byte("FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"))
	if want := (preflight.SubnetEnv{Present: true, Network: "10.42.0.0/16", Subnet: "10.42.1.1/24", MTU: 1450, IPMasq: true}); err != nil || got != want {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := parseSubnetEnv([]byte("FLANNEL_NETWORK=10.42.0.0/16\n")); err == nil {
		t.Error("no subnet is no error")
	}
}

func TestParseCNI(t *testing.T) {
	const canal = `{"name":"k8s-pod-network","cniVersion":"0.3.1","plugins":[{"type":"calico","mtu":1450,"ipam":{"type":"host-local"}},{"type":"portmap"}]}`
	for name, c := range map[string]struct {
		file, text string
		want       preflight.CNIConfig
	}{
		"canal":       {"10-canal.conflist", canal, preflight.CNIConfig{Name: "k8s-pod-network", Plugins: []string{"calico", "portmap"}, IPAM: "host-local", MTU: 1450}},
		"flannel":     {"10-flannel.conflist", `{"name":"cbr0","plugins":[{"type":"flannel","delegate":{"hairpinMode":true}},{"type":"portmap"}]}`, preflight.CNIConfig{Name: "cbr0", Plugins: []string{"flannel", "portmap"}}},
		"one":         {"10-bridge.conf", `{"name":"x","type":"bridge","ipam":{"type":"host-local"}}`, preflight.CNIConfig{Name: "x", Plugins: []string{"bridge"}, IPAM: "host-local"}},
		"empty":       {"10-dummy.conflist", `{}`, preflight.CNIConfig{Error: "it has no plugins"}},
		"not JSON":    {"a.conf", `hello`, preflight.CNIConfig{Error: "it is not JSON that can be read"}},
		"no type":     {"a.conflist", `{"name":"x","plugins":[{}]}`, preflight.CNIConfig{Name: "x", Error: "a plugin has no type"}},
		"no name":     {"a.conflist", `{"plugins":[{"type":"calico"}]}`, preflight.CNIConfig{Plugins: []string{"calico"}, Error: "it has no name"}},
		"mtu in text": {"a.conflist", `{"name":"x","plugins":[{"type":"calico","mtu":"__CNI_MTU__"}]}`, preflight.CNIConfig{Name: "x", Plugins: []string{"calico"}}},
	} {
		c.want.File = c.file
		if got := parseCNI(c.file, []byte(c.text)); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestParseSockets(t *testing.T) {
	text := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:238B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000\n" +
		"   1: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000\n"
	got, err := parseSockets([]byte(text))
	if err != nil || len(got) != 2 || got[0].port != 9099 || got[0].address.String() != "127.0.0.1" || !got[0].listening || got[0].inode != 12345 || got[1].port != 8472 {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := parseSockets([]byte("head\n 0: x\n")); err == nil {
		t.Error("a short line is no error")
	}
}

func TestPayload(t *testing.T) {
	packet := append(payload("0a0b0c0d", 7, 42), make([]byte, 100)...)
	session, round, from, ok := parsePayload(packet)
	if !ok || session != "0a0b0c0d" || round != 7 || from != 42 {
		t.Errorf("%s %d %d %v", session, round, from, ok)
	}
	// The first byte has not the bit of a VXLAN header.
	if packet[0]&0x08 != 0 {
		t.Error("an overlay's port would take it for one of its packets")
	}
}

func TestParseRequest(t *testing.T) {
	for line, want := range map[string]string{
		`x`:                                           "not a JSON object",
		`{"role":"facts"}`:                            "no version",
		`{"version":9,"role":"facts"}`:                "version 9",
		`{"version":1,"role":"facts","x":1}`:          "unknown field",
		`{"version":1,"role":"rm"}`:                   "role",
		`{"version":1,"role":"facts","ports":[0]}`:    "ports[0]",
		`{"version":1,"role":"listen","address":"x"}`: "address",
		`{"version":1,"role":"listen","address":"10.0.0.1","session":"zz"}`:                                                                 "session",
		`{"version":1,"role":"listen","address":"10.0.0.1","session":"00112233"}`:                                                           "paths",
		`{"version":1,"role":"listen","address":"10.0.0.1","session":"00112233","paths":[{"protocol":"ip","port":47}]}`:                     "paths[0]",
		`{"version":1,"role":"reach","session":"00112233","paths":[{"protocol":"tcp","port":5473}],"timeoutMillis":1}`:                      "timeoutMillis",
		`{"version":1,"role":"reach","session":"00112233","paths":[{"protocol":"tcp","port":5473}],"timeoutMillis":100,"sizes":[5]}`:        "sizes[0]",
		`{"version":1,"role":"reach","session":"00112233","paths":[{"protocol":"tcp","port":5473}],"timeoutMillis":100,"peers":[{"id":1}]}`: "peers[0]",
		`{"version":1,"role":"collect","round":-1}`:                                                                                         "round",
		`{"version":1,"role":"facts","ports":[179]}`:                                                                                        "",
		`{"version":1,"role":"bye"}`: "",
	} {
		_, err := ParseRequest([]byte(line))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", line, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

// What stands in files of nodes may be anything: the parsers neither panic nor
// give what is not one line.
func FuzzParsers(f *testing.F) {
	for _, s := range []string{
		"CONFIG_A=y", "kernel/a.ko: b.ko", "iptables v1.8.9 (nf_tables)", "net.ipv4.ip_forward=1", "install a /bin/false",
		"FLANNEL_SUBNET=10.42.0.1/24", `{"name":"x","plugins":[{"type":"calico"}]}`, "h\n 0: 0100007F:0050 0:0 0A 0 0 0 0 0 0 1", "PTPF/00/1/2\n",
		`{"version":1,"role":"facts"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parseKernelConfig(b)
		parseModulesDep(b)
		parseProcModules(b)
		parseModprobe(b, map[string]bool{})
		parseUnmanaged(b)
		parseSysctl(b, map[string]string{})
		_, _ = parseSockets(b)
		parsePayload(b)
		if _, _, err := parseIPTables(string(b)); err != nil && strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("%q", err)
		}
		if _, err := parseSubnetEnv(b); err != nil && strings.ContainsAny(err.Error(), "\n\r") {
			t.Errorf("%q", err)
		}
		for _, file := range []string{"a.conf", "a.conflist"} {
			if c := parseCNI(file, b); c.Error == "" && (len(c.Plugins) == 0 || c.Name == "") {
				t.Errorf("%+v is taken for good", c)
			}
		}
		if r, err := ParseRequest(b); err == nil && r.validate() != nil {
			t.Error("a request that is not valid was read")
		}
	})
}
