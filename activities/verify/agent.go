package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/pace"
)

const (
	defaultAgentTimeout = 2 * time.Minute
	// callTimeout bounds one request to an API server.
	callTimeout = 15 * time.Second
	// pollEvery is the time between two looks at the agents.
	pollEvery = 500 * time.Millisecond
)

// EnsureAgent installs or updates the node agent, and waits until it runs the
// configured image and is ready on every node that is itself ready. Nodes that are not
// ready are in the result, with the reason: a measurement that needs them waits for them.
//
// Errors: Invalid (no image configured), Denied, Untrusted, Failed (the cluster
// refuses the agent), Conflict (the namespace is someone else's), Deadline (with what is awaited), Unavailable.
func (a *Activities) EnsureAgent(ctx context.Context, in AgentInput) (*Agents, error) {
	if a.config.Image == "" {
		return nil, errs.Invalid("no agent image is configured: set agent.image")
	}
	kube, err := a.kube(in)
	if err != nil {
		return nil, err
	}
	w := a.newWait(ctx, in)
	if err := w.retry(ctx, func(ctx context.Context) error { return a.apply(ctx, kube) }); err != nil {
		return nil, err
	}
	var agents *Agents
	err = w.until(ctx, func(ctx context.Context) (waiting string, err error) {
		var updating string
		agents, updating, err = a.status(ctx, kube)
		if err != nil {
			return "", err
		}
		return awaited(agents, updating), nil
	})
	return agents, err
}

// awaited says what an installation waits for, or "".
func awaited(agents *Agents, updating string) string {
	if updating != "" {
		return updating
	}
	var reasons []string
	for _, n := range agents.Nodes {
		// A node that is not ready itself does not hold up the others.
		if !n.Ready && !strings.HasPrefix(n.Reason, nodePrefix) {
			reasons = append(reasons, n.Node+": "+n.Reason)
		}
	}
	return strings.Join(reasons, "; ")
}

// nodePrefix begins the reason of a node that is not ready itself.
const nodePrefix = "the node "

// RemoveAgent removes everything that EnsureAgent made, and waits until it is
// gone. A namespace that EnsureAgent did not make stays, without the agent. Errors are as of EnsureAgent.
func (a *Activities) RemoveAgent(ctx context.Context, in AgentInput) error {
	kube, err := a.kube(in)
	if err != nil {
		return err
	}
	w := a.newWait(ctx, in)
	var removed types.UID
	return w.until(ctx, func(ctx context.Context) (string, error) {
		ns, err := kube.CoreV1().Namespaces().Get(ctx, a.config.Namespace, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return "", nil
		case err != nil:
			return "", err
		case removed != "" && ns.UID != removed:
			// A migration that needs it has made it anew.
			return "", nil
		case !IsOurs(ns):
			return "", a.removeFrom(ctx, kube)
		case ns.DeletionTimestamp != nil:
			removed = ns.UID
			return "namespace " + ns.Name + " is being deleted", nil
		}
		removed = ns.UID
		err = kube.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(ns.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return "", err
		}
		return "namespace " + ns.Name + " is being deleted", nil
	})
}

