package rancher

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
)

// AnnotationWritten is what Portcullis last wrote to the spec, so that an edit by
// hand can be told from its own.
const AnnotationWritten = "portcullis.dev/written"

// Written is the part of a GitRepo's spec that Portcullis writes.
type Written struct {
	Revision string `json:"revision,omitempty"`
	Branch   string `json:"branch,omitempty"`
	Paused   bool   `json:"paused,omitempty"`
	Paths    string `json:"paths,omitempty"`
	// Targets is the hash of the targets.
	Targets string `json:"targets"`
	// Restored is the rollout that last put the GitRepo back, or "".
	Restored string `json:"restored,omitempty"`
}

// WrittenOf is what a spec looks like to Written.
func WrittenOf(spec *fleet.GitRepoSpec) Written {
	return Written{
		Revision: spec.Revision,
		Branch:   spec.Branch,
		Paused:   spec.Paused,
		Paths:    strings.Join(spec.Paths, ","),
		Targets:  hashJSON(spec.Targets),
	}
}

// ReadWritten reads the annotation; nil where there is none.
func ReadWritten(repo *fleet.GitRepo) (*Written, error) {
	text := repo.Annotations[AnnotationWritten]
	if text == "" {
		return nil, nil
	}
	w := &Written{}
	if err := json.Unmarshal([]byte(text), w); err != nil {
		return nil, problem(KindConflict, "GitRepo %s/%s has an annotation %s that cannot be read; remove it", repo.Namespace, repo.Name, AnnotationWritten)
	}
	return w, nil
}

func (w *Written) differs(repo *fleet.GitRepo) (field, is, was string) {
	now := WrittenOf(&repo.Spec)
	switch {
	case now.Branch != w.Branch:
		return "spec.branch", strconv.Quote(now.Branch), strconv.Quote(w.Branch)
	case now.Revision != w.Revision:
		return "spec.revision", strconv.Quote(now.Revision), strconv.Quote(w.Revision)
	case now.Paused != w.Paused:
		return "spec.paused", strconv.FormatBool(now.Paused), strconv.FormatBool(w.Paused)
	case now.Paths != w.Paths:
		return "spec.paths", now.Paths, w.Paths
	case now.Targets != w.Targets:
		return "spec.targets", "changed", "other ones"
	}
	return "", "", ""
}

func hashJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// BeforeOf says what a rollback of a unit returns to: the last verified revision;
// or else the GitRepo as it was adopted; or else, where Portcullis made it and
// never proved anything on it, to its absence. An adopted GitRepo is recorded
// whole, because before the first write nothing else remembers it.
func BeforeOf(repo *fleet.GitRepo) (Before, error) {
	if repo == nil {
		return Before{Kind: RestoreAbsent}, nil
	}
	b, err := wayBack(repo)
	b.Current = repo.Spec.Revision
	if repo.Spec.Branch != "" || b.Current == "" {
		b.Current = repo.Status.Commit
	}
	return b, err
}

func wayBack(repo *fleet.GitRepo) (Before, error) {
	if verified := repo.Annotations[AnnotationVerified]; verified != "" {
		at, err := time.Parse(time.RFC3339, repo.Annotations[AnnotationVerifiedAt])
		if err != nil {
			at = time.Time{}
		}
		return Before{Kind: RestoreVerified, Revision: verified, VerifiedAt: at, Previous: repo.Annotations[AnnotationPrevious]}, nil
	}
	if original := repo.Annotations[AnnotationOriginal]; original != "" {
		spec := fleet.GitRepoSpec{}
		if err := json.Unmarshal([]byte(original), &spec); err != nil {
			return Before{}, problem(KindConflict, "GitRepo %s/%s has an annotation %s that cannot be read; remove it together with label %s to adopt the GitRepo anew",
				repo.Namespace, repo.Name, AnnotationOriginal, LabelPipeline)
		}
		return originalOf(spec, []byte(original), repo), nil
	}
	if repo.Labels[LabelPipeline] != "" {
		return Before{Kind: RestoreAbsent}, nil
	}
	data, err := json.Marshal(repo.Spec)
	if err != nil {
		return Before{}, problem(KindFailed, "recording the spec of GitRepo %s/%s: %v", repo.Namespace, repo.Name, err)
	}
	return originalOf(repo.Spec, data, repo), nil
}

// originalOf names the branch or revision that an original had. Where it followed
// a branch, the revision is for showing only: what Fleet had fetched of it.
func originalOf(spec fleet.GitRepoSpec, data []byte, repo *fleet.GitRepo) Before {
	b := Before{Kind: RestoreOriginal, OriginalSpec: data, Branch: spec.Branch, Revision: spec.Revision}
	if spec.Branch == "" && spec.Revision == "" {
		b.Branch = "master" // what Fleet takes for neither
	}
	if b.Revision == "" && repo.Spec.Branch == spec.Branch && repo.Spec.Revision == "" {
		b.Revision = repo.Status.Commit
	}
	return b
}
