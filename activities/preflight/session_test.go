package preflight

import (
	"context"
	"encoding/json"
	"io"
	"testing"
	"time"

	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/preflight/node"
)

// agentFunc is an agent.
type agentFunc func(ctx context.Context, stdin io.Reader, stdout io.Writer) error

func (f agentFunc) Exec(ctx context.Context, _, _ string, _ []string, stdin io.Reader, stdout io.Writer) error {
	return f(ctx, stdin, stdout)
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
				_ = out.Encode(node.Message{Type: node.MessageReached, Peer: 7})
			} else {
				_ = out.Encode(node.Message{Type: node.MessageSeen, Seen: []node.Sighting{{From: 7, Paths: []int{0}}}})
			}
			_ = out.Encode(node.Message{Type: node.MessageDone})
		}
	})
	m := &mesher{pool: newPool(slow, map[string]verify.AgentPod{"n1": {}}), members: []member{{name: "n1"}}}
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
