package wire

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"portcullis.dev/portcullis/probes"
)

// Host makes connections from the node's own network namespace, as the node's
// programs do. It is safe for concurrent use.
type Host struct {
	runner *runner
	ns     *namespace
}

// Answer is what came back for a connection of a Host.
type Answer struct {
	Outcome probes.Outcome
	// Detail is one line for people.
	Detail string
	// TurnedAway is true when a filter answered in the destination's place.
	TurnedAway bool
	// Silent is true when nothing came back.
	Silent bool
}

// OpenHost opens the node's network namespace.
func OpenHost() (*Host, error) {
	r := newRunner()
	ns, err := openNamespace(r.finder.host)
	if err != nil {
		r.thread.stop()
		return nil, err
	}
	return &Host{runner: r, ns: ns}, nil
}

// Close ends it. Connections under way must have ended.
func (h *Host) Close() {
	h.runner.thread.stop()
	h.ns.close()
}

// TCP tries a connection. What is not answered at half the time-out is tried once more.
func (h *Host) TCP(ctx context.Context, to netip.AddrPort, timeout time.Duration) Answer {
	need := h.runner.files.take(filesPerProbe)
	defer h.runner.files.give(need)
	return answerOf(h.runner.tcp(ctx, h.ns, to, time.Now().Add(timeout)))
}

// UDP sends a datagram, and once more at half the time-out. Allowed means that
// something answered, Refused that a port unreachable came from the destination
// (which its filter may have sent); silence is for a witness to decide.
func (h *Host) UDP(ctx context.Context, to netip.AddrPort, payload []byte, timeout time.Duration) Answer {
	need := h.runner.files.take(filesPerProbe)
	defer h.runner.files.give(need)
	return answerOf(h.runner.udp(ctx, h.ns, to, payload, time.Now().Add(timeout)))
}

func answerOf(f finding) Answer {
	return Answer{Outcome: f.outcome, Detail: f.detail, Silent: f.silent, TurnedAway: strings.HasPrefix(f.detail, turnedAway)}
}

// turnedAway begins the detail of a connection that a filter answered.
const turnedAway = "turned away on the way"
