// Package snapshot compares whole clusters: all that their API servers list, but
// for what changes by itself all the time, before something is done and after it
// was undone.
package snapshot

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Objects are the fields of a cluster's objects: by kind, namespace and name, and
// then by path, such as spec.template.metadata.labels.app.
type Objects map[string]map[string]string

// passing are kinds of objects that come and go, or are written anew all the time,
// without anybody's doing: pods and what follows their addresses, records of what
// was, and marks of life.
var passing = []string{
	"Event", "Lease", "Pod", "PodMetrics", "NodeMetrics", "Endpoints", "EndpointSlice", "ControllerRevision", "ComponentStatus",
}

// Of reads lists of objects as kubectl prints them with -o json. An object of a
// kind that passes is left out, and so are the status of each, and what the API
// server or a controller counts: versions, generations, identities, times.
func Of(lists ...[]byte) (Objects, error) {
	out := Objects{}
	for _, text := range lists {
		var list struct {
			Items []map[string]any `json:"items"`
		}
		if err := json.Unmarshal(text, &list); err != nil {
			return nil, fmt.Errorf("a list of objects: %w", err)
		}
		for _, o := range list.Items {
			kind, _ := o["kind"].(string)
			if slices.Contains(passing, kind) {
				continue
			}
			fields := map[string]string{}
			flatten("", normal(kind, o), fields)
			out[name(o)] = fields
		}
	}
	return out, nil
}

// name is KIND NAMESPACE/NAME; the group is in it where two groups share a kind.
func name(o map[string]any) string {
	kind, _ := o["kind"].(string)
	version, _ := o["apiVersion"].(string)
	if group, _, found := strings.Cut(version, "/"); found {
		kind += "." + group
	}
	meta, _ := o["metadata"].(map[string]any)
	namespace, _ := meta["namespace"].(string)
	if namespace != "" {
		namespace += "/"
	}
	return fmt.Sprintf("%s %s%s", kind, namespace, meta["name"])
}

// counted are fields of metadata that are never the same twice.
var counted = []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"}

// renewed are annotations that follow something that is counted or made anew: a
// DaemonSet's generation, the address of flannel's device after a boot.
var renewed = []string{"deprecated.daemonset.template.generation", "deployment.kubernetes.io/revision", "flannel.alpha.coreos.com/backend-data"}

func normal(kind string, o map[string]any) map[string]any {
	delete(o, "status")
	meta, _ := o["metadata"].(map[string]any)
	for _, field := range counted {
		delete(meta, field)
	}
	if annotations, ok := meta["annotations"].(map[string]any); ok {
		for _, a := range renewed {
			delete(annotations, a)
		}
	}
	owners, _ := meta["ownerReferences"].([]any)
	for _, r := range owners {
		if owner, ok := r.(map[string]any); ok {
			delete(owner, "uid")
		}
	}
	if kind == "Secret" && o["type"] == "kubernetes.io/service-account-token" {
		delete(o, "data")
	}
	return o
}

// flatten gives every leaf its path. What is empty or null is not there: API servers
// differ from what was sent to them in that alone.
func flatten(path string, v any, into map[string]string) {
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for k, e := range v {
			flatten(join(path, k), e, into)
		}
	case []any:
		for i, e := range v {
			flatten(fmt.Sprintf("%s[%d]", path, i), e, into)
		}
	default:
		into[path] = fmt.Sprint(v)
	}
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

// maxValue bounds how much of a value a difference shows.
const maxValue = 80

// Diff tells, a line each, what is gone, new or changed.
func Diff(before, after Objects) []string {
	var out []string
	for name, was := range before {
		now, there := after[name]
		if !there {
			out = append(out, name+" is gone")
			continue
		}
		for _, path := range slices.Sorted(maps.Keys(was)) {
			if is, there := now[path]; !there {
				out = append(out, fmt.Sprintf("%s: %s is gone, it was %q", name, path, short(was[path])))
			} else if is != was[path] {
				out = append(out, fmt.Sprintf("%s: %s is %q, it was %q", name, path, short(is), short(was[path])))
			}
		}
		for _, path := range slices.Sorted(maps.Keys(now)) {
			if _, there := was[path]; !there {
				out = append(out, fmt.Sprintf("%s: %s is new, %q", name, path, short(now[path])))
			}
		}
	}
	for name := range after {
		if _, there := before[name]; !there {
			out = append(out, name+" is new")
		}
	}
	slices.Sort(out)
	return out
}

func short(s string) string {
	if len(s) > maxValue {
		return strings.ToValidUTF8(s[:maxValue], "") + "…"
	}
	return s
}
