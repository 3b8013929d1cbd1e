package deliver

import (
	"fmt"
	"testing"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

const beingMigrated = "cluster two is being migrated by migrate/two; wait for it, or abort it"

func TestPlanRefusesAClusterThatIsBeingMigrated(t *testing.T) {
	b := newBench(t, "one", "two")
	in := PlanInput{Pipeline: "np", Source: source, Environments: []rancher.Environment{devEnvironment()}}
	b.fleet.migrating["two"] = "migrate/two"
	b.fails(errs.TypeConflict, beingMigrated, b.acts.Plan, in)
	in.MembersOnly = true
	b.ok(b.acts.Plan, in) // those who only look are not in the way
	delete(b.fleet.migrating, "two")
	in.MembersOnly = false
	b.fleet.migrating["elsewhere"] = "migrate/elsewhere"
	b.ok(b.acts.Plan, in)
}

func TestStageAndReleaseRefuseAClusterThatIsBeingMigrated(t *testing.T) {
	b := newBench(t, "one", "two")
	in := b.unit(devEnvironment(), commitA, "r1")
	b.fleet.migrating["two"] = "migrate/two"
	b.fails(errs.TypeConflict, beingMigrated, b.acts.Stage, in)
	if b.fleet.writes != 0 {
		t.Errorf("%d writes to a cluster that is being migrated", b.fleet.writes)
	}
	delete(b.fleet.migrating, "two")
	b.ok(b.acts.Stage, in)
	b.fleet.migrating["two"] = "migrate/two"
	writes := b.fleet.writes
	b.fails(errs.TypeConflict, beingMigrated, b.acts.Release, in)
	if b.fleet.writes != writes || !b.repo(in.Unit.GitRepo).Spec.Paused {
		t.Error("a unit was released to a cluster that is being migrated")
	}
}

func TestAskingForMigrationsIsCheap(t *testing.T) {
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("c%04d", i)
	}
	b := newBench(t, names...)
	b.ok(b.acts.Plan, PlanInput{Pipeline: "np", Source: source, Environments: []rancher.Environment{devEnvironment()}})
	if b.fleet.reads != 1 {
		t.Errorf("a plan of %d clusters asked %d times", len(names), b.fleet.reads)
	}
}
