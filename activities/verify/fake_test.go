package verify

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/dialogue"
	"portcullis.dev/portcullis/probes/wire"
	"portcullis.dev/portcullis/rancher"
)

// lab is a fake cluster: an API server, and agents that answer from a script.
type lab struct {
	t    *testing.T
	kube *fake.Clientset

	mu sync.Mutex
	// answer is what a probe finds; nil answers allowed.
	answer func(wire.Probe) wire.Result
	// seen tells whether a silent probe's datagram arrives.
	seen bool
	// blind are pods that the witness cannot listen in.
	blind map[string]string
	// broken makes every exec fail; silent makes agents leave out results.
	broken error
	silent bool
	// hollow makes agents send results of nothing.
	hollow bool
	execs  int
	rounds int
	onDone func(round int)
}

const agentNamespace = DefaultNamespace

func newLab(t *testing.T, objects ...runtime.Object) *lab {
	l := &lab{t: t, blind: map[string]string{}}
	all := append([]runtime.Object{
		node("n1", true), node("n2", true), agentPod("n1"), agentPod("n2"),
		pod("web", "web", "web-1", "n1", "10.0.1.1"), pod("web", "web", "web-2", "n2", "10.0.2.1"),
		pod("data", "db", "db-1", "n2", "10.0.2.2"),
	}, objects...)
	l.kube = fake.NewClientset(all...)
	return l
}

func node(name string, ready bool) *corev1.Node {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Reason: "KubeletNotReady"}}}}
}

// uidOf makes a pod's UID of its name.
func uidOf(name string) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", hash(name)) }

func hash(s string) uint64 {
	h := uint64(0)
	for _, c := range s {
		h = (h*31 + uint64(c)) % (1 << 40)
	}
	return h
}

func pod(namespace, app, name, node, ip string) *corev1.Pod {
	isController := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(uidOf(name)), Labels: map[string]string{"app": app, "pod-template-hash": "abc"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: app + "-abc", Controller: &isController}},
		},
		Spec: corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

func agentPod(node string) *corev1.Pod {
	p := pod(agentNamespace, agentName, "agent-"+node, node, "192.168.0.1")
	p.Labels = map[string]string{"app.kubernetes.io/name": agentName}
	p.Spec.HostNetwork = true
	p.Spec.Containers = []corev1.Container{{Name: agentName, Image: "image:1"}}
	return p
}

// activities are the activities on this lab.
func (l *lab) activities() *Activities {
	a := New(Config{Image: "image:1"}, nil)
	a.connect = func(string) (*connection, error) { return &connection{kube: l.kube, exec: l}, nil }
	return a
}

func (l *lab) set(change func(*lab)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

// Exec is the agent: it speaks the protocol of wire.
func (l *lab) Exec(ctx context.Context, _, pod string, command []string, stdin io.Reader, stdout io.Writer) error {
	l.mu.Lock()
	l.execs++
	broken := l.broken
	l.mu.Unlock()
	if broken != nil {
		return broken
	}
	if strings.Join(command, " ") != "portcullis node reach" {
		return fmt.Errorf("unexpected command %v", command)
	}
	var last *wire.Request
	out := dialogue.NewWriter[wire.Message](stdout)
	server := &dialogue.Server[wire.Request]{
		MaxRequest: wire.MaxRequestBytes, Parse: wire.ParseRequest,
		Refuse: func(why string) error { return out.Write(wire.Message{Type: wire.MessageError, Error: why}) },
		Answer: func(_ context.Context, req *wire.Request) (done bool, err error) {
			switch req.Role {
			case wire.RoleBye:
				return true, nil
			case wire.RoleWitness:
				l.mu.Lock()
				blind := l.blind
				l.mu.Unlock()
				return false, out.Write(wire.Message{Type: wire.MessageReady, Round: req.Round, Failed: blind})
			case wire.RoleCollect:
				return false, out.Write(l.collect(req), wire.Message{Type: wire.MessageDone, Round: req.Round})
			case wire.RoleAgain:
				last.Round, req = req.Round, last
			}
			last = req
			return false, l.reach(req, out)
		},
	}
	return server.Serve(ctx, stdin)
}

func (l *lab) collect(req *wire.Request) wire.Message {
	m := wire.Message{Type: wire.MessageSeen, Round: req.Round}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen {
		// Every witness may claim every ID: only silent ones count.
		for i := range 100 {
			m.Seen = append(m.Seen, fmt.Sprint(i))
		}
	}
	return m
}

func (l *lab) reach(req *wire.Request, out *dialogue.Writer[wire.Message]) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rounds++
	for _, p := range req.Probes {
		res := wire.Result{Outcome: probes.Allowed}
		if l.answer != nil {
			res = l.answer(p)
		}
		res.ID = p.ID
		m := wire.Message{Type: wire.MessageResult, Round: req.Round, Result: &res}
		if l.hollow {
			m.Result = nil
		}
		if !l.silent {
			out.Add(m)
		}
	}
	if l.onDone != nil {
		l.onDone(l.rounds)
	}
	return out.Write(wire.Message{Type: wire.MessageDone, Round: req.Round})
}

// input asks for two requirements: web reaches the service of the database, and
// nobody in web reaches another port of it.
func input(mode Mode) Input {
	d := func(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
	return Input{
		Cluster: rancher.Cluster{ID: "c-1", Name: "dev"}, Mode: mode, Duration: 800 * time.Millisecond,
		Settings: probes.Settings{Timeout: d(50 * time.Millisecond), Settle: d(600 * time.Millisecond), Consecutive: 2, Deadline: d(1500 * time.Millisecond), Interval: d(200 * time.Millisecond)},
		Requirements: []probes.Requirement{
			{Name: "open", Expect: probes.Allow, From: probes.From{Namespace: "web"}, To: probes.To{Namespace: "data", Selector: "app == 'db'", Port: 5432}},
			{Name: "shut", Expect: probes.Deny, From: probes.From{Namespace: "web"}, To: probes.To{Namespace: "data", Selector: "app == 'db'", Port: 9090}},
		},
	}
}

// policy answers as a cluster does on which only port 5432 is open.
func policy(p wire.Probe) wire.Result {
	if p.Port == 5432 {
		return wire.Result{Outcome: probes.Allowed}
	}
	return wire.Result{Outcome: probes.Dropped}
}

func slice(service, pod string, ready bool) (*corev1.Service, *discoveryv1.EndpointSlice) {
	name, port := "pg", int32(5432)
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "data", Name: service}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.7", Ports: []corev1.ServicePort{{Name: name, Port: 80, Protocol: corev1.ProtocolTCP}}}},
		&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "data", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
			Endpoints:  []discoveryv1.Endpoint{{Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "data", Name: pod}}},
		}
}
