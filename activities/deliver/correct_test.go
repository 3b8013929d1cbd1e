package deliver

import (
	"slices"
	"testing"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// drifted promotes a commit, and asks for the correction of what it is now.
func (b *bench) drifted(run string) CorrectInput {
	b.Helper()
	in := b.promote(devEnvironment(), commitA, "r1")
	in.Rollout = run
	return CorrectInput{UnitInput: in, Generation: b.repo("np-dev").Generation, Drifted: []string{"two"}}
}

// set changes the GitRepo as a person would.
func (b *bench) set(spec, annotations map[string]any) {
	b.Helper()
	p := patch{spec: spec, annotations: annotations}
	if _, err := b.fleet.PatchGitRepo(b.Context(), "np-dev", p.body(b.repo("np-dev"))); err != nil {
		b.Fatal(err)
	}
}

func TestCorrect(t *testing.T) {
	b := newBench(t, "one", "two")
	in := b.drifted("c1")
	b.set(map[string]any{"correctDrift": map[string]any{"enabled": true, "keepFailHistory": true}}, nil)
	in.Generation = b.repo("np-dev").Generation
	before := b.repo("np-dev")
	b.ok(b.acts.Correct, in)
	during := b.repo("np-dev")
	if d := during.Spec.CorrectDrift; d == nil || !d.Enabled || !d.Force || during.Spec.ForceSyncGeneration != before.Spec.ForceSyncGeneration+1 {
		t.Errorf("while it is corrected: %+v", during.Spec)
	}
	if slices.Sort(b.fleet.replaced); !slices.Equal(b.fleet.replaced, []string{"one", "two"}) {
		t.Errorf("applied by force on %q", b.fleet.replaced)
	}
	writes := b.fleet.writes
	b.ok(b.acts.Correct, in) // again, as after a crash
	if b.fleet.writes != writes {
		t.Error("correcting twice wrote twice")
	}
	b.ok(b.acts.Uncorrect, in)
	after := b.repo("np-dev")
	if d := after.Spec.CorrectDrift; d == nil || *d != (fleet.CorrectDrift{Enabled: true, KeepFailHistory: true}) || after.Annotations[rancher.AnnotationCorrecting] != "" {
		t.Errorf("afterwards: %+v %v", d, after.Annotations)
	}
	if d := b.fleet.deployed["np-dev"]["one"]; d.Spec.CorrectDrift == nil || d.Spec.CorrectDrift.Force || len(b.fleet.replaced) != 2 {
		t.Errorf("Fleet goes on by force: %+v, %q", d.Spec.CorrectDrift, b.fleet.replaced)
	}
	if after.Annotations[rancher.AnnotationVerified] != commitA || after.Spec.Revision != commitA {
		t.Errorf("what was verified has changed: %v", after.Annotations)
	}
	writes = b.fleet.writes
	b.ok(b.acts.Uncorrect, in)
	if b.fleet.writes != writes {
		t.Error("ending twice wrote twice")
	}
}

// What was not set is not there afterwards, either.
func TestUncorrectLeavesNothing(t *testing.T) {
	b := newBench(t, "one", "two")
	in := b.drifted("c1")
	b.ok(b.acts.Correct, in)
	b.ok(b.acts.Uncorrect, in)
	if r := b.repo("np-dev"); r.Spec.CorrectDrift != nil {
		t.Errorf("%+v", r.Spec.CorrectDrift)
	}
	in.Rollout = "another"
	b.ok(b.acts.Uncorrect, in)
}

func TestCorrectTouchesOnlyWhatWasCompared(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *bench, in *CorrectInput)
		says   string
	}{
		"another generation": {func(b *bench, _ *CorrectInput) { b.set(map[string]any{"paths": []string{"x"}}, nil) }, "was changed since"},
		"another revision":   {func(b *bench, in *CorrectInput) { in.Commit = commitB }, "was changed since"},
		"another pipeline":   {func(_ *bench, in *CorrectInput) { in.Pipeline = "other" }, "not of pipeline other"},
		"a rollout": {func(b *bench, _ *CorrectInput) {
			b.ok(b.acts.Stage, b.unit(devEnvironment(), commitB, "r2"))
		}, "was changed since"},
		"gone":               {func(b *bench, _ *CorrectInput) { _ = b.fleet.DeleteGitRepo(b.Context(), "np-dev") }, "was deleted"},
		"another correction": {func(b *bench, in *CorrectInput) { b.ok(b.acts.Correct, *in); in.Rollout = "c2" }, "another workflow (run c1)"},
		"an unreadable mark": {func(b *bench, _ *CorrectInput) {
			b.set(nil, map[string]any{rancher.AnnotationCorrecting: "x"})
		}, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "one", "two")
			in := b.drifted("c1")
			c.change(b, &in)
			replaced := len(b.fleet.replaced)
			b.fails(errs.TypeConflict, c.says, b.acts.Correct, in)
			if len(b.fleet.replaced) != replaced {
				t.Error("it was applied all the same")
			}
		})
	}
}

// A cluster that does not answer ends the wait, in time and by name.
func TestCorrectIsWaitedForInTime(t *testing.T) {
	b := newBench(t, "one", "two")
	in := b.drifted("c1")
	in.Timeout = 200 * time.Millisecond
	b.fleet.with(func() { b.fleet.offline["two"] = true })
	b.fails(errs.TypeDeadline, "two: ", b.acts.Correct, in)
	in.Drifted = []string{"one"}
	b.ok(b.acts.Correct, in)
	b.ok(b.acts.Uncorrect, in)
}

// A rollout waits for a correction, and takes over from one that was cut short.
func TestRolloutWaitsForACorrection(t *testing.T) {
	b := newBench(t, "one", "two")
	in := b.drifted("c1")
	b.ok(b.acts.Correct, in)
	next := b.unit(devEnvironment(), commitB, "r2")
	b.fails(errs.TypeUnavailable, "waits for it", b.acts.Stage, next)
	b.set(nil, map[string]any{rancher.AnnotationCorrecting: `{"by":"c1","at":"2026-01-01T00:00:00Z","had":{"enabled":true}}`})
	b.ok(b.acts.Stage, next)
	r := b.repo("np-dev")
	if r.Spec.CorrectDrift == nil || r.Spec.CorrectDrift.Force || !r.Spec.CorrectDrift.Enabled || r.Annotations[rancher.AnnotationCorrecting] != "" {
		t.Errorf("%+v %v", r.Spec.CorrectDrift, r.Annotations)
	}
	// The correction that comes to its end after all leaves that alone.
	b.ok(b.acts.Uncorrect, in)
	if now := b.repo("np-dev"); now.ResourceVersion != r.ResourceVersion {
		t.Error("the end of a correction wrote to what it does not have")
	}
}
