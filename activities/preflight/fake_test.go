package preflight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"

	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/dialogue"
	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/probes/preflight/node"
	"portcullis.dev/portcullis/rancher"
)

// lab is a fake Canal cluster: an API server, and agents that answer from a script.
type lab struct {
	t    *testing.T
	kube *fake.Clientset
	raw  map[string]string

	mu sync.Mutex
	// broken are agents whose exec fails; flaky those whose first one does.
	broken map[string]error
	flaky  map[string]bool
	// open is the number of sessions now, most the most at once, execs all of them.
	open, most, execs int
	// listening are the nodes' numbers; sent maps a destination to what arrived there.
	sent map[int][]node.Sighting
	// lost says whether what one node sends another is lost.
	lost func(from, to int, path preflight.Path) bool
	// narrow is the most that passes.
	narrow int
	skew   time.Duration
}

func newLab(t *testing.T, n int, objects ...runtime.Object) *lab {
	l := &lab{t: t, broken: map[string]error{}, flaky: map[string]bool{}, sent: map[int][]node.Sighting{}, narrow: 1500}
	for i := range n {
		objects = append(objects, labNode(i), labAgent(i))
	}
	objects = append(objects, canal(n), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "canal-config"},
		Data:       map[string]string{"net-conf.json": `{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}`},
	})
	l.kube = fake.NewClientset(objects...)
	l.raw = map[string]string{
		"/version":                               `{"gitVersion":"v1.30.4"}`,
		"/apis":                                  `{"groups":[{"name":"crd.projectcalico.org"}]}`,
		"/apis/crd.projectcalico.org/v1":         `{"resources":[{"name":"tiers"}]}`,
		"/apis/crd.projectcalico.org/v1/ippools": `{"items":[{"metadata":{"name":"default-ipv4-ippool"},"spec":{"cidr":"192.168.0.0/16","vxlanMode":"Never","blockSize":26}}]}`,
	}
	return l
}

func nodeName(i int) string { return fmt.Sprintf("n%03d", i) }
func nodeIP(i int) string   { return fmt.Sprintf("10.99.%d.%d", i/200, i%200+1) }

func labNode(i int) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{"kubernetes.io/os": "linux"}, Annotations: map[string]string{
			"flannel.alpha.coreos.com/backend-type": "vxlan", "flannel.alpha.coreos.com/public-ip": nodeIP(i),
			"flannel.alpha.coreos.com/backend-data": `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`,
		}},
		Spec: corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.42.%d.0/24", i)},
		Status: corev1.NodeStatus{
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:   []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP(i)}},
			Allocatable: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110")},
		},
	}
}

func labAgent(i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: verify.DefaultNamespace, Name: "agent-" + nodeName(i), Labels: map[string]string{"app.kubernetes.io/name": "portcullis-node"}},
		Spec:       corev1.PodSpec{NodeName: nodeName(i), HostNetwork: true, Containers: []corev1.Container{{Name: "portcullis-node", Image: "image:1"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func canal(n int) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "canal"}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "calico-node", Image: "docker.io/calico/node:v3.28.5"}, {Name: "kube-flannel", Image: "flannel:v0.24.3"}}
	d.Spec.Template.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "canal-config"}}}}}
	d.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: int32(n), NumberReady: int32(n)}
	return d
}

func (l *lab) activities() *Activities {
	a := New(Config{}, nil)
	a.connect = func(string) (*connection, error) { return &connection{kube: l.kube, exec: l, raw: l.read}, nil }
	return a
}

func (l *lab) read(_ context.Context, path string) ([]byte, error) {
	text, ok := l.raw[path]
	switch {
	case !ok:
		return nil, apierrors.NewNotFound(schema.GroupResource{}, path)
	case text == "forbidden":
		return nil, apierrors.NewForbidden(schema.GroupResource{Resource: path}, "", errors.New("no"))
	}
	return []byte(text), nil
}

func (l *lab) check(in Input) (*preflight.Report, error) {
	in.Cluster = rancher.Cluster{ID: "c-1", Name: "dev"}
	in.PacketTimeout = 50 * time.Millisecond
	return l.activities().Check(l.t.Context(), in)
}

