package slackapp

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/slack/slacktest"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/estate"
	"portcullis.dev/portcullis/workflows"
	"portcullis.dev/portcullis/workflows/contract"
)

var address = flag.String("temporal", "", "host:port of a Temporal server to test against; every search attribute of the daemon is registered there")

// pipeline asks for so many approvals, of people who are in Slack.
func pipeline(name string, required int, people []contract.Person) contract.Pipeline {
	p := estate.Pipeline(name, required, people)
	p.Spec.Slack = &contract.Slack{Channel: "C0GATES", Links: contract.Links{Temporal: "https://temporal.example.com"}}
	return p
}

// clock notes when decisions were answered.
type clock struct {
	client.Client
	mu   sync.Mutex
	done map[string]time.Time
}

type timed struct {
	client.WorkflowUpdateHandle
	note func()
}

func (h timed) Get(ctx context.Context, into any) error {
	defer h.note()
	return h.WorkflowUpdateHandle.Get(ctx, into)
}

func (c *clock) UpdateWorkflow(ctx context.Context, o client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	h, err := c.Client.UpdateWorkflow(ctx, o)
	note := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.done[o.WorkflowID+"|"+o.Args[0].(contract.Decision).By] = time.Now()
	}
	if err != nil {
		note()
		return nil, err
	}
	return timed{h, note}, nil
}

func (c *clock) at(pipeline, user string) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.done[contract.RolloutID(pipeline)+"|"+user]
	return t, ok
}

// stack is a daemon's part of Slack, its worker and a real Temporal.
type stack struct {
	t     testing.TB
	slack *slacktest.Server
	clock *clock
	queue string
}

func newStack(t testing.TB) *stack {
	t.Helper()
	if *address == "" {
		t.Skip("no Temporal server given with -temporal")
	}
	quiet := slog.New(slog.DiscardHandler)
	c, err := client.Dial(client.Options{HostPort: *address, Logger: log.NewStructuredLogger(quiet)})
	require.NoError(t, err)
	for _, name := range []interface{ GetName() string }{contract.AttrPipeline, contract.AttrEnvironment, contract.AttrRevision, contract.AttrState, contract.AttrCluster} {
		// One that is there is left as it is.
		_, _ = c.OperatorService().AddSearchAttributes(t.Context(), &operatorservice.AddSearchAttributesRequest{
			Namespace: client.DefaultNamespace, SearchAttributes: map[string]enumspb.IndexedValueType{name.GetName(): enumspb.INDEXED_VALUE_TYPE_KEYWORD},
		})
	}
	s := &stack{t: t, slack: slacktest.New(), clock: &clock{Client: c, done: map[string]time.Time{}}, queue: fmt.Sprintf("slack-%d", time.Now().UnixNano())}
	dir := t.TempDir()
	file := func(name, data string) string {
		f := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(f, []byte(data), 0o600))
		return f
	}
	cfg := config.Slack{BotTokenFile: file("bot", slacktest.BotToken), AppTokenFile: file("app", slacktest.AppToken), CAFile: file("ca", string(s.slack.CA())), APIURL: s.slack.URL()}
	chat, err := slack.NewClient(slack.Config{BotTokenFile: cfg.BotTokenFile, URL: cfg.APIURL, CAFile: cfg.CAFile})
	require.NoError(t, err)

	w := worker.New(c, s.queue, worker.Options{})
	workflows.Register(w)
	estate.Register(w)
	w.RegisterActivityWithOptions(slack.New(chat), activity.RegisterOptions{Name: "slack."})
	require.NoError(t, w.Start())
	ctx, cancel := context.WithCancel(context.Background())
	wait, err := New(cfg, chat).Start(ctx, s.clock, quiet)
	require.NoError(t, err)
	t.Cleanup(func() { cancel(); s.slack.Close(); wait(); w.Stop(); c.Close() })
	require.True(t, s.slack.Await(30*time.Second, func() bool { return s.slack.Sockets() > 0 }))
	return s
}

// start begins a rollout and ends it with the test.
func (s *stack) start(p contract.Pipeline) client.WorkflowRun {
	s.t.Helper()
	run, err := s.clock.ExecuteWorkflow(context.Background(), client.StartWorkflowOptions{
		ID: contract.RolloutID(p.Metadata.Name), TaskQueue: s.queue, WorkflowExecutionTimeout: time.Hour,
	}, contract.RolloutWorkflow, contract.RolloutInput{Pipeline: p, StartedBy: "ann"})
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		for _, id := range []string{run.GetID(), contract.SlackID(p.Metadata.Name)} {
			_ = s.clock.TerminateWorkflow(context.Background(), id, "", "the test is over")
		}
	})
	return run
}

// message waits for a pipeline's message with buttons.
func (s *stack) message(name string) slacktest.Message {
	s.t.Helper()
	var found slacktest.Message
	require.True(s.t, s.slack.Await(5*time.Minute, func() bool {
		for _, m := range s.slack.Messages("C0GATES", "") {
			if strings.Contains(m.Text, name+" → prod") && strings.Contains(m.Blocks, slack.ActionApprove) {
				found = m
				return true
			}
		}
		return false
	}), "no message of %s", name)
	return found
}

