package flows

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Rule names flows: from every pod of a namespace to every other pod of a
// namespace, on a port.
type Rule struct {
	From, To string
	Port     int
	// Allowed and Held are as in Flow.
	Allowed, Held bool
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

// ParseRules reads the rules of flows that must work, that must never be open, and
// that are held.
func ParseRules(allow, deny, hold []string) ([]Rule, error) {
	var out []Rule
	for _, kind := range []struct {
		texts         []string
		allowed, held bool
	}{{allow, true, false}, {deny, false, false}, {hold, true, true}} {
		for _, text := range kind.texts {
			r, err := ParseRule(text)
			if err != nil {
				return nil, err
			}
			r.Allowed, r.Held = kind.allowed, kind.held
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there are no flows to watch")
	}
	return out, nil
}

// byPod finds a process of each pod of this machine by the pods' control groups.
// Which one does not matter: they share the network namespace.
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

// Changes is what became of pods: their names, in order.
type Changes struct {
	Restarted   []string `json:"restarted,omitempty"`   // a container of it was
	Readdressed []string `json:"readdressed,omitempty"` // it has another address
	Gone        []string `json:"gone,omitempty"`        // deleted, also where another has its name now
	New         []string `json:"new,omitempty"`
}

// None is true when every pod is what it was.
func (c Changes) None() bool {
	return len(c.Restarted)+len(c.Readdressed)+len(c.Gone)+len(c.New) == 0
}

// Compare tells which pods are not what they were.
func Compare(before, after []corev1.Pod) (c Changes) {
	type identity struct {
		uid, ip  string
		restarts int32
	}
	of := func(p corev1.Pod) identity {
		id := identity{uid: string(p.UID), ip: p.Status.PodIP}
		for _, s := range p.Status.ContainerStatuses {
			id.restarts += s.RestartCount
		}
		return id
	}
	was := map[string]identity{}
	for _, p := range before {
		was[p.Namespace+"/"+p.Name] = of(p)
	}
	for _, p := range after {
		name := p.Namespace + "/" + p.Name
		old, known := was[name]
		now := of(p)
		if !known || old.uid != now.uid {
			c.New = append(c.New, name)
			continue
		}
		delete(was, name)
		if now.ip != old.ip {
			c.Readdressed = append(c.Readdressed, name)
		}
		if now.restarts != old.restarts {
			c.Restarted = append(c.Restarted, name)
		}
	}
	for name := range was {
		c.Gone = append(c.Gone, name)
	}
	for _, names := range [][]string{c.Restarted, c.Readdressed, c.Gone, c.New} {
		slices.Sort(names)
	}
	return c
}
