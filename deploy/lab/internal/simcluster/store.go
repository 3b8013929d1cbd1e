package simcluster

import (
	"reflect"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// store is what was written into one cluster. Everything else in it is the same
// in all of them.
type store struct {
	mu sync.Mutex
	// objects are by their path.
	objects map[string]map[string]any
	applied map[string]map[string]any
	version int64
	// changed is closed with the next change.
	changed chan struct{}
}

func newStore() *store {
	return &store{
		objects: map[string]map[string]any{}, applied: map[string]map[string]any{},
		version: 1, changed: make(chan struct{}),
	}
}

func (s *store) get(path string) (map[string]any, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[path]
	return o, ok
}

// now is the version of the cluster, and what is closed when it changes.
func (s *store) now() (int64, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version, s.changed
}

func (s *store) bump() {
	s.version++
	close(s.changed)
	s.changed = make(chan struct{})
}

// apply is server-side apply of a manager that owns the whole object: applying
// the same again changes nothing.
func (s *store) apply(path string, configuration map[string]any) (object map[string]any, created bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, exists := s.objects[path]
	if exists && reflect.DeepEqual(s.applied[path], configuration) {
		return old, false
	}
	s.bump()
	u := &unstructured.Unstructured{Object: configuration}
	s.applied[path] = u.DeepCopy().Object
	made := u.DeepCopy()
	generation := int64(1)
	if exists {
		generation += (&unstructured.Unstructured{Object: old}).GetGeneration()
	}
	made.SetGeneration(generation)
	made.SetUID(uid(path))
	made.SetCreationTimestamp(born)
	_ = unstructured.SetNestedField(made.Object, "1", "metadata", "resourceVersion")
	if made.GetKind() == "DaemonSet" {
		made.Object["status"] = map[string]any{
			"observedGeneration": generation, "desiredNumberScheduled": int64(nodesEach), "currentNumberScheduled": int64(nodesEach),
			"updatedNumberScheduled": int64(nodesEach), "numberReady": int64(nodesEach), "numberAvailable": int64(nodesEach), "numberMisscheduled": int64(0),
		}
	}
	s.objects[path] = made.Object
	return made.Object, !exists
}

// remove takes an object away, and what is below it.
func (s *store) remove(path string) (map[string]any, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone, ok := s.objects[path]
	if !ok {
		return nil, false
	}
	for at := range s.objects {
		if at == path || strings.HasPrefix(at, path+"/") || namespaceOf(at) != "" && path == "/api/v1/namespaces/"+namespaceOf(at) {
			delete(s.objects, at)
			delete(s.applied, at)
		}
	}
	s.bump()
	return gone, true
}

// namespaceOf is the namespace of an object by its path.
func namespaceOf(path string) string {
	_, rest, found := strings.Cut(path, "/namespaces/")
	namespace, _, below := strings.Cut(rest, "/")
	if !found || !below {
		return ""
	}
	return namespace
}

// agent is a DaemonSet of the cluster, of which there is a pod on each node.
type agent struct{ namespace, name, image string }

// agents are the DaemonSets that were applied; there is at most one.
func (s *store) agent() agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, o := range s.objects {
		u := &unstructured.Unstructured{Object: o}
		if u.GetKind() != "DaemonSet" {
			continue
		}
		containers, _, _ := unstructured.NestedSlice(o, "spec", "template", "spec", "containers")
		if len(containers) == 0 {
			continue
		}
		first, _ := containers[0].(map[string]any)
		image, _ := first["image"].(string)
		return agent{namespaceOf(path), u.GetName(), image}
	}
	return agent{}
}
