package migrate

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"portcullis.dev/portcullis/deploy/rbac"
)

// granted is what deploy/rbac grants to those who migrate, and what whoever lets Portcullis
// make its own namespace grants besides.
var granted = slices.Concat(
	rbac.OnCluster(rbac.Rollout, rbac.AgentNamespace), rbac.OnCluster(rbac.Preflight, rbac.AgentNamespace), rbac.OnCluster(rbac.Migration, rbac.AgentNamespace),
	[]rbac.Permission{
		{Resource: "namespaces", Verb: "create"}, {Resource: "namespaces", Name: rbac.AgentNamespace, Verb: "patch"},
		{Resource: "namespaces", Name: rbac.AgentNamespace, Verb: "delete"},
	})

// used are the permissions that the tests of this package needed.
var (
	usedMu sync.Mutex
	used   = map[rbac.Permission]bool{}
)

// verbs of requests that are not for all objects of a type.
var verbs = map[string]string{
	http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// authorize refuses what deploy/rbac does not grant, as an API server does.
func (s *apiserver) authorize(req *http.Request, t aimed) error {
	gr := t.resource()
	p := rbac.Permission{Group: gr.Group, Resource: gr.Resource, Subresource: t.sub, Namespace: t.namespace, Name: t.name, Verb: verbs[req.Method]}
	if p.Verb == "get" && t.name == "" {
		p.Verb = "list"
	}
	asked := []string{p.Verb}
	if p.Verb == "patch" && req.Header.Get("Content-Type") == string(types.ApplyPatchType) && s.objects[t.key(t.namespace, t.name)] == nil {
		asked = append(asked, "create")
	}
	// Who has not all the rights that a role has needs these to write it, or to bind it.
	if p.Group == rbacv1.GroupName && slices.Contains([]string{"create", "update", "patch"}, p.Verb) {
		switch p.Resource {
		case "clusterroles":
			asked = append(asked, "escalate")
		case "clusterrolebindings":
			needed(rbac.Permission{Group: p.Group, Resource: "clusterroles", Verb: "bind"})
		}
	}
	for _, verb := range asked {
		p.Verb = verb
		if !rbac.Allow(granted, p) {
			return apierrors.NewForbidden(gr, t.name, fmt.Errorf("deploy/rbac does not grant %s", p))
		}
		needed(p)
	}
	return nil
}

func needed(p rbac.Permission) {
	usedMu.Lock()
	defer usedMu.Unlock()
	used[p] = true
}

const (
	typha   = "a manifest with Typha has one"
	another = "it is where Canal's manifest and Calico's differ in it"
)

// idle says why a permission for migrations is granted that these tests do not need.
var idle = map[string]string{
	"get services in kube-system": typha, "create services in kube-system": typha, "update services in kube-system": typha,
	"patch services in kube-system": typha, "delete services in kube-system": typha,
	"create customresourcedefinitions.apiextensions.k8s.io": "Canal has them all, unless it is older",
	"patch ipamconfigs.crd.projectcalico.org":               "there is one before a migration only where somebody made it",
	"create deployments.apps in kube-system":                another, "update deployments.apps in kube-system": another, "delete deployments.apps in kube-system": another,
	"update serviceaccounts in kube-system": another, "update configmaps in kube-system": another,
	"update poddisruptionbudgets.policy in kube-system": another, "update clusterrolebindings.rbac.authorization.k8s.io": another,
}

// unused are the permissions for migrations that no test needed though it is not said why, and
// those that were needed though they are said to be idle.
func unused() (out []string) {
	for _, p := range rbac.OnCluster(rbac.Migration, rbac.AgentNamespace) {
		was := false
		for u := range used {
			was = was || rbac.Allow([]rbac.Permission{p}, u)
		}
		if was == (idle[p.String()] != "") {
			out = append(out, p.String())
		}
	}
	slices.Sort(out)
	return out
}

// TestMain: where all tests have run, every permission of deploy/rbac for migrations was needed.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	filtered := false
	flag.Visit(func(f *flag.Flag) {
		filtered = filtered || slices.Contains([]string{"test.run", "test.skip", "test.short", "test.list", "test.fuzz", "test.bench"}, f.Name)
	})
	if missing := unused(); code == 0 && !filtered && len(missing) > 0 {
		fmt.Fprintf(os.Stderr, "deploy/rbac/cluster/migration.yaml grants what no test needs, or is said to need: %s\n", strings.Join(missing, "; "))
		code = 1
	}
	os.Exit(code)
}
