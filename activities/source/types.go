// Package source holds the activities that read the policy repository: which
// commit a name means, and whether a revision is fit to be promoted.
package source

import (
	"time"

	"portcullis.dev/portcullis/rancher"
)

// ResolveInput asks which commit Ref means.
type ResolveInput struct {
	Source rancher.Source `json:"source"`
	// Ref is a full commit, a tag, or a branch name; empty means the head of Source.Branch.
	Ref string `json:"ref,omitempty"`
	// Namespace is the Fleet workspace that holds Source.ClientSecretName.
	Namespace string `json:"namespace"`
}

// Revision is a full commit that was found on the branch.
type Revision struct {
	Commit  string `json:"commit"`
	Subject string `json:"subject"`
	Author  string `json:"author"`
	// Email is the author's address, as the commit has it.
	Email string    `json:"email,omitempty"`
	Time  time.Time `json:"time"`
}

// InspectInput asks for lint findings in Commit, and for what changed since each of Since.
type InspectInput struct {
	Source    rancher.Source `json:"source"`
	Namespace string         `json:"namespace"`
	Commit    string         `json:"commit"`
	// Since are the commits to compare with (one per distinct revision that an environment has now).
	Since []string `json:"since,omitempty"`
}

// Inspection is what a revision is and does, read from Git alone.
type Inspection struct {
	// Findings that are errors keep the revision from being promoted.
	Findings []Finding `json:"findings,omitempty"`
	// Changes maps each of Since to the files that differ.
	Changes map[string][]Change `json:"changes,omitempty"`
}

// Finding is one lint result.
type Finding struct {
	// Rule is the stable name of the rule, such as fleet-override-targets.
	Rule string `json:"rule"`
	// Error findings refuse the revision; others are told.
	Error bool `json:"error"`
	// Path and Line are the place in the repository; Line 0 means the whole file.
	Path    string `json:"path"`
	Line    int    `json:"line,omitempty"`
	Message string `json:"message"`
}

// Change is one file's difference between two revisions.
type Change struct {
	Path string `json:"path"`
	// Kind is added, removed or modified.
	Kind string `json:"kind"`
	// Objects names the Kubernetes objects in the file that differ, as kind/name, where they can be read.
	Objects []string `json:"objects,omitempty"`
}
