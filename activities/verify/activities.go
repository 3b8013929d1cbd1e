package verify

import (
	"context"

	"portcullis.dev/portcullis/probes"
)

// Activities look after node agents and measure through them.
type Activities struct{}

// EnsureAgent installs or updates the node agent and waits until it is ready on every node.
func (a *Activities) EnsureAgent(ctx context.Context, in AgentInput) (*Agents, error) { panic("owner") }

// RemoveAgent removes everything that EnsureAgent made.
func (a *Activities) RemoveAgent(ctx context.Context, in AgentInput) error { panic("owner") }

// AgentStatus reads the state of the node agents.
func (a *Activities) AgentStatus(ctx context.Context, in AgentInput) (*Agents, error) { panic("owner") }

// Measure probes one cluster in the given mode.
func (a *Activities) Measure(ctx context.Context, in Input) (*probes.Evidence, error) { panic("owner") }
