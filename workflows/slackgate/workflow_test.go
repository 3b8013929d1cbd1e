package slackgate_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
	"portcullis.dev/portcullis/workflows/internal/harness"
	"portcullis.dev/portcullis/workflows/internal/world"
)

// play runs a SlackGate alone; rollout answers what is signalled to the rollout.
func play(t *testing.T, rollout func() error) (*testsuite.TestWorkflowEnvironment, *world.World) {
	t.Helper()
	env := harness.Environment()
	workflows.Register(env)
	w := world.Make()
	w.Register(env)
	env.OnSignalExternalWorkflow(mock.Anything, "rollout/policies", "", contract.SignalSlack, mock.Anything).Return(
		func(string, string, string, string, any) error { return rollout() })
	return env, w
}

// during answers what is signalled to one run of the rollout.
func during(env *testsuite.TestWorkflowEnvironment, run string, answer func() error) {
	env.OnSignalExternalWorkflow(mock.Anything, "rollout/policies", run, contract.SignalSlack, mock.Anything).Return(
		func(string, string, string, string, any) error { return answer() })
}

func waiting(rollout string) slack.View {
	return slack.View{
		Pipeline: "policies", Rollout: rollout, State: "awaiting-approval", Revision: strings.Repeat("c", 40),
		Environments: []slack.Environment{{Name: "prod", State: "awaiting-approval"}},
		Gate:         &slack.Gate{Environment: "prod", Required: 1, Evidence: strings.Repeat("f", 64), Since: time.Unix(1700000000, 0)},
	}
}

func over(rollout string) slack.View {
	v := waiting(rollout)
	v.Gate, v.Over, v.State, v.Environments[0].State = nil, true, "verified", "verified"
	return v
}

func views(v ...slack.View) contract.SlackViews {
	return contract.SlackViews{From: "rollout/policies", Slack: contract.Slack{Channel: "C0GATES", RemindEvery: metav1.Duration{Duration: time.Hour}}, Views: v}
}

func send(env *testsuite.TestWorkflowEnvironment, after time.Duration, v contract.SlackViews) {
	env.RegisterDelayedCallback(func() { env.SignalWorkflow(contract.SignalViews, v) }, after)
}

func run(t *testing.T, env *testsuite.TestWorkflowEnvironment) {
	t.Helper()
	env.ExecuteWorkflow(contract.SlackWorkflow, contract.SlackInput{Pipeline: "policies"})
	require.True(t, env.IsWorkflowCompleted())
	require.NoError(t, env.GetWorkflowError())
}

// A rollout that was terminated cannot say so: its gate is not asked for without end.
func TestATerminatedRolloutIsAskedForNoMore(t *testing.T) {
	env, w := play(t, func() error { return errs.NotFound("gone") })
	send(env, 0, views(waiting("r1")))
	run(t, env)
	posts := w.Posts("C0GATES")
	require.Equal(t, "ended from outside", posts[0].Views[len(posts[0].Views)-1].State)
	require.Nil(t, posts[0].Views[len(posts[0].Views)-1].Gate)
	for _, p := range posts {
		require.NotContains(t, p.Text, "reminder")
	}
}

// The next rollout of the pipeline has the same workflow ID: it is not taken for the one
// that was terminated before it.
func TestATerminatedRolloutIsNotTakenForTheNext(t *testing.T) {
	env, w := play(t, func() error { return nil })
	during(env, "run-1", func() error { return errs.NotFound("gone") })
	v := views(waiting("run-1"))
	v.Run = "run-1"
	send(env, 0, v)
	run(t, env)
	posts := w.Posts("C0GATES")
	require.Equal(t, "ended from outside", posts[0].Views[len(posts[0].Views)-1].State)
	for _, p := range posts {
		require.NotContains(t, p.Text, "reminder")
	}
}

// A rollout that goes on in another run is not dead while it has not said so yet.
func TestARolloutThatContinuesAsNewLives(t *testing.T) {
	env, w := play(t, func() error { return nil })
	during(env, "run-1", func() error {
		next := views(waiting("run-1"))
		next.Run = "run-2"
		send(env, 20*time.Second, next)
		return errs.NotFound("it has ended")
	})
	alive := 0
	during(env, "run-2", func() error { alive++; return nil })
	first := views(waiting("run-1"))
	first.Run = "run-1"
	send(env, 0, first)
	last := views(over("run-1"))
	last.Run = "run-2"
	send(env, 5*time.Hour, last)
	run(t, env)
	posts := w.Posts("C0GATES")
	require.Equal(t, "verified", posts[0].Views[len(posts[0].Views)-1].State)
	require.NotZero(t, alive)
	for _, v := range posts[0].Views {
		require.NotEqual(t, "ended from outside", v.State)
	}
}

