// Package rancher is what Portcullis knows of Rancher and Fleet: the management
// cluster behind Rancher's authenticated proxy, the inventory of downstream
// clusters, and the reading and writing of Fleet's objects. Decisions (what is
// live, which GitRepo delivers to which clusters) are pure functions; the
// clients are thin.
package rancher

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Source is the Git repository that a pipeline delivers.
type Source struct {
	// Repo is the URL as Fleet is given it.
	Repo string `json:"repo"`
	// Branch is the branch that a revision must be reachable from.
	Branch string `json:"branch"`
	// Paths are the bundle directories inside the repository; empty means the root.
	Paths []string `json:"paths,omitempty"`
	// ClientSecretName names the Secret, in the Fleet workspace, with Git
	// credentials for Fleet. Portcullis reads the same Secret.
	ClientSecretName string `json:"clientSecretName,omitempty"`
}

// Environment is a set of clusters that a revision enters together, in waves.
type Environment struct {
	Name string `json:"name"`
	// Clusters selects Fleet clusters of the workspace by label.
	Clusters metav1.LabelSelector `json:"clusters"`
	// GitRepo names an existing GitRepo to adopt instead of creating one. It is
	// allowed only for an environment with one wave and no maxConcurrent.
	GitRepo string `json:"gitRepo,omitempty"`
	Waves   []Wave `json:"waves,omitempty"`
	Gate    Gate   `json:"gate,omitzero"`
}

// Wave is a slice of an environment that goes before the rest of it.
type Wave struct {
	Name string `json:"name"`
	// Clusters narrows the environment's clusters. Empty means all that no
	// earlier wave took.
	Clusters metav1.LabelSelector `json:"clusters,omitzero"`
	// MaxConcurrent bounds how many clusters of the wave change at a time; 0
	// means all at once.
	MaxConcurrent int `json:"maxConcurrent,omitempty"`
	// Soak is how long probes must keep passing before the next wave begins.
	Soak metav1.Duration `json:"soak,omitzero"`
}

// Gate is what must hold before the environment may be left (soak) and entered
// (approvals, preflight).
type Gate struct {
	// Soak is how long probes must keep passing on all clusters of the
	// environment after its last wave was verified.
	Soak      metav1.Duration `json:"soak,omitzero"`
	Approvals Approvals       `json:"approvals,omitzero"`
	// Preflight asks that a preflight of every cluster finds nothing in the way,
	// and nothing unknown, before anything is written in the environment.
	Preflight bool `json:"preflight,omitempty"`
	// SettleTimeout bounds the time from release until Fleet has the revision
	// live on every cluster. Default 10m.
	SettleTimeout metav1.Duration `json:"settleTimeout,omitzero"`
}

// Approvals says how many people must agree before an environment is entered.
type Approvals struct {
	Required int `json:"required,omitempty"`
	// Timeout ends the rollout when the approvals have not come by then; 0
	// means no limit.
	Timeout metav1.Duration `json:"timeout,omitzero"`
	// From says whose approvals count; empty means everyone's whom the pipeline
	// names as a person, or everyone's where it names none.
	From Approvers `json:"from,omitzero"`
	// Exclude are those of them whose approval does not count for this revision.
	Exclude []Exclusion `json:"exclude,omitempty"`
}

// Approvers are people, by name, and Slack user groups, by ID.
type Approvers struct {
	People []string `json:"people,omitempty"`
	Groups []string `json:"groups,omitempty"`
}

// Exclusion keeps a person from approving because of what they have to do with the rollout.
type Exclusion string

const (
	// ExcludeStarter is whoever started the rollout.
	ExcludeStarter Exclusion = "starter"
	// ExcludeAuthor is whoever wrote the revision, by the e-mail address in its commit.
	ExcludeAuthor Exclusion = "author"
)

// Cluster is one downstream cluster as Rancher and Fleet know it.
type Cluster struct {
	// ID is Rancher's name of it (c-m-abc12, local): the path segment of the proxy.
	ID string `json:"id"`
	// Name is the Fleet cluster's name in its workspace.
	Name string `json:"name"`
	// Labels are the Fleet cluster's labels.
	Labels map[string]string `json:"labels,omitempty"`
	// Connected is false while Rancher has no tunnel to the cluster; Reason says why.
	Connected bool   `json:"connected"`
	Reason    string `json:"reason,omitempty"`
	// AgentLastSeen is when Fleet's agent last reported.
	AgentLastSeen time.Time `json:"agentLastSeen,omitzero"`
	Paused        bool      `json:"paused,omitempty"`
}

