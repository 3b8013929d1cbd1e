package evidence_test

import (
	"fmt"
	"reflect"
	"testing"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/evidence"
)

func clusters(n, flows int) map[string]probes.Evidence {
	out := map[string]probes.Evidence{}
	for i := range n {
		e := probes.Evidence{Cluster: fmt.Sprint("c", i), Hash: fmt.Sprint("hash", i), Pairs: flows}
		r := probes.RequirementResult{Name: "web to api", Expect: probes.Allow}
		for j := range flows {
			r.Flows = append(r.Flows, probes.Flow{
				From: fmt.Sprintf("team-%d/Deployment/web", j), To: "data/StatefulSet/db", Outcomes: map[probes.Outcome]int{probes.Allowed: 3},
			})
		}
		e.Requirements = []probes.RequirementResult{r}
		out[e.Cluster] = e
	}
	return out
}

func TestPackIsSmallAndComesBack(t *testing.T) {
	in := clusters(contract.BatchSize, 100)
	packed, err := evidence.Pack(in)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(packed.Data); n > 100<<10 {
		t.Errorf("a batch is %d bytes", n)
	}
	out, err := evidence.Unpack(packed)
	if err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("it came back different: %v", err)
	}
	if packed.Hashes["c7"] != "hash7" {
		t.Errorf("hashes %v", packed.Hashes)
	}
}

func TestSelect(t *testing.T) {
	a, _ := evidence.Pack(clusters(3, 1))
	broken := contract.BaselineBatch{Hashes: map[string]string{"other": ""}, Data: []byte("not gzip")}
	got, err := evidence.Select([]contract.BaselineBatch{broken, a}, []string{"c1", "nowhere"})
	if err != nil || len(got) != 1 || got["c1"].Hash != "hash1" {
		t.Errorf("%v %v", got, err)
	}
	if _, err := evidence.Select([]contract.BaselineBatch{broken}, []string{"other"}); err == nil {
		t.Error("a broken batch was read")
	}
}

func FuzzUnpack(f *testing.F) {
	good, _ := evidence.Pack(clusters(2, 2))
	f.Add(good.Data)
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := evidence.Unpack(contract.BaselineBatch{Data: data})
		if err != nil && out != nil {
			t.Error("an error and a result")
		}
	})
}

func TestGateHash(t *testing.T) {
	base := contract.Evidence{Revision: "r", Environment: "prod", PlanHash: "p", Baseline: map[string]string{"a": "1", "b": "2"}}
	hash, err := evidence.Gate(base)
	if err != nil || len(hash) != 64 {
		t.Fatal(hash, err)
	}
	same := base
	same.Hash = "whatever"
	same.Baseline = map[string]string{"b": "2", "a": "1"}
	if got, _ := evidence.Gate(same); got != hash {
		t.Error("the same evidence has another hash")
	}
	for name, change := range map[string]func(*contract.Evidence){
		"revision": func(e *contract.Evidence) { e.Revision = "x" },
		"plan":     func(e *contract.Evidence) { e.PlanHash = "x" },
		"passed":   func(e *contract.Evidence) { e.Passed = map[string]string{"dev": "x"} },
		"baseline": func(e *contract.Evidence) { e.Baseline = map[string]string{"a": "1", "b": "3"} },
	} {
		other := base
		change(&other)
		if got, _ := evidence.Gate(other); got == hash {
			t.Errorf("%s does not change the hash", name)
		}
	}
}

func TestEnvironmentHash(t *testing.T) {
	rows := []contract.ClusterRow{{Cluster: "a", Evidence: "1"}, {Cluster: "b", Evidence: "2"}}
	manifests := map[string]map[string]string{"a": {"bundle": "s-1"}}
	hash, _ := evidence.Environment("c", rows, manifests)
	turned, _ := evidence.Environment("c", []contract.ClusterRow{rows[1], rows[0]}, manifests)
	if hash != turned {
		t.Error("the order of clusters matters")
	}
	other, _ := evidence.Environment("c", rows, map[string]map[string]string{"a": {"bundle": "s-2"}})
	if hash == other {
		t.Error("manifests do not matter")
	}
}

func TestFailing(t *testing.T) {
	e := probes.Evidence{Requirements: []probes.RequirementResult{
		{Expect: probes.Allow, Flows: []probes.Flow{{Outcomes: map[probes.Outcome]int{probes.Allowed: 4, probes.Dropped: 2, probes.Error: 1}}}},
		{Expect: probes.Deny, Flows: []probes.Flow{{Outcomes: map[probes.Outcome]int{probes.Allowed: 4, probes.Dropped: 2}}}},
		{Expect: probes.Allow, Passed: true, Flows: []probes.Flow{{Outcomes: map[probes.Outcome]int{probes.Dropped: 9}}}},
	}}
	if got := evidence.Failing(e); got != 7 {
		t.Errorf("%d failing pairs, want 7", got)
	}
}