func (s *stack) press(user string, m slacktest.Message, action string) {
	s.t.Helper()
	value, err := m.Button(action)
	require.NoError(s.t, err)
	_, err = s.slack.Envelope(context.Background(), s.slack.BlockActions(user, m, action, value))
	require.NoError(s.t, err)
}

// Everything together, on a real Temporal: two people approve in Slack, one who may
// not and one whom nobody knows are refused, and the message follows.
func TestTwoPeopleApproveInSlack(t *testing.T) {
	s := newStack(t)
	name := fmt.Sprintf("two-%d", time.Now().UnixNano()%1e9)
	run := s.start(pipeline(name, 2, []contract.Person{{Name: "alex", Slack: "U0ALEX"}, {Name: "sam", Slack: "U0SAM"}, {Name: "ann", Slack: "U0ANN"}}))
	m := s.message(name)
	told := func(user, text string) {
		t.Helper()
		require.True(t, s.slack.Await(20*time.Second, func() bool {
			return slices.ContainsFunc(s.slack.Ephemerals(), func(e slacktest.Ephemeral) bool { return e.User == user && strings.Contains(e.Text, text) })
		}), "%+v", s.slack.Ephemerals())
	}
	s.press("U0EVE", m, slack.ActionApprove)
	told("U0EVE", "may not approve prod")
	s.press("U0ANN", m, slack.ActionApprove)
	told("U0ANN", "started this rollout")
	// A button of another rollout of this pipeline decides nothing about this one.
	value, err := m.Button(slack.ActionApprove)
	require.NoError(t, err)
	_, err = s.slack.Envelope(t.Context(), s.slack.BlockActions("U0SAM", m, slack.ActionApprove,
		strings.Replace(value, run.GetRunID(), "00000000-0000-4000-8000-000000000000", 1)))
	require.NoError(t, err)
	told("U0SAM", "no longer runs")
	s.press("U0ALEX", m, slack.ActionApprove)
	require.True(t, s.slack.Await(20*time.Second, func() bool { return strings.Contains(s.message(name).Text, "1 of 2") }), "%+v %+v", s.slack.Ephemerals(), s.slack.Messages("C0GATES", ""))
	s.press("U0ALEX", m, slack.ActionApprove)
	told("U0ALEX", "approved prod already")
	s.press("U0SAM", m, slack.ActionApprove)
	require.True(t, s.slack.Await(20*time.Second, func() bool {
		for _, line := range s.slack.Messages("C0GATES", m.TS) {
			if strings.Contains(line.Text, "the gate of *prod* is open") {
				return true
			}
		}
		return false
	}), "%+v %+v", s.slack.Ephemerals(), s.slack.Messages("C0GATES", m.TS))
	v, err := s.clock.QueryWorkflow(t.Context(), run.GetID(), run.GetRunID(), contract.QueryStatus)
	require.NoError(t, err)
	var status contract.RolloutStatus
	require.NoError(t, v.Get(&status))
	var by []string
	for _, e := range status.Audit.Entries {
		if e.What == contract.UpdateApprove {
			by = append(by, fmt.Sprintf("%s via %s %s", e.By, e.Via, e.Type))
		}
	}
	require.Contains(t, by, "alex via slack ")
	require.Contains(t, by, "sam via slack ")
}

// BenchmarkPressToDecision has 100 gates open and presses one button after the
// other: from the moment that Slack sends the press to the moment that the
// workflow's answer is there.
func BenchmarkPressToDecision(b *testing.B) {
	const gates, pressesEach = 100, 5
	s := newStack(b)
	people := make([]contract.Person, pressesEach+1)
	for i := range people {
		people[i] = contract.Person{Name: fmt.Sprintf("person-%d", i), Slack: fmt.Sprintf("U0PERSON%d", i)}
	}
	stamp := time.Now().UnixNano() % 1e9
	names := make([]string, gates)
	for i := range names {
		names[i] = fmt.Sprintf("bench-%d-%d", stamp, i)
		s.start(pipeline(names[i], len(people), append(people, contract.Person{Name: "ann"})))
	}
	messages := make([]slacktest.Message, gates)
	for i, name := range names {
		messages[i] = s.message(name)
	}
	// What the start has left to do is not what is measured.
	time.Sleep(10 * time.Second)
	var took []time.Duration
	for i := range pressesEach {
		for g, m := range messages {
			began := time.Now()
			s.press(people[i].Slack, m, slack.ActionApprove)
			var done time.Time
			for end := time.After(20 * time.Second); done.IsZero(); {
				select {
				case <-end:
					b.Fatalf("no decision about %s", names[g])
				case <-time.After(time.Millisecond):
				}
				done, _ = s.clock.at(names[g], people[i].Slack)
			}
			took = append(took, done.Sub(began))
		}
	}
	require.Empty(b, s.slack.Ephemerals(), "every press counts")
	slices.Sort(took)
	for q, name := range map[float64]string{.5: "p50-ms", .99: "p99-ms", 1: "max-ms"} {
		i := min(int(q*float64(len(took))), len(took)-1)
		b.ReportMetric(float64(took[i].Microseconds())/1000, name)
	}
	b.ReportMetric(gates, "gates")
	b.ReportMetric(float64(len(took)), "presses")
}
