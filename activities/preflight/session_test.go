package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/probes/preflight/node"
)

// agentFunc is an agent.
type agentFunc func(ctx context.Context, stdin io.Reader, stdout io.Writer) error

func (f agentFunc) Exec(ctx context.Context, _, _ string, _ []string, stdin io.Reader, stdout io.Writer) error {
	return f(ctx, stdin, stdout)
}

// An agent is not believed what nobody asked it, and cannot fill the daemon with it.
func TestWhatNobodyAskedIsLeftOut(t *testing.T) {
	chatty := agentFunc(func(_ context.Context, stdin io.Reader, stdout io.Writer) error {
		in, out := json.NewDecoder(stdin), json.NewEncoder(stdout)
		for {
			var req node.Request
			if err := in.Decode(&req); err != nil || req.Role == node.RoleBye {
				return err
			}
			for i := range 1000 {
				_ = out.Encode(node.Message{Type: node.MessageReached, Peer: i - 500})
				_ = out.Encode(node.Message{Type: node.MessageSeen, Seen: []node.Sighting{{From: i - 500}}})
			}
			_ = out.Encode(node.Message{Type: node.MessageDone})
		}
	})
	m := &mesher{pool: newPool(chatty, map[string]verify.AgentPod{"n1": {}}), members: []member{{name: "n1"}, {name: "n2"}}}
	defer m.pool.close()
	h := &heard{seen: map[int]node.Sighting{}, answers: map[int][]node.PathAnswer{}}
	if err := m.reach(t.Context(), 0, 0, preflight.Round{}, h, nil); err != nil || len(h.answers) > 2 {
		t.Errorf("%v, %d answers", err, len(h.answers))
	}
	if err := m.collect(t.Context(), 0, 0, h); err != nil || len(h.seen) > 2 {
		t.Errorf("%v, %d sightings", err, len(h.seen))
	}
}

// A list that never ends is given up.
func TestPagesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := pages(t.Context(), func(ctx context.Context, _ metav1.ListOptions) (*corev1.NodeList, error) {
			time.Sleep(time.Second)
			return &corev1.NodeList{ListMeta: metav1.ListMeta{Continue: "more"}}, ctx.Err()
		}, func(l *corev1.NodeList) []corev1.Node { return l.Items })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// The answer to a reach that comes too late is not taken for that to a collect:
// what the others sent would count as lost.
func TestALateAnswerIsNotThatOfAnotherRequest(t *testing.T) {
	slow := agentFunc(func(_ context.Context, stdin io.Reader, stdout io.Writer) error {
		in, out := json.NewDecoder(stdin), json.NewEncoder(stdout)
		for {
			var req node.Request
			if err := in.Decode(&req); err != nil || req.Role == node.RoleBye {
				return err
			}
			if req.Role == node.RoleReach {
				time.Sleep(100 * time.Millisecond)
				_ = out.Encode(node.Message{Type: node.MessageReached, Peer: 1})
			} else {
				_ = out.Encode(node.Message{Type: node.MessageSeen, Seen: []node.Sighting{{From: 1, Paths: []int{0}}}})
			}
			_ = out.Encode(node.Message{Type: node.MessageDone})
		}
	})
	m := &mesher{pool: newPool(slow, map[string]verify.AgentPod{"n1": {}}), members: []member{{name: "n1"}, {name: "n2"}}}
	defer m.pool.close()
	err := call(t.Context(), m.pool.session(t.Context(), "n1"), 20*time.Millisecond, node.Request{Role: node.RoleReach}, func(*node.Message) {})
	if err == nil {
		t.Fatal("it was not late")
	}
	time.Sleep(200 * time.Millisecond)
	h := &heard{seen: map[int]node.Sighting{}}
	if err := m.collect(t.Context(), 0, 0, h); err == nil && len(h.seen) != 1 {
		t.Errorf("seen %v", h.seen)
	}
}