func (l *lab) checkNode(name string) (*preflight.Report, error) {
	return l.activities().CheckNode(l.t.Context(), NodeInput{Input: Input{Cluster: rancher.Cluster{ID: "c-1", Name: "dev"}}, Node: name})
}

// Exec is the agent.
func (l *lab) Exec(ctx context.Context, _, pod string, command []string, stdin io.Reader, stdout io.Writer) error {
	name := strings.TrimPrefix(pod, "agent-")
	l.mu.Lock()
	l.execs++
	l.open++
	l.most = max(l.most, l.open)
	err := l.broken[name]
	if l.flaky[name] {
		l.flaky[name], err = false, errors.New("the tunnel hiccupped")
	}
	l.mu.Unlock()
	defer func() { l.mu.Lock(); l.open--; l.mu.Unlock() }()
	if err != nil {
		return err
	}
	if strings.Join(command, " ") != "portcullis node preflight" {
		return fmt.Errorf("unexpected command %v", command)
	}
	self := 0
	out := dialogue.NewWriter[node.Message](stdout)
	server := &dialogue.Server[node.Request]{
		MaxRequest: node.MaxRequestBytes, Parse: node.ParseRequest,
		Refuse: func(why string) error { return out.Write(node.Message{Type: node.MessageError, Error: why}) },
		Answer: func(_ context.Context, req *node.Request) (done bool, err error) {
			switch req.Role {
			case node.RoleBye:
				return true, nil
			case node.RoleClock:
				out.Add(node.Message{Type: node.MessageClock, Time: time.Now().Add(l.skew)})
			case node.RoleFacts:
				out.Add(node.Message{Type: node.MessageProgress, Done: 1, Total: 2})
				out.Add(node.Message{Type: node.MessageFacts, Facts: labFacts(name)})
			case node.RoleListen:
				self = req.Self
				l.mu.Lock()
				l.sent[self] = nil
				l.mu.Unlock()
				out.Add(node.Message{Type: node.MessageListening})
			case node.RoleReach:
				for _, p := range req.Peers {
					out.Add(node.Message{Type: node.MessageReached, Peer: p.ID, Answers: l.send(req, p.ID)})
				}
			case node.RoleCollect:
				l.mu.Lock()
				seen := slices.Clone(l.sent[self])
				l.mu.Unlock()
				out.Add(node.Message{Type: node.MessageSeen, Seen: seen})
			}
			return false, out.Write(node.Message{Type: node.MessageDone})
		},
	}
	return server.Serve(ctx, stdin)
}

// send is what one node gets back from another, and what arrives there.
func (l *lab) send(req *node.Request, to int) []node.PathAnswer {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := node.Sighting{From: req.Self}
	var out []node.PathAnswer
	for i, p := range req.Paths {
		gone := l.lost != nil && l.lost(req.Self, to, p)
		switch {
		case p.Protocol == "tcp" && !gone:
			out = append(out, node.PathAnswer{Answer: preflight.Open})
		case !gone:
			seen.Paths = append(seen.Paths, i)
			for _, s := range req.Sizes {
				if s <= l.narrow {
					seen.Largest = s
				}
			}
			fallthrough
		default:
			out = append(out, node.PathAnswer{Answer: preflight.Filtered, Silent: true})
		}
	}
	l.sent[to] = append(l.sent[to], seen)
	return out
}

func labFacts(name string) *preflight.NodeFacts {
	var i int
	_, _ = fmt.Sscanf(name, "n%d", &i)
	return &preflight.NodeFacts{
		Kernel: preflight.Known("6.1.0"), KubeProxy: "iptables",
		Links: preflight.Known([]preflight.Link{
			{Name: "eth0", Kind: "veth", MTU: 1500, Up: true, Addresses: []string{nodeIP(i) + "/16"}},
			{Name: "flannel.1", Kind: "vxlan", MTU: 1450, Up: true, VNI: 1, Port: 8472},
		}),
		Routes: preflight.Known([]preflight.Route{{To: "default", Link: "eth0"}}),
	}
}
