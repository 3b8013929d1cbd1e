package verify

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/testsuite"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/wire"
)

func measure(t *testing.T, l *lab, in Input) *probes.Evidence {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	e, err := l.activities().Measure(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestVerifyPasses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.answer = policy
	e := measure(t, l, input(Verify))
	if !e.Passed || e.Inconclusive || e.Reason != "" || e.Pairs != 4 || e.Rounds < 3 || e.Hash == "" || e.ProbeTime.Duration <= 0 {
		t.Errorf("%+v", e)
	}
	if f := e.Requirements[0].Flows; len(f) != 1 || f[0].From != "web/Deployment/web" || f[0].To != "data/Deployment/db" || f[0].Outcomes[probes.Allowed] != 2 {
		t.Errorf("%+v", f)
	}
	if l.execs != 2 {
		t.Errorf("%d execs for %d rounds on two nodes", l.execs, e.Rounds)
	}
}

func TestVerifyWaitsForTheWireToFollow(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.onDone = func(round int) {
		if round == 4 {
			l.answer = policy
		}
	}
	if e := measure(t, l, input(Verify)); !e.Passed || e.Rounds < 4 {
		t.Errorf("%+v", e)
	}
}

func TestVerifyFails(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	e := measure(t, l, input(Verify))
	if e.Passed || e.Inconclusive || !strings.Contains(e.Reason, `"shut" (deny)`) || !strings.Contains(e.Reason, "allowed") {
		t.Errorf("%+v", e)
	}
	if e.Requirements[0].Passed != true || e.Requirements[1].Passed {
		t.Errorf("%+v", e.Requirements)
	}
}

// What cannot be measured is waited for and never passes.
func TestVerifyIsInconclusive(t *testing.T) {
	for name, breakIt := range map[string]func(*lab){
		"exec fails":                         func(l *lab) { l.broken = errors.New("container not found") },
		"the agent leaves results out":       func(l *lab) { l.silent = true },
		"the agent sends results of nothing": func(l *lab) { l.hollow = true },
		"an outcome that nobody knows": func(l *lab) {
			l.answer = func(wire.Probe) wire.Result { return wire.Result{Outcome: "perhaps"} }
		},
		"a probe cannot be run": func(l *lab) {
			l.answer = func(p wire.Probe) wire.Result {
				if p.Port == 9090 {
					return wire.Result{Outcome: probes.Error, Detail: "no process of the pod runs on this node"}
				}
				return policy(p)
			}
		},
		"a node without an agent": func(l *lab) {
			l.kube.CoreV1().Pods(agentNamespace).Delete(context.Background(), "agent-n2", metav1.DeleteOptions{})
		},
		"a node that is not ready": func(l *lab) {
			l.kube.CoreV1().Nodes().Update(context.Background(), node("n1", false), metav1.UpdateOptions{})
		},
		"no source": func(l *lab) {
			for _, p := range []string{"web-1", "web-2"} {
				l.kube.CoreV1().Pods("web").Delete(context.Background(), p, metav1.DeleteOptions{})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.answer = policy
			breakIt(l)
			e := measure(t, l, input(Verify))
			if e.Passed || !e.Inconclusive || e.Reason == "" {
				t.Errorf("passed %v, inconclusive %v, reason %q", e.Passed, e.Inconclusive, e.Reason)
			}
			t.Log(e.Reason)
			for _, r := range e.Requirements {
				for _, f := range r.Flows {
					if f.Outcomes["perhaps"] > 0 {
						t.Errorf("an outcome that nobody knows is in the evidence: %+v", f)
					}
				}
			}
		})
	}
}

func TestVerifySurvivesABrokenSession(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.answer = policy
	l.silent = true
	l.onDone = func(round int) { l.silent = round < 3 }
	if e := measure(t, l, input(Verify)); !e.Passed {
		t.Errorf("%+v", e)
	}
}

func TestUDPNeedsTheWitness(t *testing.T) {
	silent := func(p wire.Probe) wire.Result {
		if p.Protocol == probes.UDP {
			return wire.Result{Outcome: probes.Error, Silent: true, Detail: "silence"}
		}
		return policy(p)
	}
	for _, tc := range []struct {
		name   string
		expect probes.Expect
		seen   bool
		blind  bool
		passed bool
		unsure bool
	}{
		{"shut and not seen", probes.Deny, false, false, true, false},
		{"shut but seen", probes.Deny, true, false, false, false},
		{"shut but nobody watched", probes.Deny, false, true, false, true},
		{"open and seen", probes.Allow, true, false, true, false},
		{"open but not seen", probes.Allow, false, false, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.answer, l.seen = silent, tc.seen
			if tc.blind {
				l.blind[uidOf("db-1")] = "cannot listen"
			}
			in := input(Verify)
			in.Requirements = []probes.Requirement{{Name: "udp", Expect: tc.expect, From: probes.From{Namespace: "web"}, To: probes.To{Namespace: "data", Selector: "app == 'db'", Port: 53, Protocol: probes.UDP}}}
			if e := measure(t, l, in); e.Passed != tc.passed || e.Inconclusive != tc.unsure {
				t.Errorf("passed %v, inconclusive %v: %s", e.Passed, e.Inconclusive, e.Reason)
			}
		})
	}
}

