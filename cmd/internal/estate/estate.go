// Package estate stands in for Git, Rancher, Fleet and the node agents in tests in
// which Temporal, the workflows and the daemon are real: one cluster, always well.
package estate

import (
	"context"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

// Register puts the activities of a rollout on a worker.
func Register(r worker.ActivityRegistry) {
	for name, f := range map[string]any{
		contract.ActResolve: func(context.Context, source.ResolveInput) (*source.Revision, error) {
			return &source.Revision{Commit: strings.Repeat("c", 40), Subject: "Let web reach api", Author: "dev"}, nil
		},
		contract.ActInspect: func(_ context.Context, in source.InspectInput) (*source.Inspection, error) {
			return &source.Inspection{Changes: map[string][]source.Change{in.Since[0]: {{Path: "web.yaml", Kind: "modified", Objects: []string{"NetworkPolicy/web"}}}}}, nil
		},
		contract.ActClusters: func(context.Context) ([]rancher.Cluster, error) { return []rancher.Cluster{prod()}, nil },
		contract.ActPlan: func(context.Context, deliver.PlanInput) (*deliver.Plan, error) {
			return &deliver.Plan{Namespace: "fleet-default", Hash: "plan", Environments: []deliver.EnvironmentPlan{{Name: "prod", Hash: "plan-of-prod", Units: []rancher.Unit{{
				Namespace: "fleet-default", GitRepo: "policies-prod", Clusters: []rancher.Cluster{prod()},
				Before: rancher.Before{Kind: rancher.RestoreVerified, Revision: strings.Repeat("b", 40), Current: strings.Repeat("b", 40)},
			}}}}}, nil
		},
		contract.ActStage: func(context.Context, deliver.UnitInput) (*deliver.Staged, error) {
			return &deliver.Staged{Clusters: []rancher.ClusterStatus{{Cluster: prod().Name, Changed: true}}}, nil
		},
		contract.ActRelease: func(context.Context, deliver.UnitInput) error { return nil },
		contract.ActSettle: func(_ context.Context, in deliver.UnitInput) (*deliver.Settled, error) {
			return &deliver.Settled{LiveAt: time.Now(), Clusters: []rancher.ClusterStatus{{
				Cluster: prod().Name, Live: true, Manifests: map[string]string{"policies": "s-" + in.Commit},
			}}}, nil
		},
		contract.ActMarkVerified: func(context.Context, deliver.VerifiedInput) error { return nil },
		contract.ActEnsureAgent:  func(context.Context, verify.AgentInput) (*verify.Agents, error) { return &verify.Agents{}, nil },
		contract.ActMeasure: func(_ context.Context, in verify.Input) (*probes.Evidence, error) {
			return &probes.Evidence{Cluster: in.Cluster.Name, Passed: true, Pairs: 1, Hash: strings.Repeat("e", 64)}, nil
		},
		contract.ActHold: func(context.Context, deliver.HoldInput) error { return nil },
	} {
		r.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
}

func prod() rancher.Cluster { return rancher.Cluster{ID: "c-prod", Name: "prod-1", Connected: true} }

// Pipeline has the one environment prod, whose gate asks for so many approvals of
// these people, and not of who started it.
func Pipeline(name string, required int, people []contract.Person) contract.Pipeline {
	return contract.Pipeline{
		APIVersion: contract.APIVersion, Kind: contract.Kind, Metadata: contract.Metadata{Name: name},
		Spec: contract.Spec{
			Source: rancher.Source{Repo: "https://git.example.com/policies", Branch: "main"},
			Environments: []rancher.Environment{{Name: "prod", Clusters: metav1.LabelSelector{MatchLabels: map[string]string{"env": "prod"}}, Gate: rancher.Gate{Approvals: rancher.Approvals{
				Required: required, Exclude: []rancher.Exclusion{rancher.ExcludeStarter},
			}}}},
			Probes: []probes.Requirement{{Name: "web to api", Expect: probes.Allow, From: probes.From{Namespace: "web"}, To: probes.To{Namespace: "api", Selector: "all()", Port: 80}}},
			People: people,
		},
	}
}
