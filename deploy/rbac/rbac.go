// Package rbac has what Portcullis may do on the management cluster and on
// downstream clusters: manifests for people to apply, and the same read as
// permissions, one by one, for those who ask whether they are granted.
package rbac

import (
	"bufio"
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

//go:embed management cluster
var manifests embed.FS

// Capability is a part of what Portcullis does that needs permissions of its own.
type Capability string

// The capabilities. Preflight and Drift need Rollout, and Migration needs Rollout and Preflight.
const (
	Rollout   Capability = "rollout"
	Preflight Capability = "preflight"
	Drift     Capability = "drift"
	Migration Capability = "migration"
)

// Capabilities has all of them.
var Capabilities = []Capability{Rollout, Preflight, Drift, Migration}

// Names that the manifests have. What a person calls otherwise is replaced in them.
const (
	// Workspace is Fleet's.
	Workspace = "fleet-default"
	// AgentNamespace is where the node agents are.
	AgentNamespace = "portcullis-system"
	// User is whose token Portcullis has.
	User = "u-portcullis"
)

// Permission is one verb on one resource, as a request has it.
type Permission struct {
	// Group is empty for the core group.
	Group, Resource, Subresource string
	// Namespace is empty for all of them, and for what is in none; Name is empty for all names.
	Namespace, Name string
	Verb            string
}

// String is as people write it: create pods/exec in portcullis-system.
func (p Permission) String() string {
	s := p.Verb + " " + p.Resource
	if p.Subresource != "" {
		s += "/" + p.Subresource
	}
	if p.Group != "" {
		s += "." + p.Group
	}
	if p.Name != "" {
		s += " " + p.Name
	}
	if p.Namespace != "" {
		s += " in " + p.Namespace
	}
	return s
}

// OnManagement is what a capability needs on the management cluster, besides the
// capabilities that it needs itself. The Fleet workspace is the given one.
func OnManagement(c Capability, workspace string) []Permission {
	return renamed(all().management[c], Workspace, workspace)
}

// OnCluster is what a capability needs on a downstream cluster, besides the
// capabilities that it needs itself. The node agents are in the given namespace.
func OnCluster(c Capability, agentNamespace string) []Permission {
	return renamed(all().cluster[c], AgentNamespace, agentNamespace)
}

func renamed(permissions []Permission, from, to string) []Permission {
	out := make([]Permission, len(permissions))
	for i, p := range permissions {
		if p.Namespace == from {
			p.Namespace = to
		}
		if p.Resource == "namespaces" && p.Name == from {
			p.Name = to
		}
		out[i] = p
	}
	return out
}

// sides are the permissions of each capability.
type sides struct{ management, cluster map[Capability][]Permission }

// all reads the manifests once. They come with the program, and a test reads them: that
// they cannot be read is a mistake in the program.
var all = sync.OnceValue(func() sides {
	out := sides{map[Capability][]Permission{}, map[Capability][]Permission{}}
	for _, c := range Capabilities {
		for folder, into := range map[string]map[Capability][]Permission{"management": out.management, "cluster": out.cluster} {
			m, err := read(folder, c)
			if err != nil {
				panic("deploy/rbac: " + err.Error())
			}
			into[c] = m.permissions()
		}
	}
	return out
})

// manifest is one file, read.
type manifest struct {
	namespaces          []*corev1.Namespace
	clusterRoles        []*rbacv1.ClusterRole
	clusterRoleBindings []*rbacv1.ClusterRoleBinding
	roles               []*rbacv1.Role
	roleBindings        []*rbacv1.RoleBinding
}

// read reads a capability's manifest; where there is none, it needs nothing there.
func read(folder string, c Capability) (*manifest, error) {
	entries, err := manifests.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name() != string(c)+".yaml" {
			continue
		}
		path := folder + "/" + e.Name()
		data, err := manifests.ReadFile(path)
		if err != nil {
			return nil, err
		}
		m, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return m, nil
	}
	return &manifest{}, nil
}

// decoder is the API server's own: a field that is not known, or stands twice, is an error.
var decoder = serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()

// parse reads YAML documents strictly.
func parse(data []byte) (*manifest, error) {
	m := &manifest{}
	for reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data))); ; {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
		o, kind, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			return nil, err
		}
		switch o := o.(type) {
		case *corev1.Namespace:
			m.namespaces = append(m.namespaces, o)
		case *rbacv1.ClusterRole:
			m.clusterRoles = append(m.clusterRoles, o)
		case *rbacv1.ClusterRoleBinding:
			m.clusterRoleBindings = append(m.clusterRoleBindings, o)
		case *rbacv1.Role:
			m.roles = append(m.roles, o)
		case *rbacv1.RoleBinding:
			m.roleBindings = append(m.roleBindings, o)
		default:
			return nil, fmt.Errorf("%s is not what permissions are made of", kind)
		}
	}
}

func (m *manifest) permissions() []Permission {
	var out []Permission
	for _, r := range m.clusterRoles {
		out = append(out, single(r.Rules, "")...)
	}
	for _, r := range m.roles {
		out = append(out, single(r.Rules, r.Namespace)...)
	}
	return out
}

// single takes rules apart.
func single(rules []rbacv1.PolicyRule, namespace string) []Permission {
	var out []Permission
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				base, sub, _ := strings.Cut(resource, "/")
				for _, name := range names {
					for _, verb := range r.Verbs {
						out = append(out, Permission{Group: group, Resource: base, Subresource: sub, Namespace: namespace, Name: name, Verb: verb})
					}
				}
			}
		}
	}
	return out
}

// Allow tells whether permissions let a request be made that is about namespace and name;
// both are empty for a request about all of them.
func Allow(granted []Permission, request Permission) bool {
	for _, p := range granted {
		if p.Group == request.Group && p.Resource == request.Resource && p.Subresource == request.Subresource && p.Verb == request.Verb &&
			(p.Namespace == "" || p.Namespace == request.Namespace) && (p.Name == "" || p.Name == request.Name) {
			return true
		}
	}
	return false
}