// removeFrom takes the agent out of a namespace that stays.
func (a *Activities) removeFrom(ctx context.Context, kube kubernetes.Interface) error {
	err := kube.AppsV1().DaemonSets(a.config.Namespace).Delete(ctx, agentName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	err = kube.CoreV1().ServiceAccounts(a.config.Namespace).Delete(ctx, agentName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// AgentStatus reads the state of the node agents. Where there are none,
// Installed is false, and that is no error.
func (a *Activities) AgentStatus(ctx context.Context, in AgentInput) (*Agents, error) {
	kube, err := a.kube(in)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	agents, _, err := a.status(ctx, kube)
	if err != nil {
		return nil, classify(in.Cluster.Name, err)
	}
	return agents, nil
}

func (a *Activities) kube(in AgentInput) (kubernetes.Interface, error) {
	conn, err := a.connect(in.Cluster.ID)
	if err != nil {
		return nil, classify(in.Cluster.Name, err)
	}
	return conn.kube, nil
}

// status reads the agents; updating says, while the DaemonSet's controller or
// its pods are behind its specification, what is awaited.
func (a *Activities) status(ctx context.Context, kube kubernetes.Interface) (agents *Agents, updating string, err error) {
	agents = &Agents{}
	ds, err := kube.AppsV1().DaemonSets(a.config.Namespace).Get(ctx, agentName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return agents, "the DaemonSet " + agentName + " is not there yet", nil
	}
	if err != nil {
		return nil, "", err
	}
	agents.Installed = true
	if cs := ds.Spec.Template.Spec.Containers; len(cs) > 0 {
		agents.Image = cs[0].Image
	}
	nodes, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, "", err
	}
	pods, err := kube.CoreV1().Pods(a.config.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(agentLabels).String()})
	if err != nil {
		return nil, "", err
	}
	agents.Nodes = agentNodes(nodes.Items, pods.Items, agents.Image)
	return agents, behind(ds), nil
}

// behind says what the DaemonSet's controller still has to do, or "".
func behind(ds *appsv1.DaemonSet) string {
	s := &ds.Status
	switch {
	case s.ObservedGeneration < ds.Generation:
		return "the DaemonSet's controller has not seen the change yet"
	case s.UpdatedNumberScheduled < s.DesiredNumberScheduled && s.NumberUnavailable == 0:
		return fmt.Sprintf("%d of %d agents are updated", s.UpdatedNumberScheduled, s.DesiredNumberScheduled)
	}
	return ""
}

// agentNodes says for every node whether its agent is ready.
func agentNodes(nodes []corev1.Node, pods []corev1.Pod, image string) []AgentNode {
	byNode := map[string]*corev1.Pod{}
	for i := range pods {
		p := &pods[i]
		if old := byNode[p.Spec.NodeName]; old == nil || old.DeletionTimestamp != nil {
			byNode[p.Spec.NodeName] = p
		}
	}
	out := make([]AgentNode, 0, len(nodes))
	for i := range nodes {
		// The agent, and what it does, is of Linux.
		if os := nodes[i].Labels[corev1.LabelOSStable]; os != "" && os != "linux" {
			continue
		}
		n := AgentNode{Node: nodes[i].Name}
		p := byNode[n.Node]
		switch {
		case nodeReason(&nodes[i]) != "":
			n.Reason = nodePrefix + nodeReason(&nodes[i])
		case p == nil:
			n.Reason = "no agent has been created there yet"
		case podReason(p) != "":
			n.Reason = podReason(p)
		case len(p.Spec.Containers) > 0 && p.Spec.Containers[0].Image != image:
			n.Reason = "the agent still runs the image " + p.Spec.Containers[0].Image
		default:
			n.Ready = true
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b AgentNode) int { return strings.Compare(a.Node, b.Node) })
	return out
}

// wait is a wait inside an activity, from its first attempt.
type wait struct {
	*Activities
	cluster  string
	started  time.Time
	deadline time.Time
}

func (a *Activities) newWait(ctx context.Context, in AgentInput) *wait {
	started := resumed(ctx, a.now())
	timeout := in.Timeout
	if timeout == 0 {
		timeout = defaultAgentTimeout
	}
	return &wait{Activities: a, cluster: in.Cluster.Name, started: started, deadline: started.Add(timeout)}
}

// retry repeats do until it succeeds, fails for good, or the deadline passes.
func (w *wait) retry(ctx context.Context, do func(context.Context) error) error {
	return w.until(ctx, func(ctx context.Context) (string, error) { return "", do(ctx) })
}

// until repeats look until it awaits nothing more. What may work later is
// tried again until the deadline; anything else ends it.
func (w *wait) until(ctx context.Context, look func(context.Context) (waiting string, err error)) error {
	for {
		waiting, err := w.once(ctx, look)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && errs.TypeOf(err) != errs.TypeUnavailable:
			return err
		case err != nil:
			waiting = errs.Message(err)
		case waiting == "":
			return nil
		}
		if !w.now().Before(w.deadline) {
			return errs.Deadline("cluster %s: the agents were not as they must be within %s: %s", w.cluster, w.deadline.Sub(w.started), clipLine(waiting))
		}
		if activity.IsActivity(ctx) {
			activity.RecordHeartbeat(ctx, Progress{Phase: "agent", Waiting: clipLine(waiting), StartedAt: w.started})
		}
		if err := pace.Sleep(ctx, pollEvery); err != nil {
			return err
		}
	}
}

func (w *wait) once(ctx context.Context, look func(context.Context) (string, error)) (string, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	waiting, err := look(call)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return "", errs.Unavailable("cluster %s: its API server did not answer within %s", w.cluster, callTimeout)
	}
	return waiting, classify(w.cluster, err)
}
