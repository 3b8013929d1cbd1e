package migration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The objects in which Calico keeps its addresses, as it writes them to
// crd.projectcalico.org/v1 (libcalico-go/lib/backend/k8s/resources, ipam_*.go).

// ipamAPI is their API version.
const ipamAPI = "crd.projectcalico.org/v1"

// BlockAffinity says that a block of addresses belongs to a node.
type BlockAffinity struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              BlockAffinitySpec `json:"spec"`
}

// BlockAffinitySpec is its content; Deleted is text there, not a boolean.
type BlockAffinitySpec struct {
	State   string `json:"state"`
	Node    string `json:"node"`
	CIDR    string `json:"cidr"`
	Deleted string `json:"deleted"`
}

// IPAMBlock has the addresses of a block: which are taken, and by whom.
type IPAMBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              IPAMBlockSpec `json:"spec"`
}

// IPAMBlockSpec is its content. Allocations has one entry for each address: null,
// or an index into Attributes.
type IPAMBlockSpec struct {
	CIDR                        string            `json:"cidr"`
	Affinity                    string            `json:"affinity"`
	StrictAffinity              bool              `json:"strictAffinity"`
	Allocations                 []*int            `json:"allocations"`
	Unallocated                 []int             `json:"unallocated"`
	Attributes                  []IPAMAttribute   `json:"attributes"`
	SequenceNumber              uint64            `json:"sequenceNumber"`
	SequenceNumberForAllocation map[string]uint64 `json:"sequenceNumberForAllocation"`
	Deleted                     bool              `json:"deleted"`
}

// IPAMAttribute says who has an address.
type IPAMAttribute struct {
	Handle    string            `json:"handle_id"`
	Secondary map[string]string `json:"secondary"`
}

// IPAMHandle finds the blocks in which an owner has addresses.
type IPAMHandle struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              IPAMHandleSpec `json:"spec"`
}

// IPAMHandleSpec is its content: how many addresses in which block.
type IPAMHandleSpec struct {
	HandleID string         `json:"handleID"`
	Block    map[string]int `json:"block"`
	Deleted  bool           `json:"deleted"`
}

// Claim is what makes a node's pod network the node's own in Calico's IPAM, so
// that Calico gives its pods no address that other nodes, still on flannel, would
// look for elsewhere.
type Claim struct {
	Affinities []BlockAffinity
	Blocks     []IPAMBlock
	// Handle owns the tunnel's address.
	Handle IPAMHandle
	// Tunnel is the address of the node's VXLAN device: the first of the pod
	// network, which is what Felix takes there while addresses come from host-local
	// (node/pkg/allocateip), so that it does not change on the way.
	Tunnel netip.Addr
}

// maxBlockBits bounds the blocks of one node: 4096.
const maxBlockBits = 12

// NewClaim claims the whole pod network of a node in blocks of the given prefix
// length. Addresses of pods are not in it: Calico's own CNI plugin takes those
// over when it is installed on the node (calico-ipam -upgrade).
func NewClaim(node string, pods netip.Prefix, size int) (Claim, error) {
	pods = pods.Masked()
	if !pods.Addr().Is4() || pods.Bits() > size || size > smallestBlock || size-pods.Bits() > maxBlockBits {
		return Claim{}, fmt.Errorf("node %s: the pod network %s cannot be cut into blocks of /%d", node, pods, size)
	}
	c := Claim{Tunnel: pods.Addr()}
	handle := "vxlan-tunnel-addr-" + node
	block := pods.Addr()
	for i := range 1 << (size - pods.Bits()) {
		cidr := netip.PrefixFrom(block, size)
		c.Affinities = append(c.Affinities, affinity(node, cidr))
		b := emptyBlock(node, cidr)
		if i == 0 {
			b.take(0, IPAMAttribute{Handle: handle, Secondary: map[string]string{"node": node, "type": "vxlanTunnelAddress"}})
			c.Handle = IPAMHandle{
				TypeMeta:   metav1.TypeMeta{APIVersion: ipamAPI, Kind: "IPAMHandle"},
				ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(handle)},
				Spec:       IPAMHandleSpec{HandleID: handle, Block: map[string]int{cidr.String(): 1}},
			}
		}
		c.Blocks = append(c.Blocks, b)
		block = after(cidr)
	}
	return c, nil
}

func affinity(node string, cidr netip.Prefix) BlockAffinity {
	return BlockAffinity{
		TypeMeta:   metav1.TypeMeta{APIVersion: ipamAPI, Kind: "BlockAffinity"},
		ObjectMeta: metav1.ObjectMeta{Name: affinityName(node, cidr)},
		Spec:       BlockAffinitySpec{State: "confirmed", Node: node, CIDR: cidr.String(), Deleted: "false"},
	}
}

// affinityName is Calico's name for it, shortened as Calico shortens it.
func affinityName(node string, cidr netip.Prefix) string {
	block := cidrName(cidr)
	name := node + "-" + block
	if len(name) < 253 {
		return name
	}
	sum := sha256.Sum256([]byte(node + "+" + block))
	return fmt.Sprintf("%s-%s-%s", node[:252-len(block)-13], block, hex.EncodeToString(sum[:])[:11])
}

func cidrName(cidr netip.Prefix) string {
	return strings.NewReplacer(".", "-", "/", "-").Replace(cidr.String())
}

func emptyBlock(node string, cidr netip.Prefix) IPAMBlock {
	addresses := 1 << (32 - cidr.Bits())
	spec := IPAMBlockSpec{
		CIDR: cidr.String(), Affinity: "host:" + node,
		Allocations: make([]*int, addresses), Unallocated: make([]int, addresses), Attributes: []IPAMAttribute{},
		SequenceNumber: 1, SequenceNumberForAllocation: map[string]uint64{},
	}
	for i := range spec.Unallocated {
		spec.Unallocated[i] = i
	}
	return IPAMBlock{
		TypeMeta:   metav1.TypeMeta{APIVersion: ipamAPI, Kind: "IPAMBlock"},
		ObjectMeta: metav1.ObjectMeta{Name: cidrName(cidr)},
		Spec:       spec,
	}
}

// take gives the first addresses of an empty block to an owner.
func (b *IPAMBlock) take(ordinal int, by IPAMAttribute) {
	index := len(b.Spec.Attributes)
	b.Spec.Attributes = append(b.Spec.Attributes, by)
	b.Spec.Allocations[ordinal] = &index
	b.Spec.SequenceNumberForAllocation[fmt.Sprint(ordinal)] = b.Spec.SequenceNumber
	for i, free := range b.Spec.Unallocated {
		if free == ordinal {
			b.Spec.Unallocated = append(b.Spec.Unallocated[:i], b.Spec.Unallocated[i+1:]...)
			return
		}
	}
}

// after is the first address behind a prefix.
func after(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += 1 << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
