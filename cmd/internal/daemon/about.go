package daemon

import (
	"context"
	"log/slog"
	"slices"
	"strings"
)

// The keys under which every line says what it is about.
const (
	keyRollout     = "rollout"
	keyEnvironment = "environment"
	keyCluster     = "cluster"
	keyNode        = "node"

	// keyWorkflowID is the SDK's, on all lines of workflows and activities and on
	// those that it writes itself.
	keyWorkflowID = "WorkflowID"
)

var subjects = []string{keyRollout, keyEnvironment, keyCluster, keyNode}

// about adds to each line which rollout (by its pipeline), environment, cluster and
// node it is about, where its workflow's ID tells that and the line does not say so
// itself. So a line of the SDK about a failed attempt is found with the others.
type about struct {
	next slog.Handler
	// workflow is the ID that With gave, and said what else of subjects it did.
	workflow string
	said     []string
}

func newAbout(next slog.Handler) slog.Handler { return about{next: next} }

// Enabled asks the handler below.
func (h about) Enabled(ctx context.Context, level slog.Level) bool { return h.next.Enabled(ctx, level) }

// WithGroup leaves it to the handler below: inside a group nothing is added.
func (h about) WithGroup(name string) slog.Handler { return h.next.WithGroup(name) }

// WithAttrs remembers what is said of the subjects.
func (h about) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h = h.heard(a)
	}
	h.next = h.next.WithAttrs(attrs)
	return h
}

func (h about) heard(a slog.Attr) about {
	switch {
	case a.Key == keyWorkflowID:
		h.workflow = a.Value.String()
	case slices.Contains(subjects, a.Key):
		h.said = append(slices.Clip(h.said), a.Key)
	}
	return h
}

// sdkActivityError is the SDK's line on a failed attempt. Ours, from the
// interceptor, says the same and which cluster it was.
const sdkActivityError = "Activity error."

// Handle completes the line. A subject that is said to be nothing is left out.
func (h about) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == sdkActivityError {
		return nil
	}
	line := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if slices.Contains(subjects, a.Key) && (a.Value.String() == "" || slices.Contains(h.said, a.Key)) {
			return true
		}
		h = h.heard(a)
		line.AddAttrs(a)
		return true
	})
	for _, a := range subjectsOf(h.workflow) {
		if !slices.Contains(h.said, a.Key) {
			line.AddAttrs(a)
		}
	}
	return h.next.Handle(ctx, line)
}

// idSubjects are the subjects in the parts of a workflow's ID after the first, by that.
var idSubjects = map[string][]string{
	"rollout":        {keyRollout},
	"promote":        {keyRollout, keyEnvironment},
	"verify":         {keyRollout, keyEnvironment},
	"preflight":      {keyRollout, keyEnvironment},
	"slack":          {keyRollout},
	"migrate":        {keyCluster, keyNode},
	"plan-migration": {keyCluster},
}

// subjectsOf reads a workflow's ID, such as promote/network-policies/prod.
func subjectsOf(workflow string) []slog.Attr {
	parts := strings.Split(workflow, "/")
	keys := idSubjects[parts[0]]
	if len(parts) == 2 && parts[0] == "preflight" {
		return nil // one that the command line asked for: the rest is a number
	}
	var out []slog.Attr
	for i, part := range parts[1:] {
		if i < len(keys) && part != "" {
			out = append(out, slog.String(keys[i], part))
		}
	}
	return out
}
