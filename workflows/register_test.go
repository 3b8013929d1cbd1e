package workflows_test

import (
	"context"
	"reflect"
	"testing"

	"portcullis.dev/portcullis/activities/audit"
	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/migrate"
	"portcullis.dev/portcullis/activities/preflight"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

// names are the activity names that workflows call, by what has them.
var names = map[string]map[string]bool{
	"source": {contract.ActResolve: true, contract.ActInspect: true},
	"deliver": {
		contract.ActClusters: true, contract.ActPlan: true, contract.ActStage: true, contract.ActRelease: true,
		contract.ActSettle: true, contract.ActRestore: true, contract.ActMarkVerified: true, contract.ActHold: true,
		contract.ActCorrect: true, contract.ActUncorrect: true,
	},
	"verify": {
		contract.ActEnsureAgent: true, contract.ActRemoveAgent: true, contract.ActAgentStatus: true, contract.ActMeasure: true,
	},
	"preflight": {contract.ActPreflight: true, contract.ActCheckNode: true, contract.ActPlanMigration: true},
	"migrate": {
		contract.ActClaim: true, contract.ActUnclaim: true, contract.ActDo: true, contract.ActUndo: true,
		contract.ActNodes: true, contract.ActRequirements: true,
	},
	"audit": {contract.ActDriftScope: true, contract.ActDriftClusters: true, contract.ActDriftRecord: true},
	"slack": {contract.ActSlackMessage: true, contract.ActSlackLines: true, contract.ActResolveGroups: true},
}

// Every name that is called exists, with the same signature in the model that
// the tests run on.
func TestActivityNames(t *testing.T) {
	real := map[string]reflect.Type{
		"source": reflect.TypeFor[*source.Activities](), "deliver": reflect.TypeFor[*deliver.Activities](), "verify": reflect.TypeFor[*verify.Activities](),
		"preflight": reflect.TypeFor[*preflight.Activities](), "migrate": reflect.TypeFor[*migrate.Activities](), "slack": reflect.TypeFor[*slack.Activities](),
		"audit": reflect.TypeFor[*audit.Activities](),
	}
	model := map[string]reflect.Type{
		"source": reflect.TypeFor[*world.Source](), "deliver": reflect.TypeFor[*world.Deliver](), "verify": reflect.TypeFor[*world.Verify](),
		"preflight": reflect.TypeFor[*world.Preflight](), "migrate": reflect.TypeFor[*world.Migrate](), "slack": reflect.TypeFor[*world.Slack](),
		"audit": reflect.TypeFor[*world.Audit](),
	}
	for pkg, wanted := range names {
		found := map[string]bool{}
		for i := range real[pkg].NumMethod() {
			m := real[pkg].Method(i)
			if m.Type.NumIn() < 2 || m.Type.In(1) != reflect.TypeFor[context.Context]() {
				continue
			}
			name := pkg + "." + m.Name
			found[name] = true
			if !wanted[name] {
				t.Errorf("activity %s is registered but no workflow names it", name)
				continue
			}
			fake, ok := model[pkg].MethodByName(m.Name)
			if !ok {
				t.Errorf("the model has no %s", name)
				continue
			}
			for j := 1; j < max(m.Type.NumIn(), fake.Type.NumIn()); j++ {
				if m.Type.NumIn() != fake.Type.NumIn() || m.Type.In(j) != fake.Type.In(j) {
					t.Errorf("%s: the model takes %s, the activity %s", name, fake.Type, m.Type)
					break
				}
			}
		}
		for name := range wanted {
			if !found[name] {
				t.Errorf("workflows call %s, which does not exist", name)
			}
		}
	}
}

func TestRegister(t *testing.T) {
	env := harness.Environment()
	workflows.Register(env)
	workflows.RegisterActivities(env, workflows.Activities{Source: &source.Activities{}, Deliver: &deliver.Activities{}, Verify: &verify.Activities{}, Preflight: &preflight.Activities{}, Migrate: &migrate.Activities{}, Slack: &slack.Activities{}, Audit: &audit.Activities{}})
}
