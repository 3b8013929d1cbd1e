package verify

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

var dev = AgentInput{Cluster: rancher.Cluster{ID: "c-1", Name: "dev"}, Timeout: time.Second}

func TestEnsureAgent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a := l.activities()
	for range 2 {
		agents, err := a.EnsureAgent(context.Background(), dev)
		if err != nil {
			t.Fatal(err)
		}
		if !agents.Installed || agents.Image != "image:1" || len(agents.Nodes) != 2 || !agents.Nodes[0].Ready || !agents.Nodes[1].Ready {
			t.Errorf("%+v", agents)
		}
	}
	ns, err := l.kube.CoreV1().Namespaces().Get(context.Background(), DefaultNamespace, metav1.GetOptions{})
	if err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "privileged" {
		t.Errorf("%+v %v", ns, err)
	}
}

// The agent has what it needs and no more, and this says what that is.
func TestAgentIsNoMorePrivilegedThanItNeeds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	a := l.activities()
	a.config.ImagePullSecrets, a.config.PullPolicy = []string{"registry"}, "Always"
	if _, err := a.EnsureAgent(context.Background(), dev); err != nil {
		t.Fatal(err)
	}
	ds, err := l.kube.AppsV1().DaemonSets(DefaultNamespace).Get(context.Background(), agentName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := ds.Spec.Template.Spec
	c := spec.Containers[0]
	sc := c.SecurityContext
	switch {
	case len(spec.Volumes) != 0 || len(c.VolumeMounts) != 0:
		t.Error("it mounts something of the node")
	case len(c.Ports) != 0:
		t.Error("it has a port")
	case *spec.AutomountServiceAccountToken:
		t.Error("it has a token")
	case *sc.Privileged || *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem:
		t.Errorf("%+v", sc)
	case len(sc.Capabilities.Drop) != 1 || sc.Capabilities.Drop[0] != "ALL" || !slices.Equal(sc.Capabilities.Add, []corev1.Capability{"SYS_ADMIN", "SYS_PTRACE", "NET_RAW", "NET_ADMIN", "SYS_CHROOT", "NET_BIND_SERVICE"}):
		t.Errorf("%+v", sc.Capabilities)
	case !spec.HostNetwork || !spec.HostPID || spec.Tolerations[0].Operator != corev1.TolerationOpExists:
		t.Errorf("%+v", spec)
	case c.ImagePullPolicy != corev1.PullAlways || spec.ImagePullSecrets[0].Name != "registry":
		t.Errorf("%+v", c)
	}
}

func TestEnsureAgentSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*lab)
		want   string
	}{
		{"pod missing", func(l *lab) {
			l.kube.CoreV1().Pods(agentNamespace).Delete(context.Background(), "agent-n2", metav1.DeleteOptions{})
		}, "n2: no agent has been created there yet"},
		{"image cannot be pulled", func(l *lab) {
			p := agentPod("n2")
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}}}}
			l.kube.CoreV1().Pods(agentNamespace).Update(context.Background(), p, metav1.UpdateOptions{})
		}, "n2: ErrImagePull not found"},
		{"old image", func(l *lab) {
			p := agentPod("n1")
			p.Spec.Containers[0].Image = "image:0"
			l.kube.CoreV1().Pods(agentNamespace).Update(context.Background(), p, metav1.UpdateOptions{})
		}, "n1: the agent still runs the image image:0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			tc.change(l)
			_, err := l.activities().EnsureAgent(context.Background(), dev)
			if errs.TypeOf(err) != errs.TypeDeadline || !strings.Contains(errs.Message(err), tc.want) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("a node that is not ready holds up nobody", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		l.kube.CoreV1().Nodes().Update(context.Background(), node("n2", false), metav1.UpdateOptions{})
		agents, err := l.activities().EnsureAgent(context.Background(), dev)
		if err != nil || agents.Nodes[1].Ready || !strings.Contains(agents.Nodes[1].Reason, "KubeletNotReady") {
			t.Errorf("%+v %v", agents, err)
		}
	})
}

func TestErrorsOfTheCluster(t *testing.T) {
	t.Parallel()
	gr := schema.GroupResource{Resource: "daemonsets"}
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"token", apierrors.NewUnauthorized("the token has expired"), errs.TypeDenied},
		{"rights", apierrors.NewForbidden(gr, agentName, nil), errs.TypeDenied},
		{"rejected", apierrors.NewInvalid(schema.GroupKind{Kind: "DaemonSet"}, agentName, nil), errs.TypeFailed},
		{"busy", apierrors.NewTooManyRequests("later", 1), errs.TypeDeadline},
		{"away", apierrors.NewServiceUnavailable("no tunnel"), errs.TypeDeadline},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.kube.PrependReactor("patch", "daemonsets", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, tc.err })
			_, err := l.activities().EnsureAgent(context.Background(), dev)
			if errs.TypeOf(err) != tc.want || strings.Contains(errs.Message(err), "\n") || !strings.Contains(errs.Message(err), "dev") {
				t.Errorf("%v", err)
			}
			var app *temporal.ApplicationError
			if errors.As(err, &app) && !app.NonRetryable() {
				t.Errorf("%v would be retried", err)
			}
		})
	}
}

func TestRemoveAgent(t *testing.T) {
	t.Parallel()
	t.Run("with its namespace", func(t *testing.T) {
		l := newLab(t)
		a := l.activities()
		if _, err := a.EnsureAgent(context.Background(), dev); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := a.RemoveAgent(context.Background(), dev); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.kube.CoreV1().Namespaces().Get(context.Background(), DefaultNamespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the namespace is still there: %v", err)
		}
	})
	t.Run("not from a namespace that was made anew meanwhile", func(t *testing.T) {
		l := newLab(t)
		a := l.activities()
		if _, err := a.EnsureAgent(context.Background(), dev); err != nil {
			t.Fatal(err)
		}
		again := false
		l.kube.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: DefaultNamespace, UID: "first", Labels: map[string]string{managedLabel: fieldManager}}}
			if again {
				ns.UID = "second"
			}
			return true, ns, nil
		})
		deleted := 0
		l.kube.PrependReactor("delete", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
			deleted++
			again = true
			return true, nil, nil
		})
		if err := a.RemoveAgent(context.Background(), dev); err != nil || deleted != 1 {
			t.Errorf("%d deletions, %v", deleted, err)
		}
	})
	t.Run("a namespace of somebody else stays", func(t *testing.T) {
		l := newLab(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: DefaultNamespace, Labels: map[string]string{"owner": "platform"}}})
		a := l.activities()
		if _, err := a.EnsureAgent(context.Background(), dev); err != nil {
			t.Fatal(err)
		}
		if err := a.RemoveAgent(context.Background(), dev); err != nil {
			t.Fatal(err)
		}
		ns, err := l.kube.CoreV1().Namespaces().Get(context.Background(), DefaultNamespace, metav1.GetOptions{})
		if err != nil || len(ns.Labels) != 1 {
			t.Errorf("%+v %v", ns, err)
		}
		if agents, err := a.AgentStatus(context.Background(), dev); err != nil || agents.Installed {
			t.Errorf("%+v %v", agents, err)
		}
	})
}

func TestBehind(t *testing.T) {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: appsv1.DaemonSetStatus{ObservedGeneration: 1}}
	if behind(ds) == "" {
		t.Error("the controller has not seen the change")
	}
	ds.Status = appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3}
	if got := behind(ds); got != "" {
		t.Error(got)
	}
}
