package promote

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

func TestWalk(t *testing.T) {
	minutes := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Minute} }
	units := []rancher.Unit{{Wave: "canary"}, {Wave: "rest"}, {Wave: "rest"}}
	tests := map[string]struct {
		env  rancher.Environment
		want []step
	}{
		"no soak": {rancher.Environment{}, []step{{unit: 0}, {unit: 1}, {unit: 2}}},
		"gate": {rancher.Environment{Gate: rancher.Gate{Soak: minutes(5)}},
			[]step{{unit: 0}, {unit: 1}, {unit: 2}, {kind: stepSoak, soak: 5 * time.Minute}}},
		"wave and gate": {rancher.Environment{
			Waves: []rancher.Wave{{Name: "canary", Soak: minutes(1)}, {Name: "rest", Soak: minutes(2)}},
			Gate:  rancher.Gate{Soak: minutes(5)},
		}, []step{
			{unit: 0}, {kind: stepSoak, wave: "canary", soak: time.Minute},
			{unit: 1}, {unit: 2}, {kind: stepSoak, wave: "rest", soak: 2 * time.Minute},
			{kind: stepSoak, soak: 5 * time.Minute},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			in := contract.PromoteInput{Environment: test.env}
			in.Plan.Units = units
			got := walk(in)
			if len(got) != len(test.want) {
				t.Fatalf("%+v, want %+v", got, test.want)
			}
			for i := range got {
				if got[i] != test.want[i] {
					t.Errorf("step %d: %+v, want %+v", i, got[i], test.want[i])
				}
			}
		})
	}
}

func TestMismatch(t *testing.T) {
	u := rancher.Unit{Clusters: []rancher.Cluster{{Name: "a"}, {Name: "b"}}}
	ok := rancher.ClusterStatus{Cluster: "a"}
	tests := map[string]struct {
		staged []rancher.ClusterStatus
		want   string
	}{
		"as planned": {[]rancher.ClusterStatus{ok, {Cluster: "b"}}, ""},
		"missing":    {[]rancher.ClusterStatus{ok}, "cluster b is planned but Fleet has nothing for it"},
		"extra":      {[]rancher.ClusterStatus{ok, {Cluster: "b"}, {Cluster: "c"}}, "cluster c is targeted but not planned"},
		"failed":     {[]rancher.ClusterStatus{ok, {Cluster: "b", Failed: true, Reason: "bad YAML"}}, "cluster b: bad YAML"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := mismatch(u, test.staged); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
