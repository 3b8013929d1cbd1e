package cli

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/cmd/internal/view"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) clustersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "clusters",
		Short: "List the clusters that Rancher and Fleet know",
		Args:  cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			return a.withSession(ctx, func(ctx context.Context, s *session) error {
				var result contract.InventoryResult
				err := s.operation(ctx, a.opID("inventory"), contract.InventoryWorkflow, "list the clusters", 2*time.Minute, contract.InventoryInput{}, &result)
				if err != nil {
					return err
				}
				return a.print(result, func(w io.Writer) error { return a.clusterTable(w, result.Clusters) })
			})
		}),
	}
}

func (a *app) clusterTable(w io.Writer, clusters []rancher.Cluster) error {
	rows := [][]string{{"NAME", "ID", "CONNECTED", "AGENT SEEN", "LABELS", "REASON"}}
	for _, c := range clusters {
		connected, seen := "yes", "never"
		if !c.Connected {
			connected = "no"
		}
		if !c.AgentLastSeen.IsZero() {
			seen = view.Ago(a.Now().Sub(c.AgentLastSeen)) + " ago"
		}
		rows = append(rows, []string{c.Name, c.ID, connected, seen, view.Cut(labels(c.Labels), 50), view.Cut(c.Reason, 60)})
	}
	return table(w, rows)
}

// labels leaves out those that Rancher and Fleet set for themselves.
func labels(all map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if !strings.Contains(k, "cattle.io/") {
			out = append(out, k+"="+all[k])
		}
	}
	return strings.Join(out, ",")
}
