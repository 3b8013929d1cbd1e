package slackgate

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows/contract"
)

// canary is in every text of a status: which field it came from is seen wherever it ends up.
var canary = regexp.MustCompile(`«[^»]*»`)

// safe are the fields, of everything that a rollout knows, that Slack may know.
var safe = map[string]bool{
	".Pipeline": true, ".RolloutState.State": true, ".RolloutState.StartedBy": true, ".RolloutState.FirstRun": true,
	".RolloutState.Plan.Revision.Commit": true, ".RolloutState.Plan.Revision.Subject": true, ".RolloutState.Plan.Revision.Author": true,
	".RolloutState.Plan.Plan.Environments.Units.Before.Current": true,
	".RolloutState.Environments.Name":                           true, ".RolloutState.Environments.State": true,
	".RolloutState.Environments.Soaking.Wave": true, ".RolloutState.Environments.Result.Evidence": true, ".RolloutState.Environments.Result.Clusters.Cluster": true,
	".RolloutState.Environments.Result.Rollback.Kind": true, ".RolloutState.Environments.Result.Rollback.Revision": true,
	".RolloutState.Paused.By": true, ".RolloutState.Paused.Via": true, ".RolloutState.Paused.Why": true,
	".RolloutState.Gate.Environment": true, ".RolloutState.Gate.Evidence.Hash": true,
	".RolloutState.Gate.Evidence.Changes.Objects": true, ".RolloutState.Gate.Evidence.Changes.Path": true,
	".RolloutState.Gate.Votes.By": true, ".RolloutState.Gate.Votes.Via": true, ".RolloutState.Gate.Votes.Why": true,
	".RolloutState.Audit.Entries.By": true, ".RolloutState.Audit.Entries.Via": true, ".RolloutState.Audit.Entries.Why": true,
}

func fill(v reflect.Value, path string, r *rand.Rand) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("«" + path + "»")
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(r.IntN(100)))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), path, r)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range 3 {
			fill(v.Index(i), path, r)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, path, r)
		fill(value, path, r)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1700000000, 0)))
			return
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fill(v.Field(i), path+"."+f.Name, r)
			}
		}
	}
}

// Nothing reaches Slack but what is on the list: no reason, no log, no flow, no
// unit, no finding, and nothing that a later version adds without a thought.
func TestOnlySafeFieldsReachSlack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	reached := map[string]bool{}
	for i := range 200 {
		var s contract.RolloutStatus
		fill(reflect.ValueOf(&s).Elem(), "", r)
		// What decides where things go must be real now and then.
		for j := range s.Audit.Entries {
			s.Audit.Entries[j].What = []string{contract.UpdateReject, contract.UpdateAbort, contract.UpdateApprove}[r.IntN(3)]
			if i%2 == 0 {
				s.Audit.Entries[j].Refused = ""
			}
		}
		for e := range s.Environments {
			for c := range s.Environments[e].Result.Clusters {
				s.Environments[e].Result.Clusters[c].State = []string{"verified", "failed", "rolled-back"}[r.IntN(3)]
			}
		}
		for j := range s.Gate.Evidence.Changes {
			s.Gate.Evidence.Changes[j].Kind = []string{"added", "removed", "modified"}[r.IntN(3)]
			if r.IntN(2) == 0 {
				s.Gate.Evidence.Changes[j].Objects = nil
			}
		}
		if i%3 == 0 {
			s.Plan.Plan.Environments[0].Name = s.Gate.Environment
		}
		v := View(Of{Status: s, Over: i%5 == 0, Namespace: "default", Workflow: "rollout/x", Run: "run"})
		raw, err := json.Marshal(v)
		require.NoError(t, err)
		for _, found := range canary.FindAllString(string(raw), -1) {
			path := strings.Trim(found, "«»")
			reached[path] = true
			if !safe[path] {
				t.Fatalf("%s reaches Slack", path)
			}
		}
		_, _ = slack.Message(v, s.Gate.Environment, "")
	}
	for _, path := range []string{".RolloutState.Gate.Votes.Why", ".RolloutState.Audit.Entries.By", ".RolloutState.Environments.Result.Clusters.Cluster"} {
		require.True(t, reached[path], path)
	}
}

func TestAViewHasTheLinksThatThePipelineGives(t *testing.T) {
	p := contract.Pipeline{Spec: contract.Spec{Slack: &contract.Slack{Links: contract.Links{Temporal: "https://t.example/ui/"}}}}
	v := View(Of{Pipeline: p, Namespace: "team a", Workflow: "rollout/policies", Run: "r-1"})
	require.Equal(t, "https://t.example/ui/namespaces/team%20a/workflows/rollout%2Fpolicies/r-1", v.Temporal)
	require.Equal(t, fmt.Sprint(v.Gate), fmt.Sprint((*slack.Gate)(nil)))
}
