package substrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
	"portcullis.dev/portcullis/deploy/lab/internal/image"
	"portcullis.dev/portcullis/deploy/lab/internal/kube"
	"portcullis.dev/portcullis/deploy/lab/internal/netw"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
)

// Faults lists what is broken.
func (l *Lab) Faults() []fault.Fault { return l.store.Get().Faults }

// Inject breaks something, or does it again. A fault with the same ID and other
// parameters takes the place of the old one.
func (l *Lab) Inject(ctx context.Context, f fault.Fault) error {
	if err := l.checkTarget(f); err != nil {
		return err
	}
	if old := fault.Matching(l.Faults(), f.ID()); len(old) == 1 && old[0].String() != f.String() {
		if err := l.Clear(ctx, old[0]); err != nil {
			return err
		}
	}
	// Recorded first: a fault that is half there is taken away like a whole one.
	if err := l.note(f, true); err != nil {
		return err
	}
	if err := l.breakIt(ctx, f); err != nil {
		return errors.Join(fmt.Errorf("fault %s: %w", f.ID(), err), l.Clear(context.WithoutCancel(ctx), f))
	}
	return nil
}

// Clear repairs what a fault broke; one that is not in force is fine.
func (l *Lab) Clear(ctx context.Context, f fault.Fault) error {
	if err := l.repair(ctx, f); err != nil {
		return fmt.Errorf("clear %s: %w", f.ID(), err)
	}
	return nil
}

// ClearMatching clears the faults with an ID, a kind, or a kind and a target, or
// all when id is empty, and returns what was in force.
func (l *Lab) ClearMatching(ctx context.Context, id string) ([]fault.Fault, error) {
	found := l.Faults()
	if id != "" {
		found = fault.Matching(found, id)
	}
	// A node must be on for what is on it to be repaired.
	slices.SortStableFunc(found, func(a, b fault.Fault) int { return last(a) - last(b) })
	var errs []error
	for _, f := range found {
		errs = append(errs, l.Clear(ctx, f))
	}
	return found, errors.Join(errs...)
}

func last(f fault.Fault) int {
	if f.Kind == fault.Power {
		return 0
	}
	return 1
}

// clearOf clears the faults of some kinds on a target, or on all when it is empty.
func (l *Lab) clearOf(ctx context.Context, target string, kinds ...string) error {
	var errs []error
	for _, k := range kinds {
		for _, f := range fault.Of(l.Faults(), k, target) {
			errs = append(errs, l.Clear(ctx, f))
		}
	}
	return errors.Join(errs...)
}

func (l *Lab) checkTarget(f fault.Fault) error {
	k, err := fault.Find(f.Kind)
	if err != nil {
		return err
	}
	if k.On == fault.OnCluster {
		_, err := l.Cluster(f.Target)
		return err
	}
	if _, err := l.Node(f.Target); err != nil {
		return err
	}
	if peer := f.Params["peer"]; peer != "" {
		if _, err := l.Node(peer); err != nil {
			return err
		}
		if peer == f.Target {
			return fmt.Errorf("fault %s: a node is no peer of itself", f.ID())
		}
	}
	if f.Kind != fault.Power && f.Kind != fault.Block && !l.isOn(f.Target) {
		return fmt.Errorf("fault %s: node %s is off", f.ID(), f.Target)
	}
	return nil
}

func (l *Lab) isOn(node string) bool { return l.store.Get().Processes[holderName(node)].Alive() }

// note records that a fault is in force, or no longer.
func (l *Lab) note(f fault.Fault, inForce bool) error {
	return l.store.Update(func(d *state.Data) {
		if inForce {
			d.Faults = fault.With(d.Faults, f)
		} else {
			d.Faults = fault.Without(d.Faults, f.ID())
		}
	})
}

// breakIt does what a fault says. It is in the record already.
func (l *Lab) breakIt(ctx context.Context, f fault.Fault) error {
	switch f.Kind {
	case fault.Block:
		return l.syncBlocks()
	case fault.MTU:
		return setMTU(f, f.Params["value"])
	case fault.Module:
		return l.syncModules(f.Target)
	case fault.Port:
		return l.takePort(ctx, f)
	case fault.Budget:
		return l.applyBudget(ctx, f)
	case fault.Power:
		return l.powerOff(f.Target)
	case fault.CNIReadOnly:
		return l.setReadOnly(f, true)
	case fault.Calico:
		return l.breakCalico(ctx, f)
	default:
		return fmt.Errorf("nobody knows how to inject it")
	}
}

// repair undoes what a fault did and takes it from the record. What is gone with
// a node that is off needs no repair.
func (l *Lab) repair(ctx context.Context, f fault.Fault) error {
	on := l.isOn(f.Target)
	switch f.Kind {
	case fault.Block, fault.Module:
		// These are made from the record.
		if err := l.note(f, false); err != nil {
			return err
		}
		if f.Kind == fault.Block {
			return l.syncBlocks()
		}
		if on {
			return l.syncModules(f.Target)
		}
		return nil
	case fault.Power:
		if err := l.powerOn(ctx, f.Target); err != nil {
			return err
		}
	case fault.Budget:
		if err := l.deleteBudget(ctx, f); err != nil {
			return err
		}
	case fault.Port:
		if err := l.freePort(f); err != nil {
			return err
		}
	case fault.Calico:
		if !on {
			return fmt.Errorf("node %s is off: turn it on first", f.Target)
		}
		if err := l.mendCalico(ctx, f); err != nil {
			return err
		}
	case fault.MTU:
		if on {
			if err := setMTU(f, fmt.Sprint(netw.MTU)); err != nil {
				return err
			}
		}
	case fault.CNIReadOnly:
		if on {
			if err := l.setReadOnly(f, false); err != nil {
				return err
			}
		}
	}
	return l.note(f, false)
}