// Whoever began it may never tell it anything.
func TestASlackGateThatIsToldNothingEndsADayLater(t *testing.T) {
	env, _ := play(t, func() error { return nil })
	began := env.Now()
	run(t, env)
	require.WithinDuration(t, began.Add(24*time.Hour), env.Now(), time.Minute)
}

// While a soak goes on the message says how far it is, now and then and at its end.
func TestASoakIsShownAsItGoesOn(t *testing.T) {
	env, w := play(t, func() error { return nil })
	soaking := waiting("r1")
	soaking.Gate = nil
	began := env.Now()
	soaking.Environments[0].State = "promoting"
	soaking.Environments[0].Soaking = &slack.Soaking{Since: began, Until: began.Add(2 * time.Hour)}
	send(env, 0, views(waiting("r1"), soaking))
	send(env, 10*time.Hour, views(over("r1")))
	run(t, env)
	var at []time.Duration
	shown := w.Posts("C0GATES")[0].Views
	for _, v := range shown {
		at = append(at, v.Now.Sub(began).Round(time.Minute))
	}
	// Every six minutes, once at the end of the soak, and then no more until something came.
	require.Len(t, at, 22)
	require.Equal(t, 6*time.Minute, at[1])
	require.Equal(t, []time.Duration{2 * time.Hour, 10 * time.Hour}, at[20:])
}

// The next rollout gets messages of its own.
func TestTheNextRolloutGetsItsOwnMessage(t *testing.T) {
	env, w := play(t, func() error { return nil })
	send(env, 0, views(waiting("r1")))
	send(env, time.Minute, views(waiting("r2")))
	send(env, 2*time.Minute, views(over("r2")))
	run(t, env)
	var at []string
	for _, p := range w.Posts("C0GATES") {
		if p.Environment != "" {
			at = append(at, p.Views[0].Rollout)
		}
	}
	require.Equal(t, []string{"r1", "r2"}, at)
}

// Of a rollout that is over, Slack is told for a day, and then no more.
func TestSlackIsGivenUpADayAfterTheEnd(t *testing.T) {
	env, w := play(t, func() error { return errs.NotFound("gone") })
	calls := 0
	w.Hook = func(_ context.Context, name, _ string) error {
		if name == "SlackMessage" {
			calls++
			return errs.Denied("token_revoked")
		}
		return nil
	}
	began := env.Now()
	send(env, 0, views(waiting("r1"), over("r1")))
	run(t, env)
	require.WithinDuration(t, began.Add(24*time.Hour), env.Now(), 10*time.Minute)
	require.Less(t, calls, 400, "the back-off grows to five minutes")
	require.Greater(t, calls, 200)
}

// However long Slack is away, what is said is bounded, and what was left out is told.
func TestLinesAreBounded(t *testing.T) {
	env, w := play(t, func() error { return nil })
	away := true
	w.Hook = func(_ context.Context, name, _ string) error {
		if away && strings.HasPrefix(name, "Slack") {
			return errs.Unavailable("down")
		}
		return nil
	}
	for i := range 300 {
		v := waiting("r1")
		v.Gate.Evidence = strings.Repeat("ab"[i%2:i%2+1], 64)
		send(env, time.Duration(i)*time.Second, views(v))
	}
	env.RegisterDelayedCallback(func() { away = false }, 10*time.Minute)
	send(env, 30*time.Minute, views(over("r1")))
	run(t, env)
	var text string
	for _, p := range w.Posts("C0GATES") {
		text += p.Text + "\n"
	}
	require.Contains(t, text, "lines were left out)")
	require.Len(t, w.Posts("C0GATES"), 3, "one message, and two posts in its thread")
}

// What comes while something is being written is written next, and not at the next
// time to look.
func TestWhatComesMeanwhileIsNotForgotten(t *testing.T) {
	env, w := play(t, func() error { return nil })
	voted := waiting("r1")
	voted.Gate.Votes = []slack.Said{{By: "sam"}}
	once := false
	w.Hook = func(_ context.Context, name, _ string) error {
		if name == "SlackLines" && !once {
			once = true
			send(env, 0, views(voted))
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	}
	send(env, 0, views(waiting("r1")))
	env.RegisterDelayedCallback(func() {
		shown := w.Posts("C0GATES")[0].Views
		if got := shown[len(shown)-1].Gate; len(got.Votes) != 1 {
			t.Errorf("the vote is not shown: %+v", got)
		}
	}, time.Minute)
	send(env, 2*time.Minute, views(over("r1")))
	run(t, env)
}
