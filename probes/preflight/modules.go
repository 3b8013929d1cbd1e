package preflight

// Module is a kernel module and the option that builds it.
type Module struct{ Name, Option string }

// Modules are those that the node agent looks for.
func Modules() []Module {
	return []Module{
		{"ip_set", "CONFIG_IP_SET"},
		{"ip_set_hash_ip", "CONFIG_IP_SET_HASH_IP"},
		{"ip_set_hash_net", "CONFIG_IP_SET_HASH_NET"},
		{"ip_set_hash_ipport", "CONFIG_IP_SET_HASH_IPPORT"},
		{"xt_set", "CONFIG_NETFILTER_XT_SET"},
		{"xt_addrtype", "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE"},
		{"xt_comment", "CONFIG_NETFILTER_XT_MATCH_COMMENT"},
		{"xt_conntrack", "CONFIG_NETFILTER_XT_MATCH_CONNTRACK"},
		{"xt_mark", "CONFIG_NETFILTER_XT_MARK"},
		{"xt_multiport", "CONFIG_NETFILTER_XT_MATCH_MULTIPORT"},
		{"ipt_REJECT", "CONFIG_IP_NF_TARGET_REJECT"},
		{"nft_reject_ipv4", "CONFIG_NFT_REJECT_IPV4"},
		{"ipt_rpfilter", "CONFIG_IP_NF_MATCH_RPFILTER"},
		{"nft_fib_ipv4", "CONFIG_NFT_FIB_IPV4"},
		{"nf_conntrack", "CONFIG_NF_CONNTRACK"},
		{"nf_conntrack_netlink", "CONFIG_NF_CT_NETLINK"},
		{"ip_tables", "CONFIG_IP_NF_IPTABLES"},
		{"nf_tables", "CONFIG_NF_TABLES"},
		{"vxlan", "CONFIG_VXLAN"},
		{"ipip", "CONFIG_NET_IPIP"},
		{"ip_vs", "CONFIG_IP_VS"},
	}
}

// moduleNeed is met by any of its modules.
type moduleNeed struct {
	any []string
	// when says for which targets it is needed; nil is always.
	when func(*judging) bool
}

// moduleNeeds are what Felix's rules are made of: Calico's system requirements
// and the list of calicoctl node checksystem, without its names that no kernel has.
var moduleNeeds = []moduleNeed{
	{any: []string{"nf_conntrack"}},
	{any: []string{"ip_tables", "nf_tables"}},
	{any: []string{"ip_set"}},
	{any: []string{"ip_set_hash_ip"}},
	{any: []string{"ip_set_hash_net"}},
	{any: []string{"ip_set_hash_ipport"}},
	{any: []string{"xt_set"}},
	{any: []string{"xt_addrtype"}},
	{any: []string{"xt_comment"}},
	{any: []string{"xt_conntrack"}},
	{any: []string{"xt_mark"}},
	{any: []string{"xt_multiport"}},
	{any: []string{"ipt_REJECT", "nft_reject_ipv4"}},
	{any: []string{"ipt_rpfilter", "nft_fib_ipv4"}},
	{any: []string{"nf_conntrack_netlink"}},
	{any: []string{"vxlan"}, when: func(j *judging) bool { return j.target.Encapsulation == VXLAN }},
	{any: []string{"ipip"}, when: func(j *judging) bool { return j.target.Encapsulation == IPIP }},
	{any: []string{"ip_vs"}, when: func(j *judging) bool { return j.cluster.ProxyMode.Value == "ipvs" }},
}