// outlastsBoot are the faults that a node has again when it has booted. A block
// is not on the node, and images are on its disk.
var outlastsBoot = []string{fault.MTU, fault.Module, fault.Port, fault.CNIReadOnly}

func (l *Lab) breakAgain(ctx context.Context, node string) error {
	var errs []error
	for _, k := range outlastsBoot {
		for _, f := range fault.Of(l.Faults(), k, node) {
			if err := l.breakIt(ctx, f); err != nil {
				errs = append(errs, fmt.Errorf("fault %s: %w", f.ID(), err))
			}
		}
	}
	return errors.Join(errs...)
}

func (l *Lab) syncBlocks() error { return netw.SetBlocks(fault.Of(l.Faults(), fault.Block, "")) }

func setMTU(f fault.Fault, value string) error {
	var mtu int
	if _, err := fmt.Sscan(value, &mtu); err != nil {
		return err
	}
	if f.Params["where"] == "path" {
		return netw.SetPathMTU(f.Target, mtu)
	}
	return netw.SetNodeMTU(f.Target, mtu)
}

func portProcess(f fault.Fault) string {
	return fmt.Sprintf("%s-taken-%s-%s", f.Target, f.Params["proto"], f.Params["port"])
}

// takePort lets a process of the lab listen on a port of a node.
func (l *Lab) takePort(ctx context.Context, f fault.Fault) error {
	name := portProcess(f)
	if err := l.ensure(name, state.Record{Node: f.Target, Command: []string{l.bin("lab"), "node-listen", f.Params["proto"], f.Params["port"]}}); err != nil {
		return err
	}
	// Either it cannot have the port and ends at once, or it stays.
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(300 * time.Millisecond):
	}
	return l.died(name)
}

func (l *Lab) freePort(f fault.Fault) error {
	name := portProcess(f)
	if _, ok := l.Processes()[name]; !ok {
		return nil
	}
	if err := l.StopProcess(name); err != nil {
		return err
	}
	return l.store.Update(func(d *state.Data) { delete(d.Processes, name) })
}

const budgetManifest = `apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: %s, namespace: %s}
spec:
  maxUnavailable: 0
  selector: {matchLabels: {app: %s}}
`

func budgetName(f fault.Fault) string { return "lab-fault-" + f.Params["app"] }

func (l *Lab) applyBudget(ctx context.Context, f fault.Fault) error {
	manifest := fmt.Appendf(nil, budgetManifest, budgetName(f), f.Params["namespace"], f.Params["app"])
	return kube.Apply(ctx, l.bin("kubectl"), Kubeconfig(l.StateDir, f.Target), manifest)
}

func (l *Lab) deleteBudget(ctx context.Context, f fault.Fault) error {
	return kube.Delete(ctx, l.bin("kubectl"), Kubeconfig(l.StateDir, f.Target), "poddisruptionbudget", f.Params["namespace"], budgetName(f))
}

var calicoImages = map[string]string{"node": image.CalicoNode, "cni": image.CalicoCNI, "kube-controllers": image.CalicoControllers}

// keptImage is the name that a whole image has while another has its name, or none has.
func keptImage(ref string) string {
	return "portcullis.dev/lab-kept/" + strings.TrimPrefix(ref, "docker.io/")
}

// breakCalico puts an image that does not start in the place of Calico's, or none.
func (l *Lab) breakCalico(ctx context.Context, f fault.Fault) error {
	ref := calicoImages[f.Params["image"]]
	if kept, err := l.hasImage(ctx, f.Target, keptImage(ref)); err != nil {
		return err
	} else if !kept {
		if err := l.images(ctx, f.Target, "tag", ref, keptImage(ref)); err != nil {
			return err
		}
	}
	switch f.Params["how"] {
	case "crash":
		return l.images(ctx, f.Target, "tag", "--force", image.CrashingCalico, ref)
	case "hang":
		return l.images(ctx, f.Target, "tag", "--force", image.HangingCalico, ref)
	default:
		return l.images(ctx, f.Target, "rm", ref)
	}
}

func (l *Lab) mendCalico(ctx context.Context, f fault.Fault) error {
	ref := calicoImages[f.Params["image"]]
	kept, err := l.hasImage(ctx, f.Target, keptImage(ref))
	if err != nil || !kept {
		return err
	}
	if err := l.images(ctx, f.Target, "tag", "--force", keptImage(ref), ref); err != nil {
		return err
	}
	return l.images(ctx, f.Target, "rm", keptImage(ref))
}

func (l *Lab) images(ctx context.Context, node string, args ...string) error {
	return l.inNode(ctx, node, nil, append([]string{"ctr", "-n", image.Namespace, "images"}, args...)...)
}

func (l *Lab) hasImage(ctx context.Context, node, ref string) (bool, error) {
	var out bytes.Buffer
	if err := l.inNodeTo(ctx, node, &out, nil, "ctr", "-n", image.Namespace, "images", "ls", "-q"); err != nil {
		return false, err
	}
	return slices.Contains(strings.Fields(out.String()), ref), nil
}
