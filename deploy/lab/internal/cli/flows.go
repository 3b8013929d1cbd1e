package cli

import (
	"encoding/json"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"portcullis.dev/portcullis/deploy/lab/internal/flows"
)

// flows watches connections between pods, and draws what happened to them.
func (o *options) flows() *cobra.Command {
	var (
		allow, deny, hold []string
		last, every       time.Duration
		picture           string
		events            string
	)
	c := &cobra.Command{
		Use:   "flows CLUSTER --allow FROM:TO:PORT",
		Short: "Open connections between pods many times a second, and tell what failed or was open",
		Long: `Open connections from every pod of a namespace to every pod of another, many times a second, from
inside the pods' own network namespaces, until the time is over or it is interrupted; then print, as JSON, how
many failed, the longest gap, and how often a denied flow was open. Pods that come and go are followed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			rules, err := flows.ParseRules(allow, deny, hold)
			if err != nil {
				return err
			}
			path, err := o.kubeconfigOf(args[0])
			if err != nil {
				return err
			}
			config, err := clientcmd.BuildConfigFromFlags("", path)
			if err != nil {
				return err
			}
			kube, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			w, err := flows.Follow(ctx, kube, rules, every)
			if err != nil {
				return err
			}
			o.log("watching the flows")
			select {
			case <-ctx.Done():
			case <-time.After(last):
			}
			r, err := w.Stop()
			if err != nil {
				return err
			}
			if r.Events, err = readEvents(events); err != nil {
				return err
			}
			if picture != "" {
				if err := os.WriteFile(picture, []byte(r.SVG("flows of "+args[0])), 0o644); err != nil {
					return err
				}
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
				flows.Totals
				Flows int `json:"flows"`
				Late  int `json:"late"`
				Bad   []flows.Seen
			}{r.Totals(), len(r.Flows), r.Late, bad(r)})
		},
	}
	f := c.Flags()
	f.StringSliceVar(&allow, "allow", nil, "flows that must work, as FROM:TO:PORT (namespaces)")
	f.StringSliceVar(&deny, "deny", nil, "flows that must never be open")
	f.StringSliceVar(&hold, "hold", nil, "connections to open once and keep; the port must echo")
	f.DurationVar(&last, "for", time.Minute, "how long")
	f.DurationVar(&every, "every", 50*time.Millisecond, "time between two tries of a flow")
	f.StringVar(&picture, "svg", "", "file to draw the timeline into")
	f.StringVar(&events, "events", "", "file with a line for each thing that was done: time (RFC 3339) and text")
	return c
}

func bad(r flows.Report) (out []flows.Seen) {
	for _, s := range r.Flows {
		if len(s.Bad) > 0 || s.Broken != "" {
			s.Bad = s.Bad[:min(len(s.Bad), 3)]
			out = append(out, s)
		}
	}
	return out
}

func readEvents(file string) ([]flows.Event, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return flows.ParseEvents(string(text))
}