// Unit is what is released at once: one GitRepo and the clusters that it targets.
type Unit struct {
	Namespace string    `json:"namespace"`
	GitRepo   string    `json:"gitRepo"`
	Wave      string    `json:"wave"`
	Clusters  []Cluster `json:"clusters"`
	// Targets are the GitRepo's targets for these clusters.
	Targets []Target `json:"targets"`
	// Before is what the GitRepo was when the rollout was planned, and so what
	// a rollback returns to.
	Before Before `json:"before"`
}

// Target is one entry of GitRepo.spec.targets.
type Target struct {
	Name            string                `json:"name,omitempty"`
	ClusterName     string                `json:"clusterName,omitempty"`
	ClusterSelector *metav1.LabelSelector `json:"clusterSelector,omitempty"`
}

// RestoreKind says what a rollback of a unit returns to.
type RestoreKind string

const (
	// RestoreVerified: the last revision that Portcullis verified there.
	RestoreVerified RestoreKind = "last-verified"
	// RestoreOriginal: the GitRepo as it was before Portcullis touched it
	// (a branch is restored as a branch).
	RestoreOriginal RestoreKind = "before-portcullis"
	// RestoreAbsent: there was no GitRepo; it is removed with what it delivered.
	RestoreAbsent RestoreKind = "absent"
)

// Before records what a unit's GitRepo was, for the way back.
type Before struct {
	Kind     RestoreKind `json:"kind"`
	Revision string      `json:"revision,omitempty"`
	// Branch is set only for RestoreOriginal of a GitRepo that followed a branch.
	Branch string `json:"branch,omitempty"`
	// OriginalSpec is the GitRepo spec as JSON, for RestoreOriginal.
	OriginalSpec []byte `json:"originalSpec,omitempty"`
	// VerifiedAt is when Revision was verified.
	VerifiedAt time.Time `json:"verifiedAt,omitzero"`
	// Current is the commit that the GitRepo is pinned to at planning, or that
	// Fleet reports where it follows a branch; empty when there is none.
	Current string `json:"current,omitempty"`
	// Previous is the verified revision before Revision, for `rollout rollback`.
	Previous string `json:"previous,omitempty"`
}

// Now is the full commit that the unit has at planning, or "" where that is not known.
func (b Before) Now() string {
	for _, commit := range []string{b.Current, b.Revision} {
		if FullCommit(commit) {
			return commit
		}
	}
	return ""
}

// Annotations and labels that Portcullis keeps on its GitRepos. The management
// cluster is the only place where they live; they are what makes the daemon stateless.
const (
	LabelPipeline    = "portcullis.dev/pipeline"
	LabelEnvironment = "portcullis.dev/environment"
	LabelWave        = "portcullis.dev/wave"

	AnnotationVerified   = "portcullis.dev/verified-revision"
	AnnotationVerifiedAt = "portcullis.dev/verified-at"
	AnnotationEvidence   = "portcullis.dev/evidence"
	AnnotationPrevious   = "portcullis.dev/previous-verified-revision"
	// AnnotationOriginal is the JSON of the spec before Portcullis adopted the GitRepo.
	AnnotationOriginal = "portcullis.dev/original-spec"
	// AnnotationRollout is the workflow run ID that last wrote the GitRepo.
	AnnotationRollout = "portcullis.dev/rollout"
	// AnnotationHeld says, while set, why the pipeline is held after a rollback.
	AnnotationHeld = "portcullis.dev/held"
)

// AnnotationMigration is kept on a Fleet Cluster while it goes from Canal to
// Calico: the ID of the workflow that migrates it. No rollout touches the cluster meanwhile.
const AnnotationMigration = "portcullis.dev/migration"

// DefaultSettleTimeout applies where Gate.SettleTimeout is zero.
const DefaultSettleTimeout = 10 * time.Minute

// ClusterStatus is how far one cluster is with a revision.
type ClusterStatus struct {
	Cluster string `json:"cluster"`
	// Live is true only when the exact revision's content is applied, ready and unmodified.
	Live bool `json:"live"`
	// Reason says, in one line, what is awaited or wrong; empty when Live.
	Reason string `json:"reason,omitempty"`
	// Failed is true when waiting will not help (Helm or validation error).
	Failed bool `json:"failed,omitempty"`
	// Manifests maps each bundle to the hash of the content that is (to be)
	// applied: Fleet's deployment ID.
	Manifests map[string]string `json:"manifests,omitempty"`
	// Changed is true when releasing would change what is applied.
	Changed bool `json:"changed,omitempty"`
}
