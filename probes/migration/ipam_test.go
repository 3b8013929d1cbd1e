package migration

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

// Every address of the pod network is in exactly one block of the node, and all but
// the tunnel's are free.
func TestClaimCoversThePodNetwork(t *testing.T) {
	for _, test := range []struct {
		pods   string
		size   int
		blocks int
	}{
		{"10.42.3.0/24", 26, 4}, {"10.42.3.0/26", 26, 1}, {"10.42.0.0/20", 26, 64}, {"10.255.255.0/24", 28, 16},
		{"10.42.3.77/24", 26, 4}, // a pod network written with a host's address
	} {
		pods := netip.MustParsePrefix(test.pods).Masked()
		c, err := NewClaim("node-1", netip.MustParsePrefix(test.pods), test.size)
		if err != nil || len(c.Blocks) != test.blocks || len(c.Affinities) != test.blocks {
			t.Fatalf("%s: %d blocks, %d affinities (%v), want %d", test.pods, len(c.Blocks), len(c.Affinities), err, test.blocks)
		}
		free, taken := 0, 0
		seen := map[netip.Addr]bool{}
		for i, b := range c.Blocks {
			cidr := netip.MustParsePrefix(b.Spec.CIDR)
			if !pods.Contains(cidr.Addr()) || cidr != cidr.Masked() || c.Affinities[i].Spec.CIDR != b.Spec.CIDR || b.Spec.Affinity != "host:node-1" {
				t.Errorf("%s: block %+v", test.pods, b.Spec)
			}
			for a := cidr.Addr(); cidr.Contains(a); a = a.Next() {
				seen[a] = true
			}
			free += len(b.Spec.Unallocated)
			for ordinal, owner := range b.Spec.Allocations {
				if owner == nil {
					continue
				}
				taken++
				if b.Spec.Attributes[*owner].Secondary["type"] != "vxlanTunnelAddress" || b.Spec.SequenceNumberForAllocation["0"] != b.Spec.SequenceNumber {
					t.Errorf("%s: address %d of %s is of %+v", test.pods, ordinal, cidr, b.Spec.Attributes[*owner])
				}
			}
		}
		want := 1 << (32 - pods.Bits())
		if len(seen) != want || free != want-1 || taken != 1 || c.Tunnel != pods.Addr() {
			t.Errorf("%s: %d addresses, %d free, %d taken, tunnel %s", test.pods, len(seen), free, taken, c.Tunnel)
		}
	}
}

func TestClaimRefuses(t *testing.T) {
	for _, test := range []struct {
		pods string
		size int
	}{{"10.42.3.0/27", 26}, {"fd00::/64", 122}, {"10.0.0.0/8", 26}, {"10.42.0.0/24", 33}} {
		if _, err := NewClaim("n", netip.MustParsePrefix(test.pods), test.size); err == nil {
			t.Errorf("%s in blocks of /%d is claimed", test.pods, test.size)
		}
	}
}

// What is written has the names and forms that Calico's own client writes and reads.
func TestClaimIsWrittenAsCalicoDoes(t *testing.T) {
	c, err := NewClaim("Node.A", netip.MustParsePrefix("10.42.1.0/30"), 31)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		object any
		want   string
	}{
		{c.Affinities[1], `"metadata":{"name":"Node.A-10-42-1-2-31"},"spec":{"state":"confirmed","node":"Node.A","cidr":"10.42.1.2/31","deleted":"false"}`},
		{c.Blocks[0], `"metadata":{"name":"10-42-1-0-31"},"spec":{"cidr":"10.42.1.0/31","affinity":"host:Node.A","strictAffinity":false,"allocations":[0,null],"unallocated":[1],"attributes":[{"handle_id":"vxlan-tunnel-addr-Node.A","secondary":{"node":"Node.A","type":"vxlanTunnelAddress"}}],"sequenceNumber":1,"sequenceNumberForAllocation":{"0":1},"deleted":false}`},
		{c.Blocks[1], `"allocations":[null,null],"unallocated":[0,1],"attributes":[],"sequenceNumber":1,"sequenceNumberForAllocation":{},"deleted":false}`},
		{c.Handle, `"metadata":{"name":"vxlan-tunnel-addr-node.a"},"spec":{"handleID":"vxlan-tunnel-addr-Node.A","block":{"10.42.1.0/31":1},"deleted":false}`},
	} {
		data, err := json.Marshal(test.object)
		if err != nil || !strings.Contains(string(data), test.want) || !strings.Contains(string(data), `"apiVersion":"crd.projectcalico.org/v1"`) {
			t.Errorf("written as %s (%v), want %s", data, err, test.want)
		}
	}
	long := affinityName(strings.Repeat("n", 253), netip.MustParsePrefix("10.42.1.0/26"))
	if len(long) > 253 || !strings.Contains(long, "-10-42-1-0-26-") {
		t.Errorf("a long name becomes %q (%d)", long, len(long))
	}
}
