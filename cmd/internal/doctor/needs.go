package doctor

import (
	"fmt"

	"portcullis.dev/portcullis/deploy/rbac"
	"portcullis.dev/portcullis/rancher"
)

// forNamespace is what the node agents need where their namespace is not there, or where Portcullis
// made it. One that a person made is left as it is.
func forNamespace(name string, there, ours bool) []rbac.Permission {
	namespace := func(verbs ...string) (out []rbac.Permission) {
		for _, v := range verbs {
			out = append(out, rbac.Permission{Resource: "namespaces", Name: name, Verb: v})
		}
		return out
	}
	switch {
	case !there:
		return namespace("create", "patch")
	case ours:
		return namespace("patch", "delete")
	}
	return nil
}

// fields are what of Fleet's types a rollout relies on, by kind: an older Fleet
// without them drops silently what is written to them, or never reports them.
var fields = map[string][]string{
	"GitRepo": {
		"spec.repo", "spec.revision", "spec.branch", "spec.paths", "spec.paused", "spec.targets", "spec.forceSyncGeneration",
		"status.observedGeneration", "status.commit", "status.conditions",
	},
	"Bundle":           {"status.observedGeneration", "status.resourcesSha256Sum"},
	"BundleDeployment": {"spec.stagedDeploymentID", "spec.deploymentID", "status.appliedDeploymentID", "status.ready", "status.nonModified"},
	"Cluster":          {"spec.paused", "status.agent.lastSeen"},
}

// sourceKey tells two pipelines that read one repository apart by nothing but that.
func sourceKey(s rancher.Source) string {
	return fmt.Sprintf("%s|%s|%s", s.Repo, s.Branch, s.ClientSecretName)
}
