package flows

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Rule names flows: from every pod of a namespace to every other pod of a
// namespace, on a port.
type Rule struct {
	From, To string
	Port     int
}

// ParseRule reads FROM:TO:PORT, such as shop:data:5432.
func ParseRule(text string) (Rule, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return Rule{}, fmt.Errorf("%q is not FROM:TO:PORT, two namespaces and a port", text)
	}
	port, err := strconv.Atoi(parts[2])
	if err != nil || port < 1 || port > 65535 {
		return Rule{}, fmt.Errorf("%q: %q is no port", text, parts[2])
	}
	return Rule{From: parts[0], To: parts[1], Port: port}, nil
}

// Discover finds the running pods of a cluster of this machine that have an
// address of their own, by namespace, and a process of each.
func Discover(ctx context.Context, kube kubernetes.Interface) (map[string][]Pod, error) {
	list, err := kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
	if err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	processes := byPod()
	out := map[string][]Pod{}
	for i := range list.Items {
		p := &list.Items[i]
		if p.Spec.HostNetwork || p.DeletionTimestamp != nil || p.Status.PodIP == "" {
			continue
		}
		pid, found := processes[string(p.UID)]
		if !found {
			return nil, fmt.Errorf("pod %s/%s runs, and no process of it is on this machine", p.Namespace, p.Name)
		}
		out[p.Namespace] = append(out[p.Namespace], Pod{Name: p.Namespace + "/" + p.Name, Node: p.Spec.NodeName, IP: p.Status.PodIP, PID: pid})
	}
	return out, nil
}

// byPod finds a process of each pod by the pods' control groups. Which one does not
// matter: they share the network namespace.
func byPod() map[string]int {
	out := map[string]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(text) {
			if _, rest, ok := strings.Cut(string(line), "/pod"); ok {
				uid, _, _ := strings.Cut(rest, "/")
				out[strings.TrimSpace(uid)] = pid
			}
		}
	}
	return out
}

// Make makes the flows of rules; a pod has none to itself.
func Make(pods map[string][]Pod, rules []Rule, template Flow) ([]Flow, error) {
	var out []Flow
	for _, r := range rules {
		before := len(out)
		for _, from := range pods[r.From] {
			for _, to := range pods[r.To] {
				if from.Name == to.Name {
					continue
				}
				f := template
				f.From, f.To, f.Port = from, to, r.Port
				out = append(out, f)
			}
		}
		if len(out) == before {
			return nil, fmt.Errorf("there are no pods for flows from namespace %s to %s", r.From, r.To)
		}
	}
	return out, nil
}

// Restarts tells which pods are not what they were: gone, new, or with another
// address or a restarted container.
func Restarts(before, after []corev1.Pod) []string {
	type identity struct {
		uid, ip  string
		restarts int32
	}
	of := func(p corev1.Pod) identity {
		id := identity{uid: string(p.UID), ip: p.Status.PodIP}
		for _, c := range p.Status.ContainerStatuses {
			id.restarts += c.RestartCount
		}
		return id
	}
	was := map[string]identity{}
	for _, p := range before {
		was[p.Namespace+"/"+p.Name] = of(p)
	}
	var out []string
	for _, p := range after {
		name := p.Namespace + "/" + p.Name
		old, known := was[name]
		delete(was, name)
		switch now := of(p); {
		case !known:
			out = append(out, name+" is new")
		case now.ip != old.ip:
			out = append(out, name+" has another address")
		case now != old:
			out = append(out, name+" was restarted")
		}
	}
	for name := range was {
		out = append(out, name+" is gone")
	}
	return out
}
