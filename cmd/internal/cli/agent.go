package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) agentCommand() *cobra.Command {
	return group(&cobra.Command{Use: "agent", Short: "Look after the node agents on downstream clusters"},
		a.agentVerb(contract.AgentInstall, "Install or update the node agent"),
		a.agentVerb(contract.AgentRemove, "Remove the node agent and everything that came with it"),
		a.agentVerb(contract.AgentStatus, "Show the node agents"),
	)
}

func (a *app) agentVerb(action contract.AgentAction, short string) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   string(action) + " [CLUSTER...]",
		Short: short,
		RunE: a.run(func(ctx context.Context, clusters []string) error {
			// Only looking is meant for every cluster without saying so.
			in := contract.AgentInput{Action: action, Clusters: clusters, All: all || action == contract.AgentStatus && len(clusters) == 0}
			if in.All == (len(clusters) > 0) {
				return usagef("name clusters, or give --all")
			}
			return a.agent(ctx, in)
		}),
	}
	c.Flags().BoolVar(&all, "all", false, "every cluster of the inventory")
	return c
}

func (a *app) agent(ctx context.Context, in contract.AgentInput) error {
	return a.withSession(ctx, func(ctx context.Context, s *session) error {
		var result contract.AgentResult
		summary := fmt.Sprintf("node agents: %s", in.Action)
		err := s.operation(ctx, a.opID("agent"), contract.AgentWorkflow, summary, 30*time.Minute, in, &result)
		if err != nil {
			return err
		}
		if err := a.print(result, func(w io.Writer) error { return agentTable(w, result) }); err != nil {
			return err
		}
		return agentError(result)
	})
}

// agentError is the first cluster's error, by name, with how many there are.
func agentError(result contract.AgentResult) error {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(result.Clusters)) {
		if result.Clusters[name].Error != "" {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	one := result.Clusters[names[0]]
	message := fmt.Sprintf("%s: %s", names[0], one.Error)
	if len(names) > 1 {
		message += fmt.Sprintf(" (and %d more clusters: %s)", len(names)-1, strings.Join(names[1:], ", "))
	}
	if one.ErrorType == "" {
		return errors.New(message)
	}
	return temporal.NewNonRetryableApplicationError(message, one.ErrorType, nil)
}

func agentTable(w io.Writer, result contract.AgentResult) error {
	rows := [][]string{{"CLUSTER", "NODE", "AGENT", "REASON"}}
	for _, name := range slices.Sorted(maps.Keys(result.Clusters)) {
		c := result.Clusters[name]
		switch {
		case c.Error != "":
			rows = append(rows, []string{name, "", "unknown", view.Cut(c.Error, 70)})
		case !c.Installed:
			rows = append(rows, []string{name, "", "not installed", ""})
		}
		for _, n := range c.Nodes {
			state := "ready"
			if !n.Ready {
				state = "not ready"
			}
			rows = append(rows, []string{name, n.Node, state, view.Cut(n.Reason, 70)})
		}
	}
	return table(w, rows)
}
