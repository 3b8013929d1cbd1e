package migrations

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"portcullis.dev/portcullis/deploy/lab/internal/drive/drivetest"
	"portcullis.dev/portcullis/deploy/lab/internal/snapshot"
)

// unlisted are kinds that are not asked for: they pass, or cannot be listed in peace.
var unlisted = []string{"componentstatuses", "events", "events.events.k8s.io", "leases.coordination.k8s.io", "pods", "endpoints", "endpointslices.discovery.k8s.io"}

// objects are all of the cluster, and the mark that a migration leaves in the
// management cluster.
func objects(t *testing.T) snapshot.Objects {
	t.Helper()
	text := p.MustKubectl(t, cluster, "api-resources", "--verbs=list", "-o", "name")
	kinds := slices.DeleteFunc(strings.Fields(text), func(k string) bool { return slices.Contains(unlisted, k) })
	here := p.MustKubectl(t, cluster, "get", strings.Join(kinds, ","), "-A", "-o", "json")
	there := p.MustKubectl(t, "mgmt", "-n", "fleet-default", "get", "clusters.fleet.cattle.io", "-o", "json")
	out, err := snapshot.Of([]byte(here), []byte(there))
	must(t, err)
	return out
}

// nodeState is a shell's words that tell what a node's network is made of, but for
// the pods' own: configurations, what was kept, overlays, routes through them.
const nodeState = `cd /etc/cni/net.d && for f in *; do case $f in *kubeconfig) echo "file $f";; *) sha256sum $f;; esac; done
find /var/lib/portcullis -type f 2>/dev/null | sed 's/^/kept /'
ip -o link show type vxlan | cut -d: -f2
ip route | grep -E 'flannel|vxlan' | sort
ip route show type blackhole
ip rule
ls -d /run/flannel/* /var/lib/cni/networks/* 2>/dev/null
iptables-save 2>/dev/null | grep -oE '^:FLANNEL[A-Z-]*' | sort
true`

// picture is all that a migration changes and must put back.
type picture struct {
	objects snapshot.Objects
	nodes   map[string]string
}

func take(t *testing.T) picture {
	t.Helper()
	out := picture{objects: objects(t), nodes: map[string]string{}}
	for _, n := range now.nodes {
		out.nodes[n] = p.MustInNode(t, n, nodeState)
	}
	return out
}

// diff is empty where nothing has changed.
func (before picture) diff(now picture) string {
	out := snapshot.Diff(before.objects, now.objects)
	for _, n := range slices.Sorted(maps.Keys(before.nodes)) {
		if was, is := before.nodes[n], now.nodes[n]; was != is {
			out = append(out, fmt.Sprintf("%s:\n%s\nit was\n%s", n, is, was))
		}
	}
	return strings.Join(out, "\n")
}

// same waits until everything is as it was: a node that has booted needs a while.
func (before picture) same(t *testing.T, limit time.Duration) {
	t.Helper()
	drivetest.Eventually(t, limit, "the cluster to be as it was", func() string { return before.diff(take(t)) })
}

// pods are those with an address of their own, but for the migration's and Calico's.
func pods(t *testing.T) []corev1.Pod {
	t.Helper()
	text := p.MustKubectl(t, cluster, "get", "pods", "-A", "-o", "json")
	var list corev1.PodList
	must(t, json.Unmarshal([]byte(text), &list))
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return p.Spec.HostNetwork || p.Namespace == "portcullis-system" || p.Labels["k8s-app"] == "calico-kube-controllers"
	})
}

// choice is what a migration writes into objects; images have such names, too.
var choice = regexp.MustCompile(`portcullis\.dev/(cni|migration|cordoned|purpose)\b`)

// clean wants nothing to be left of Canal, flannel and the migration on a cluster with Calico.
func clean(t *testing.T) {
	t.Helper()
	if found := left(t); len(found) > 0 {
		t.Errorf("left: %s", strings.Join(found, "\n"))
	}
}

// left finds what is left of Canal, flannel and the migration on a cluster with Calico.
func left(t *testing.T) (found []string) {
	t.Helper()
	for name, fields := range objects(t) {
		kind, called, _ := strings.Cut(name, " ")
		about := strings.Contains(called, "flannel") || strings.Contains(called, "canal") || strings.Contains(called, "portcullis-migrat")
		if about && kind != "Node" && !ours(name) {
			found = append(found, name)
		}
		for path, value := range fields {
			if choice.MatchString(path+" "+value) || strings.Contains(path, "flannel.alpha.coreos.com") {
				found = append(found, fmt.Sprintf("%s: %s=%s", name, path, value))
			}
		}
	}
	for _, n := range now.nodes {
		for line := range strings.Lines(p.MustInNode(t, n, residue)) {
			found = append(found, n+": "+strings.TrimSpace(line))
		}
	}
	slices.Sort(found)
	return found
}

// ours are objects that have such names or marks for other reasons: Fleet's of the
// cluster canal, CSINodes and the like of its nodes, Portcullis' own for rollouts.
func ours(name string) bool {
	kind, called, _ := strings.Cut(name, " ")
	switch {
	case strings.HasSuffix(kind, ".fleet.cattle.io"), strings.HasPrefix(kind, "CSI"), strings.HasPrefix(called, "portcullis-system/"), strings.HasPrefix(called, "cattle-fleet-system/"):
		return true
	}
	// Calico names its own objects by node.
	return slices.ContainsFunc(now.nodes, func(n string) bool { return strings.Contains(called, n) })
}

// residue is a shell's words that print a line for each thing of Canal's or the
// migration's that a node still has; and for what kube-proxy must still have.
const residue = `ip -o link show type vxlan | grep flannel
ip route show table all | grep -E 'flannel'
iptables-save | grep FLANNEL
nft list tables 2>/dev/null | grep flannel
ls -A /etc/cni/net.d | grep -vxE '10-calico.conflist|calico-kubeconfig'
ls -d /run/flannel/* /var/lib/cni/networks/* 2>/dev/null
find /var/lib/portcullis -type f 2>/dev/null
iptables-save -t nat | grep -q KUBE-SERVICES || echo "kube-proxy's rules are gone"
true`
