package rbac

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"

	"portcullis.dev/portcullis/rancher/drift"
)

// needed are the capabilities without which one does nothing.
var needed = map[Capability][]Capability{
	Preflight: {Rollout}, Drift: {Rollout}, Migration: {Rollout, Preflight},
}

// Every file is a capability's, and every role is bound to the user, and to nobody else.
func TestManifests(t *testing.T) {
	files, err := fs.Glob(manifests, "*/*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		folder, base := filepath.Split(file)
		c := Capability(strings.TrimSuffix(base, ".yaml"))
		require.Contains(t, Capabilities, c, file)
		m, err := read(filepath.Clean(folder), c)
		require.NoError(t, err)
		data, err := manifests.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, strings.Count(string(data), "\nkind: "), len(m.namespaces)+len(m.clusterRoles)+len(m.clusterRoleBindings)+len(m.roles)+len(m.roleBindings), file)

		subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: User}}
		bound := map[string]rbacv1.RoleRef{}
		for _, b := range m.clusterRoleBindings {
			require.Equal(t, subjects, b.Subjects, "%s: %s", file, b.Name)
			bound["ClusterRole "+b.Name] = b.RoleRef
		}
		for _, b := range m.roleBindings {
			require.Equal(t, subjects, b.Subjects, "%s: %s", file, b.Name)
			bound["Role "+b.Namespace+"/"+b.Name] = b.RoleRef
		}
		want := map[string]rbacv1.RoleRef{}
		for _, r := range m.clusterRoles {
			require.Nil(t, r.AggregationRule, "%s: %s", file, r.Name)
			want["ClusterRole "+r.Name] = rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: r.Name}
		}
		for _, r := range m.roles {
			require.NotEmpty(t, r.Namespace, "%s: %s", file, r.Name)
			want["Role "+r.Namespace+"/"+r.Name] = rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: r.Name}
		}
		require.Equal(t, want, bound, file)
	}
}

// Nothing is granted wholesale, and nothing twice.
func TestPermissionsAreSingle(t *testing.T) {
	for _, c := range Capabilities {
		for side, of := range map[string]func(Capability) []Permission{
			"management": func(c Capability) []Permission { return OnManagement(c, Workspace) },
			"cluster":    func(c Capability) []Permission { return OnCluster(c, AgentNamespace) },
		} {
			var before []Permission
			for _, n := range needed[c] {
				before = append(before, of(n)...)
			}
			for _, p := range of(c) {
				require.NotContains(t, p.Group+p.Resource+p.Subresource+p.Verb, "*", "%s of %s on %s", p, c, side)
				require.False(t, Allow(before, p), "%s grants %s on %s, which is granted already", c, p, side)
				before = append(before, p)
			}
		}
	}
	require.Empty(t, OnManagement(Preflight, Workspace))
	require.NotEmpty(t, OnCluster(Migration, AgentNamespace))
}

// The names that people give are put in.
func TestNames(t *testing.T) {
	has := func(all []Permission, what string) bool {
		return slices.ContainsFunc(all, func(p Permission) bool { return p.String() == what })
	}
	require.True(t, has(OnManagement(Rollout, "ours"), "create gitrepos.fleet.cattle.io in ours"))
	require.True(t, has(OnCluster(Rollout, "agents"), "get pods/exec in agents"))
	require.True(t, has(OnCluster(Rollout, "agents"), "get namespaces agents"))
	for _, p := range append(OnManagement(Rollout, "ours"), OnCluster(Rollout, "agents")...) {
		require.NotContains(t, p.String(), Workspace)
		require.NotContains(t, p.String(), AgentNamespace)
	}
}

func TestAllow(t *testing.T) {
	granted := []Permission{
		{Resource: "pods", Verb: "list"}, {Resource: "configmaps", Namespace: "a", Verb: "get"}, {Resource: "namespaces", Name: "a", Verb: "get"},
	}
	for text, c := range map[string]struct {
		request Permission
		want    bool
	}{
		"all":             {Permission{Resource: "pods", Verb: "list"}, true},
		"in a namespace":  {Permission{Resource: "pods", Namespace: "b", Verb: "list"}, true},
		"another verb":    {Permission{Resource: "pods", Verb: "get"}, false},
		"subresource":     {Permission{Resource: "pods", Subresource: "exec", Verb: "list"}, false},
		"another group":   {Permission{Group: "metrics.k8s.io", Resource: "pods", Verb: "list"}, false},
		"one of all":      {Permission{Resource: "configmaps", Namespace: "a", Name: "x", Verb: "get"}, true},
		"other namespace": {Permission{Resource: "configmaps", Namespace: "b", Name: "x", Verb: "get"}, false},
		"by name":         {Permission{Resource: "namespaces", Name: "a", Verb: "get"}, true},
		"another name":    {Permission{Resource: "namespaces", Name: "b", Verb: "get"}, false},
		"any name":        {Permission{Resource: "namespaces", Verb: "get"}, false},
	} {
		require.Equal(t, c.want, Allow(granted, c.request), text)
	}
}

// An audit lists every type that it watches, and reads Helm's releases.
func TestDriftIsWhatIsWatched(t *testing.T) {
	want := []string{"get secrets", "list secrets"}
	for _, w := range drift.Watched() {
		group, _, _ := strings.Cut(w.APIVersion, "/")
		want = append(want, Permission{Group: group, Resource: drift.Resource(w), Verb: "list"}.String())
	}
	got := []string{}
	for _, p := range OnCluster(Drift, AgentNamespace) {
		got = append(got, p.String())
	}
	require.ElementsMatch(t, want, got)
}

func TestParseIsStrict(t *testing.T) {
	const head = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: a, namespace: b}\n"
	for text, want := range map[string]string{
		head + "rules: [{apiGroups: [\"\"], resources: [pods], verbs: [get]}]": "",
		head + "rules: [{apigroups: [\"\"], resources: [pods], verbs: [get]}]": "unknown field",
		head + "rule: []":                                           "unknown field",
		head + "rules: []\nrules: []":                               "already set",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: a}":         "not what permissions are made of",
		"apiVersion: rbac.authorization.k8s.io/v1beta1\nkind: Role": "not what permissions are made of",
		"{": "version/kind",
	} {
		_, err := parse([]byte(text))
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want, text)
	}
}
