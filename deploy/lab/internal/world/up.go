package world

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"portcullis.dev/portcullis/deploy/lab/internal/apply"
	"portcullis.dev/portcullis/deploy/lab/internal/fleetlab"
	"portcullis.dev/portcullis/deploy/lab/internal/image"
)

// upWithin bounds the whole of Up.
const upWithin = 10 * time.Minute

// Up fills running clusters: Rancher's objects and stand-in, Git, Fleet and its
// agents (or the policies that they would bring), workloads, and the lab's
// configuration files. A second call repairs what is missing and changes nothing else.
func Up(ctx context.Context, e Env) error {
	ctx, cancel := context.WithTimeout(ctx, upWithin)
	defer cancel()
	w, err := open(e)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	w.step(g, "rancher", func() error { return w.rancher(gctx) })
	if e.Fleet {
		w.step(g, "git", func() error { return w.git(gctx) })
		w.step(g, "fleet", func() error { return w.fleet(gctx) })
	}
	for _, c := range e.Downstream() {
		w.step(g, c.Name+" workloads", func() error { return w.workloads(gctx, c) })
		if !e.Fleet && c.Enforces {
			w.step(g, c.Name+" policies", func() error { return w.policies(gctx, c) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return WriteConfig(e.StateDir, e.PortcullisImage)
}

// world is an Env with its clients.
type world struct {
	Env
	mgmt    Cluster
	clients map[string]*apply.Client // by cluster name
}

func open(e Env) (*world, error) {
	w := &world{Env: e, clients: make(map[string]*apply.Client, len(e.Clusters))}
	var ok bool
	if w.mgmt, ok = e.Management(); !ok {
		return nil, fmt.Errorf("no cluster has the ID %s", ManagementID)
	}
	for _, c := range e.Clusters {
		client, err := apply.Open(c.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
		}
		w.clients[c.Name] = client
	}
	return w, nil
}

// step runs one part and says how long it took.
func (w *world) step(g *errgroup.Group, name string, do func() error) {
	g.Go(func() error {
		begun := time.Now()
		if err := do(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		w.Log("%s: ready after %s", name, time.Since(begun).Round(100*time.Millisecond))
		return nil
	})
}

// fleet installs Fleet and registers the downstream clusters.
func (w *world) fleet(ctx context.Context) error {
	err := fleetlab.Install(ctx, fleetlab.Options{
		Helm: filepath.Join(w.BinDir, "helm"), ChartsDir: w.FleetChartsDir,
		Kubeconfig: w.mgmt.Kubeconfig, APIServer: w.mgmt.APIServer, CAFile: w.mgmt.CAFile,
		Image: image.Fleet, AgentImage: image.FleetAgent,
	})
	if err != nil {
		return err
	}
	w.Log("fleet: controllers are up, registering clusters")
	var members []fleetlab.Member
	for _, c := range w.Downstream() {
		members = append(members, fleetlab.Member{Name: c.Name, ID: c.ID, Kubeconfig: c.Kubeconfig, Labels: c.Labels})
	}
	mgmt := w.clients[w.mgmt.Name]
	if err := fleetlab.Register(ctx, mgmt, members); err != nil {
		return err
	}
	return fleetlab.WaitAgents(ctx, mgmt, members)
}

// program is the lab's own program, which serves the stand-ins too.
func (w *world) program() (string, error) {
	p := filepath.Join(w.BinDir, "lab")
	if _, err := os.Stat(p); err == nil {
		return p, nil
	}
	return os.Executable()
}

// serve starts one of the stand-ins under supervision.
func (w *world) serve(name string) error {
	p, err := w.program()
	if err != nil {
		return err
	}
	return w.Start(name, []string{p, name, "--state", w.StateDir})
}
