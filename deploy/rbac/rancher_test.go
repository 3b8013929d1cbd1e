package rbac

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write Rancher's manifests anew")

// rancherHead stands before what forRancher makes.
const rancherHead = `# For Rancher, made from the manifests of management and cluster by the tests of this folder.
# Bind the GlobalRole to the token's user, and on every downstream cluster the RoleTemplate
# of a project, where there is one, in the project that has the namespace.
`

// meta is what of metadata these objects have.
type meta struct {
	Name string `json:"name"`
}

// globalRole is Rancher's of management.cattle.io/v3: rules for the management cluster,
// and the RoleTemplates that hold on every downstream cluster.
type globalRole struct {
	metav1.TypeMeta       `json:",inline"`
	Metadata              meta                           `json:"metadata"`
	DisplayName           string                         `json:"displayName"`
	Description           string                         `json:"description"`
	Rules                 []rbacv1.PolicyRule            `json:"rules,omitempty"`
	NamespacedRules       map[string][]rbacv1.PolicyRule `json:"namespacedRules,omitempty"`
	InheritedClusterRoles []string                       `json:"inheritedClusterRoles,omitempty"`
}

// roleTemplate is Rancher's of management.cattle.io/v3.
type roleTemplate struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        meta                `json:"metadata"`
	DisplayName     string              `json:"displayName"`
	Description     string              `json:"description"`
	Context         string              `json:"context"`
	Rules           []rbacv1.PolicyRule `json:"rules"`
}

// forRancher is a capability's GlobalRole and RoleTemplates as YAML, from the manifests. A
// RoleTemplate holds in a cluster, or in the namespaces of a project, so that each namespace
// of a downstream cluster has one of its own.
func forRancher(c Capability) ([]byte, error) {
	management, err := read("management", c)
	if err != nil {
		return nil, err
	}
	cluster, err := read("cluster", c)
	if err != nil {
		return nil, err
	}
	global := globalRole{
		TypeMeta: rancherType("GlobalRole"), Metadata: meta{name(c)}, DisplayName: "Portcullis: " + string(c),
		Description: fmt.Sprintf("What Portcullis needs for %s on the management cluster and on every downstream cluster", what[c]),
	}
	for _, r := range management.clusterRoles {
		global.Rules = append(global.Rules, r.Rules...)
	}
	for _, r := range management.roles {
		if global.NamespacedRules == nil {
			global.NamespacedRules = map[string][]rbacv1.PolicyRule{}
		}
		global.NamespacedRules[r.Namespace] = append(global.NamespacedRules[r.Namespace], r.Rules...)
	}
	objects := []any{}
	for _, r := range cluster.clusterRoles {
		global.InheritedClusterRoles = append(global.InheritedClusterRoles, r.Name)
		objects = append(objects, roleTemplate{
			TypeMeta: rancherType("RoleTemplate"), Metadata: meta{r.Name}, DisplayName: "Portcullis: " + string(c),
			Description: fmt.Sprintf("What Portcullis needs for %s on a downstream cluster", what[c]), Context: "cluster", Rules: r.Rules,
		})
	}
	for _, r := range cluster.roles {
		objects = append(objects, roleTemplate{
			TypeMeta: rancherType("RoleTemplate"), Metadata: meta{r.Name + "-" + r.Namespace}, DisplayName: fmt.Sprintf("Portcullis: %s, %s", c, r.Namespace),
			Description: fmt.Sprintf("What Portcullis needs for %s in the namespace %s of a downstream cluster", what[c], r.Namespace), Context: "project", Rules: r.Rules,
		})
	}
	// Rancher refuses a GlobalRole that inherits what is not there.
	return documents(append(objects, global))
}

var what = map[Capability]string{
	Rollout: "rollouts and probes", Preflight: "preflights", Drift: "drift audits", Migration: "migrations from Canal to Calico",
}

func rancherType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: "management.cattle.io/v3", Kind: kind}
}

// name is the capability's GlobalRole.
func name(c Capability) string {
	if c == Rollout {
		return "portcullis"
	}
	return "portcullis-" + string(c)
}

func documents(objects []any) ([]byte, error) {
	parts := [][]byte{}
	for _, o := range objects {
		data, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		parts = append(parts, data)
	}
	return slices.Concat([]byte(rancherHead), bytes.Join(parts, []byte("---\n"))), nil
}

// Rancher's manifests say the same.
func TestRancher(t *testing.T) {
	for _, c := range Capabilities {
		want, err := forRancher(c)
		require.NoError(t, err)
		file := filepath.Join("rancher", string(c)+".yaml")
		if *update {
			require.NoError(t, os.WriteFile(file, want, 0o644))
		}
		got, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "go test ./deploy/rbac -update writes %s anew", file)
	}
	files, err := filepath.Glob("rancher/*")
	require.NoError(t, err)
	require.Len(t, files, len(Capabilities))
}