func TestServiceNeedsReadyEndpoints(t *testing.T) {
	t.Parallel()
	for _, ready := range []bool{true, false} {
		svc, endpoints := slice("db", "db-1", ready)
		l := newLab(t, svc, endpoints)
		in := input(Verify)
		in.Requirements = []probes.Requirement{{Name: "service", Expect: probes.Allow, From: probes.From{Namespace: "web"}, To: probes.To{Namespace: "data", Service: "db", Port: 80}}}
		e := measure(t, l, in)
		if e.Passed != ready || ready && e.Requirements[0].Flows[0].To != "data/Service/db" || !ready && !strings.Contains(e.Reason, "no ready endpoint") {
			t.Errorf("ready %v: %+v", ready, e)
		}
	}
}

// A pod that is replaced during a round is looked up again; what was measured
// of the old one does not count.
func TestPodsAreReplacedOnTheWay(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	gone := false
	l.answer = func(p wire.Probe) wire.Result {
		if gone && p.Pod == uidOf("web-1") {
			return wire.Result{Outcome: probes.Error, Detail: "no process of the pod runs on this node"}
		}
		return policy(p)
	}
	go func() {
		time.Sleep(300 * time.Millisecond)
		l.set(func(*lab) { gone = true })
		l.kube.CoreV1().Pods("web").Delete(context.Background(), "web-1", metav1.DeleteOptions{})
		l.kube.CoreV1().Pods("web").Create(context.Background(), pod("web", "web", "web-3", "n1", "10.0.1.3"), metav1.CreateOptions{})
	}()
	in := input(Soak)
	in.Duration = 1500 * time.Millisecond
	if e := measure(t, l, in); !e.Passed || e.Requirements[0].Flows[0].Outcomes[probes.Allowed] != 2 {
		t.Errorf("%+v", e)
	}
}

func TestSoak(t *testing.T) {
	t.Parallel()
	t.Run("passes after its time", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.answer = policy
		start := time.Now()
		in := input(Soak)
		in.Duration = 2 * time.Second
		if e := measure(t, l, in); !e.Passed || time.Since(start) < 2*time.Second {
			t.Errorf("after %s: %+v", time.Since(start), e)
		}
	})
	t.Run("fails when a requirement stays unmet for the deadline", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.answer = policy
		l.onDone = func(round int) {
			if round == 6 {
				l.answer = nil
			}
		}
		in := input(Soak)
		in.Duration = 20 * time.Second
		start := time.Now()
		if e := measure(t, l, in); e.Passed || e.Inconclusive || time.Since(start) > 10*time.Second {
			t.Errorf("after %s: %+v", time.Since(start), e)
		}
	})
	t.Run("goes on where the last attempt was", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.answer = policy
		var suite testsuite.WorkflowTestSuite
		env := suite.NewTestActivityEnvironment()
		a := l.activities()
		env.RegisterActivityWithOptions(a, activity.RegisterOptions{SkipInvalidStructFunctions: true})
		began := time.Now().Add(-time.Hour)
		env.SetHeartbeatDetails(Progress{StartedAt: began})
		in := input(Soak)
		in.Duration = time.Hour + time.Second
		start := time.Now()
		got, err := env.ExecuteActivity(a.Measure, in)
		if err != nil {
			t.Fatal(err)
		}
		var e probes.Evidence
		if err := got.Get(&e); err != nil {
			t.Fatal(err)
		}
		if !e.Passed || !e.StartedAt.Equal(began) || time.Since(start) > 10*time.Second {
			t.Errorf("after %s: %+v", time.Since(start), e)
		}
	})
}

