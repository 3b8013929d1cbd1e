// Package fault says what can be broken in a lab, and checks what somebody asks
// to break. It is pure: what a fault does is done elsewhere.
package fault

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Scope is what a fault is on.
type Scope string

// Faults are on one node or on one cluster.
const (
	OnNode    Scope = "node"
	OnCluster Scope = "cluster"
)

// The kinds of faults.
const (
	// Block drops packets between nodes, on the way, where no node can see it.
	Block = "block"
	// MTU makes packets of full size disappear.
	MTU = "mtu"
	// Module hides a kernel module from whoever asks for it.
	Module = "module"
	// Port takes a port on a node.
	Port = "port"
	// Budget is a PodDisruptionBudget that allows no eviction.
	Budget = "budget"
	// Power is a node that is off.
	Power = "power"
	// CNIReadOnly is a CNI folder on a file system that cannot be written.
	CNIReadOnly = "cni-readonly"
	// Calico is a Calico that does not come up.
	Calico = "calico"
)

// Fault is one thing that is broken.
type Fault struct {
	Kind   string `json:"kind"`
	Target string `json:"target"`
	// Params are the kind's, with defaults filled in.
	Params map[string]string `json:"params,omitempty"`
}

// Param is a setting of a kind.
type Param struct {
	Name, Default string
	// What it says, for people.
	What string
	// Names tells two faults of one kind on one target apart.
	Names bool
	check func(string) error
}

// Kind is a sort of fault.
type Kind struct {
	Name string
	On   Scope
	// What happens, for people.
	What   string
	Params []Param
}

// New checks a fault and fills in the defaults of its kind.
func New(kind, target string, params map[string]string) (Fault, error) {
	k, err := Find(kind)
	if err != nil {
		return Fault{}, err
	}
	f := Fault{Kind: kind, Target: target, Params: map[string]string{}}
	if target == "" {
		return f, fmt.Errorf("fault %s: say which %s", kind, k.On)
	}
	for _, p := range k.Params {
		v, given := params[p.Name]
		if !given {
			v = p.Default
		}
		if err := p.check(v); err != nil {
			return f, fmt.Errorf("fault %s: %s=%q: %w", kind, p.Name, v, err)
		}
		f.Params[p.Name] = v
	}
	for name := range params {
		if _, ok := f.Params[name]; !ok {
			return f, fmt.Errorf("fault %s has no %q; there are %v", kind, name, k.paramNames())
		}
	}
	return f, k.together(f.Params)
}

// ID names a fault: no two with the same ID are in force.
func (f Fault) ID() string {
	id := f.Kind + "/" + f.Target
	k, err := Find(f.Kind)
	if err != nil {
		return id
	}
	for _, p := range k.Params {
		if v := f.Params[p.Name]; p.Names && v != "" {
			id += "/" + v
		}
	}
	return id
}

// String is the ID with what it does not say.
func (f Fault) String() string {
	k, err := Find(f.Kind)
	if err != nil {
		return f.ID()
	}
	var more []string
	for _, p := range k.Params {
		if v := f.Params[p.Name]; !p.Names && v != "" {
			more = append(more, p.Name+"="+v)
		}
	}
	return strings.TrimSpace(f.ID() + " " + strings.Join(more, " "))
}

// With adds a fault to a list, in place of one with the same ID.
func With(list []Fault, f Fault) []Fault {
	return append(Without(list, f.ID()), f)
}

// Without takes a fault out of a list.
func Without(list []Fault, id string) []Fault {
	return slices.DeleteFunc(slices.Clone(list), func(f Fault) bool { return f.ID() == id })
}

// Matching finds faults by an ID, or by the beginning of one up to a slash: a
// kind, or a kind and a target.
func Matching(list []Fault, id string) []Fault {
	var out []Fault
	for _, f := range list {
		if f.ID() == id || strings.HasPrefix(f.ID(), id+"/") {
			out = append(out, f)
		}
	}
	return out
}

// Of are the faults of a kind, or on a target where kind is empty.
func Of(list []Fault, kind, target string) []Fault {
	var out []Fault
	for _, f := range list {
		if (kind == "" || f.Kind == kind) && (target == "" || f.Target == target) {
			out = append(out, f)
		}
	}
	return out
}

func (k Kind) paramNames() []string {
	var out []string
	for _, p := range k.Params {
		out = append(out, p.Name)
	}
	return out
}

// ParseParams reads NAME=VALUE arguments.
func ParseParams(args []string) (map[string]string, error) {
	out := map[string]string{}
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q: want NAME=VALUE", a)
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		out[name] = value
	}
	return out, nil
}

// Find finds a kind by its name.
func Find(name string) (Kind, error) {
	for _, k := range Kinds {
		if k.Name == name {
			return k, nil
		}
	}
	names := map[string]bool{}
	for _, k := range Kinds {
		names[k.Name] = true
	}
	return Kind{}, fmt.Errorf("no kind of fault %q; there are %v", name, slices.Sorted(maps.Keys(names)))
}
