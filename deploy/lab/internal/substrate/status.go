package substrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"portcullis.dev/portcullis/deploy/lab/internal/cgroup"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

// ErrNotUp says that there is no lab.
var ErrNotUp = errors.New("the lab is not up; `lab up` starts it")

// Load reads the record of a running lab without taking hold of it.
func Load(stateDir string) (state.Data, error) {
	d, err := state.Read(stateDir)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && len(d.Plan.Clusters) == 0) {
		return d, ErrNotUp
	}
	return d, err
}

// Status writes what runs, and returns an error if a part of the lab does not.
func Status(ctx context.Context, stateDir string, w io.Writer) error {
	d, err := Load(stateDir)
	if err != nil {
		return err
	}
	var bad []string
	if !d.Ready {
		bad = append(bad, "`lab up` has not come to its end")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLUSTER\tID\tNODE\tADDRESS\tREADY\tPODS\tRSS")
	for _, c := range d.Plan.Clusters {
		bad = append(bad, clusterStatus(ctx, stateDir, c, d, t)...)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(d.Processes)) {
		if !d.Processes[name].Alive() {
			bad = append(bad, "process "+name+" does not run")
		}
	}
	u := Measure(stateDir)
	fmt.Fprintf(w, "\n%d processes, %d MiB resident (%d MiB without what they share)\nimages %s %s\n", u.Processes, u.RSS>>20, u.PSS>>20, d.Images.Portcullis, d.Images.Workload)
	for _, f := range d.Faults {
		fmt.Fprintf(w, "fault in force: %s\n", f)
	}
	if len(bad) > 0 {
		return fmt.Errorf("not all is well:\n  %s\n`lab up` repairs what does not run", strings.Join(bad, "\n  "))
	}
	return nil
}

func clusterStatus(ctx context.Context, stateDir string, c topology.PlannedCluster, d state.Data, w io.Writer) (bad []string) {
	ready := map[string]string{}
	total, ok := map[string]int{}, map[string]int{}
	client, err := adminClient(stateDir, c)
	if err == nil {
		nodes, nerr := client.Nodes(ctx)
		for _, n := range nodes {
			ready[n.Name] = "yes"
			if !n.Ready {
				ready[n.Name] = "no"
				bad = append(bad, fmt.Sprintf("node %s: %s", n.Name, n.Why))
			}
		}
		pods, perr := client.Pods(ctx)
		for _, p := range pods {
			total[p.Node]++
			if p.OK {
				ok[p.Node]++
				continue
			}
			bad = append(bad, fmt.Sprintf("%s: pod %s/%s: %s", c.Name, p.Namespace, p.Name, p.Why))
		}
		err = errors.Join(nerr, perr)
	}
	if err != nil {
		bad = append(bad, fmt.Sprintf("%s: %s", c.Name, strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	for _, n := range c.NodeList {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d/%d\t%d MiB\n", c.Name, c.ID, n.Name, n.Address, orUnknown(ready[n.Name]), ok[n.Name], total[n.Name], nodeRSS(d, n)>>20)
	}
	return bad
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func labPIDs(stateDir string) map[int]bool {
	out := map[int]bool{}
	for _, p := range state.Marked(stateDir) {
		out[p.PID] = true
	}
	groups, _ := cgroup.Found(scope(stateDir))
	for _, g := range groups {
		for _, pid := range cgroup.PIDs(g) {
			out[pid] = true
		}
	}
	return out
}

// nodeRSS adds up what runs in a node's process namespace.
func nodeRSS(d state.Data, n topology.Node) int64 {
	holder := d.Processes[holderName(n.Name)]
	if !holder.Alive() {
		return 0
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", holder.PID))
	if err != nil {
		return 0
	}
	var sum int64
	for _, pid := range state.PIDs() {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err == nil && ns == own {
			rss, _ := memory(pid)
			sum += rss
		}
	}
	return sum
}

// NodePID is the process that holds a node's namespaces.
func NodePID(stateDir, node string) (int, error) {
	d, err := Load(stateDir)
	if err != nil {
		return 0, err
	}
	if _, ok := d.Plan.Node(node); !ok {
		return 0, fmt.Errorf("no node %q in the lab; there are %v", node, nodeNames(d.Plan))
	}
	holder := d.Processes[holderName(node)]
	if !holder.Alive() {
		return 0, fmt.Errorf("node %s does not run; `lab up` repairs it", node)
	}
	return holder.PID, nil
}
