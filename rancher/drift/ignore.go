package drift

import (
	"fmt"
	"path"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Ignore is drift that is known. Every field that is given must match.
type Ignore struct {
	Kind string `json:"kind,omitempty"`
	// Namespace and Name may have * for any text.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Clusters narrows it by their labels; nil means all.
	Clusters *metav1.LabelSelector `json:"clusters,omitempty"`
	Reason   string                `json:"reason"`
	// Until is the last day, in UTC, as YYYY-MM-DD; empty means without end.
	Until string `json:"until,omitempty"`
}

// Ignored says why a finding is no drift.
type Ignored struct {
	Reason string `json:"reason"`
	Until  string `json:"until,omitempty"`
}

const day = "2006-01-02"

// String names what is ignored.
func (i Ignore) String() string {
	var parts []string
	for _, p := range []struct{ name, value string }{{"kind", i.Kind}, {"namespace", i.Namespace}, {"name", i.Name}} {
		if p.value != "" {
			parts = append(parts, p.name+" "+p.value)
		}
	}
	if i.Clusters != nil {
		parts = append(parts, "clusters "+metav1.FormatLabelSelector(i.Clusters))
	}
	if len(parts) == 0 {
		parts = []string{"everything"}
	}
	return fmt.Sprintf("%s (%s)", strings.Join(parts, ", "), i.Reason)
}

// Expired says whether its last day is over.
func (i Ignore) Expired(now time.Time) bool {
	return i.Until != "" && now.UTC().Format(day) > i.Until
}

// Check says what is wrong with an ignore, or nil.
func (i Ignore) Check() error {
	if strings.TrimSpace(i.Reason) == "" {
		return fmt.Errorf("the ignore of %s has no reason; say why it is known", i)
	}
	if i.Until != "" {
		if _, err := time.Parse(day, i.Until); err != nil {
			return fmt.Errorf("the ignore of %s ends at %q, which is no day such as 2026-12-31", i, i.Until)
		}
	}
	if i.Clusters != nil {
		if _, err := metav1.LabelSelectorAsSelector(i.Clusters); err != nil {
			return fmt.Errorf("the ignore of %s selects clusters wrongly: %w", i, err)
		}
	}
	for _, p := range []string{i.Namespace, i.Name} {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("the ignore of %s: %q is no pattern", i, p)
		}
	}
	return nil
}

// ExpiredOf are those that no longer hold, one line each.
func ExpiredOf(ignores []Ignore, now time.Time) []string {
	var out []string
	for _, i := range ignores {
		if i.Expired(now) {
			out = append(out, fmt.Sprintf("the ignore of %s ended on %s", i, i.Until))
		}
	}
	return out
}

// Excuse marks the findings that an ignore is about. The first that matches counts;
// one that has expired does not.
func Excuse(findings []Finding, ignores []Ignore, clusterLabels map[string]string, now time.Time) {
	holds := make([]Ignore, 0, len(ignores))
	for _, i := range ignores {
		if i.Check() == nil && !i.Expired(now) && i.on(clusterLabels) {
			holds = append(holds, i)
		}
	}
	for n := range findings {
		for _, i := range holds {
			if i.matches(findings[n].Key) {
				findings[n].Ignored = &Ignored{i.Reason, i.Until}
				break
			}
		}
	}
}

func (i Ignore) on(clusterLabels map[string]string) bool {
	if i.Clusters == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(i.Clusters)
	return err == nil && s.Matches(labels.Set(clusterLabels))
}

func (i Ignore) matches(k Key) bool {
	return (i.Kind == "" || i.Kind == k.Kind) && like(i.Namespace, k.Namespace) && like(i.Name, k.Name)
}

func like(pattern, s string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}
