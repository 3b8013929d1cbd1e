package rancher

import (
	"encoding/json"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
)

// AnnotationCorrecting is kept on a GitRepo while a correction of drift has Fleet
// apply it again by force: who does, and what to put back after it. No rollout
// stages the GitRepo meanwhile, and no audit compares what it delivers.
const AnnotationCorrecting = "portcullis.dev/correcting"

// CorrectionLasts is after how long a correction counts as one that was cut short:
// whoever writes to the GitRepo next puts back what it changed. Corrections wait for
// less.
const CorrectionLasts = 2 * time.Hour

// Correcting is the annotation.
type Correcting struct {
	// By is the workflow run that corrects, and At when it began.
	By string    `json:"by"`
	At time.Time `json:"at"`
	// Had is what spec.correctDrift was; nil where it was not set.
	Had *fleet.CorrectDrift `json:"had,omitempty"`
}

// Stale says whether it was cut short.
func (c *Correcting) Stale(now time.Time) bool { return now.Sub(c.At) > CorrectionLasts }

// ReadCorrecting reads the annotation; nil where there is none.
func ReadCorrecting(repo *fleet.GitRepo) (*Correcting, error) {
	text := repo.Annotations[AnnotationCorrecting]
	if text == "" {
		return nil, nil
	}
	c := &Correcting{}
	if err := json.Unmarshal([]byte(text), c); err != nil || c.By == "" {
		return nil, problem(KindConflict, "GitRepo %s/%s has an annotation %s that cannot be read: put spec.correctDrift back as it was, and remove it",
			repo.Namespace, repo.Name, AnnotationCorrecting)
	}
	return c, nil
}