func TestBaselineAndCompare(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	e := measure(t, l, input(Baseline))
	if !e.Passed || e.Rounds != 2 || e.Requirements[1].Flows[0].Outcomes[probes.Allowed] != 2 {
		t.Fatalf("%+v", e)
	}
	in := input(Compare)
	in.Want = e
	if back := measure(t, l, in); !back.Passed || back.Hash != e.Hash {
		t.Errorf("%+v", back)
	}
	l.set(func(l *lab) { l.answer = policy })
	if back := measure(t, l, in); back.Passed || back.Inconclusive || !strings.Contains(back.Reason, "was allowed, is dropped") {
		t.Errorf("%+v", back)
	}
	l.set(func(l *lab) { l.broken = errors.New("gone") })
	if back := measure(t, l, in); back.Passed || !back.Inconclusive {
		t.Errorf("%+v", back)
	}
	if base := measure(t, l, input(Baseline)); base.Passed || !base.Inconclusive || !strings.Contains(base.Reason, "gone") {
		t.Errorf("%+v", base)
	}
}

func TestUnreachableCluster(t *testing.T) {
	t.Parallel()
	refusing := clusters(func(string) (*rest.Config, error) { return &rest.Config{Host: "http://127.0.0.1:1"}, nil })
	e, err := New(Config{Image: "x"}, refusing).Measure(context.Background(), input(Verify))
	if err != nil {
		t.Fatal(err)
	}
	if e.Passed || !e.Inconclusive || !strings.Contains(e.Reason, "connection refused") || strings.Contains(e.Reason, "127.0.0.1:1/") {
		t.Errorf("%+v", e)
	}
}

type clusters func(string) (*rest.Config, error)

func (c clusters) REST(id string) (*rest.Config, error) { return c(id) }

func TestMeasureRefusesBadInput(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"no probes":   func(in *Input) { in.Requirements = nil },
		"bad probe":   func(in *Input) { in.Requirements[0].To.Port = 0 },
		"bad mode":    func(in *Input) { in.Mode = "guess" },
		"no baseline": func(in *Input) { in.Mode = Compare },
		"settings":    func(in *Input) { in.Settings.Timeout.Duration = time.Hour },
	} {
		in := input(Verify)
		change(&in)
		if _, err := newLab(t).activities().Measure(context.Background(), in); errs.TypeOf(err) != errs.TypeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	in := input(Soak)
	in.Duration = time.Hour
	l := newLab(t)
	l.answer = policy
	start := time.Now()
	if _, err := l.activities().Measure(ctx, in); err == nil || time.Since(start) > 3*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}

// A daemon with many clusters to measure lets them wait for their turn; that is
// not held against a cluster whose wire follows in time.
func TestVerifyOfACrowdedDaemon(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.onDone = func(round int) {
		if round == 2 {
			l.answer = policy
		}
	}
	a := l.activities()
	for range cap(a.opening) {
		a.opening <- struct{}{}
	}
	in := input(Verify)
	time.AfterFunc(in.Settings.Deadline.Duration+500*time.Millisecond, func() {
		for range cap(a.opening) {
			<-a.opening
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	e, err := a.Measure(ctx, in)
	if err != nil || !e.Passed || e.Rounds < 3 {
		t.Errorf("%+v, %v", e, err)
	}
}
