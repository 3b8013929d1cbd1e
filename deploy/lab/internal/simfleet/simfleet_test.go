package simfleet

import (
	"encoding/json"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	var u unstructured.Unstructured
	if err := utiljson.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return &u
}

func TestDeploy(t *testing.T) {
	for _, c := range []struct{ name, bd, release string }{
		{"not released yet", `{"spec": {"stagedDeploymentID": "s-1:a"}}`, ""},
		{"paused", `{"spec": {"deploymentID": "s-1:a", "paused": true}}`, ""},
		{"going", `{"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"deploymentID": "s-1:a"}}`, ""},
		{"first", `{"spec": {"deploymentID": "s-1:a", "options": {"defaultNamespace": "np", "helm": {"releaseName": "app"}}}}`, "np/app:1"},
		{"no release name", `{"metadata": {"name": "bundle"}, "spec": {"deploymentID": "s-1:a", "options": {"defaultNamespace": "np"}}}`, "np/bundle:1"},
		{"another revision", `{"spec": {"deploymentID": "s-2:a", "options": {"defaultNamespace": "np", "helm": {"releaseName": "app"}}},
			"status": {"appliedDeploymentID": "s-1:a", "ready": true, "release": "np/app:9"}}`, "np/app:10"},
		{"there already", `{"spec": {"deploymentID": "s-1:a"}, "status": {"appliedDeploymentID": "s-1:a", "ready": true}}`, ""},
		{"forced again", `{"metadata": {"name": "b"}, "spec": {"deploymentID": "s-1:a", "options": {"defaultNamespace": "np", "forceSyncGeneration": 2}},
			"status": {"appliedDeploymentID": "s-1:a", "ready": true, "syncGeneration": 1, "release": "np/b:1"}}`, "np/b:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bd := parse(t, c.bd)
			got := deploy(bd, now)
			if (got != nil) != (c.release != "") {
				t.Fatalf("writes %v", got)
			}
			if got == nil {
				return
			}
			if got["release"] != c.release || got["ready"] != true || got["nonModified"] != true {
				t.Errorf("writes %v; want release %s", got, c.release)
			}
			// What was written needs nothing more.
			raw, err := json.Marshal(map[string]any{"metadata": bd.Object["metadata"], "spec": bd.Object["spec"], "status": got})
			if err != nil {
				t.Fatal(err)
			}
			if again := deploy(parse(t, string(raw)), now); again != nil {
				t.Errorf("writes again: %v", again)
			}
		})
	}
}

func TestCheckIn(t *testing.T) {
	for _, c := range []struct {
		name, cluster string
		writes        bool
	}{
		{"Fleet has no namespace for it yet", `{}`, false},
		{"new", `{"status": {"namespace": "cluster-1"}}`, true},
		{"seen", `{"status": {"namespace": "cluster-1", "agent": {"lastSeen": "2026-01-01T00:00:00Z"}}}`, false},
		{"going", `{"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"namespace": "cluster-1"}}`, false},
	} {
		if got := checkIn(parse(t, c.cluster), now); (got != nil) != c.writes {
			t.Errorf("%s: writes %v", c.name, got)
		}
	}
}

func TestManageAgent(t *testing.T) {
	const was = `{"agentImage": "a", "agentCheckinInterval": "15m"}`
	off, err := withManageAgent(was, false)
	if err != nil {
		t.Fatal(err)
	}
	if v, set := parse(t, off).Object["manageAgent"]; !set || v != false {
		t.Errorf("not off: %s", off)
	}
	on, err := withManageAgent(off, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, set := parse(t, on).Object["manageAgent"]; set || parse(t, on).Object["agentImage"] != "a" {
		t.Errorf("not as before: %s", on)
	}
	if _, err := withManageAgent("{", true); err == nil {
		t.Error("malformed configuration was taken")
	}
}
