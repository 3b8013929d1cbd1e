package drift

// API groups and versions of what is looked at.
const (
	// CalicoStored is how Calico's objects are stored, and CalicoServed how its API
	// server shows them.
	CalicoStored = "crd.projectcalico.org/v1"
	CalicoServed = "projectcalico.org/v3"
	Networking   = "networking.k8s.io/v1"
	AdminAlpha1  = "policy.networking.k8s.io/v1alpha1"
	AdminAlpha2  = "policy.networking.k8s.io/v1alpha2"
)

// How a type is compared.
type rules struct {
	// resource is its plural in URLs.
	resource string
	// policy is set where an object that belongs to no release is drift by itself.
	policy bool
	// exact is set where all of the defaults are known, so that a field that is not
	// wished was added by somebody.
	exact bool
	// labels is set where labels are what selectors of policies look at.
	labels bool
	// canon turns a body into the one way of writing it; nil takes it as it is.
	canon func(body map[string]any) map[string]any
	// ordered says whether the order of the list at the last segment of a path matters.
	ordered func(segment string) bool
}

var known = knownTypes()

func knownTypes() map[Type]rules {
	out := map[Type]rules{
		{Networking, "NetworkPolicy"}: {resource: "networkpolicies", policy: true, exact: true, canon: canonNetworkPolicy, ordered: never},
	}
	for _, version := range []string{CalicoStored, CalicoServed} {
		for kind, r := range map[string]rules{
			"GlobalNetworkPolicy": {resource: "globalnetworkpolicies", policy: true, canon: canonCalicoPolicy, ordered: calicoOrdered},
			"NetworkPolicy":       {resource: "networkpolicies", policy: true, canon: canonCalicoPolicy, ordered: calicoOrdered},
			"GlobalNetworkSet":    {resource: "globalnetworksets", policy: true, labels: true, canon: canonCalicoSet, ordered: never},
			"NetworkSet":          {resource: "networksets", policy: true, labels: true, canon: canonCalicoSet, ordered: never},
			"Tier":                {resource: "tiers", policy: true, canon: canonTier, ordered: never},
			"HostEndpoint":        {resource: "hostendpoints", labels: true, canon: canonCalicoSet, ordered: never},
			"FelixConfiguration":  {resource: "felixconfigurations", canon: canonFelix, ordered: never},
		} {
			r.exact = true
			out[Type{version, kind}] = r
		}
	}
	for _, version := range []string{AdminAlpha1, AdminAlpha2} {
		for kind, resource := range map[string]string{
			"AdminNetworkPolicy": "adminnetworkpolicies", "BaselineAdminNetworkPolicy": "baselineadminnetworkpolicies",
			"ClusterNetworkPolicy": "clusternetworkpolicies",
		} {
			out[Type{version, kind}] = rules{resource: resource, policy: true, exact: true, canon: canonAdmin, ordered: calicoOrdered}
		}
	}
	return out
}

// rulesOf is how a type is compared. Of one that is not known, every wished field must
// be there; what else there is may have been filled in by the API server.
func rulesOf(t Type) rules {
	if r, ok := known[t]; ok {
		return r
	}
	return rules{ordered: always}
}

// Watched are the types that are listed on every cluster, whatever is wished.
func Watched() []Type {
	return []Type{
		{Networking, "NetworkPolicy"},
		{CalicoStored, "GlobalNetworkPolicy"}, {CalicoStored, "NetworkPolicy"},
		{CalicoStored, "GlobalNetworkSet"}, {CalicoStored, "NetworkSet"},
		{CalicoStored, "Tier"}, {CalicoStored, "FelixConfiguration"},
		{AdminAlpha1, "AdminNetworkPolicy"}, {AdminAlpha1, "BaselineAdminNetworkPolicy"},
		{AdminAlpha2, "ClusterNetworkPolicy"},
	}
}

// Resource is the plural of a known type, or "".
func Resource(t Type) string { return known[t].resource }

// Unread says why objects of a type are never read, or "".
func Unread(t Type) string {
	if t == (Type{"v1", "Secret"}) {
		return "Secrets are not read"
	}
	return ""
}

// builtIn says whether Calico itself makes the object on every cluster.
func builtIn(k Key) bool {
	if k.Kind != "Tier" || k.group() != "crd.projectcalico.org" && k.group() != "projectcalico.org" {
		return false
	}
	switch k.Name {
	case "default", "adminnetworkpolicy", "baselineadminnetworkpolicy", "kube-admin", "kube-baseline":
		return true
	}
	return false
}

func (k Key) group() string { return k.Type().group() }

func never(string) bool  { return false }
func always(string) bool { return true }

// calicoOrdered: the first rule that matches decides; all other lists are sets.
func calicoOrdered(segment string) bool { return segment == "ingress" || segment == "egress" }
