package migrate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
)

// apiserver answers as an API server does, without a network: with resource versions
// that conflict, generations, selectors, merge patches, and server-side apply by
// Kubernetes' own code. It knows no defaults and no schemas.
type apiserver struct {
	mu      sync.Mutex
	version int
	objects map[string]*unstructured.Unstructured
	// fault is asked before every write, and after it with late; an error is the answer.
	fault func(write string, late bool) error
	// refuse is asked before every request, but for what the server has.
	refuse func(verb, path string) error
	// changed lets the cluster's controllers act.
	changed func()
	// log has every write, as verb and path, and what was sent.
	log []write
}

type write struct {
	what string
	body []byte
}

type kind struct {
	apiVersion, kind, plural string
	namespaced               bool
}

var kinds = []kind{
	{"v1", "Namespace", "namespaces", false},
	{"v1", "Node", "nodes", false},
	{"v1", "Pod", "pods", true},
	{"v1", "ConfigMap", "configmaps", true},
	{"v1", "Service", "services", true},
	{"v1", "ServiceAccount", "serviceaccounts", true},
	{"apps/v1", "DaemonSet", "daemonsets", true},
	{"apps/v1", "Deployment", "deployments", true},
	{"rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false},
	{"rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", false},
	{"rbac.authorization.k8s.io/v1", "Role", "roles", true},
	{"rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", true},
	{"policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", true},
	{"apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", false},
	{"crd.projectcalico.org/v1", "FelixConfiguration", "felixconfigurations", false},
	{"crd.projectcalico.org/v1", "IPPool", "ippools", false},
	{"crd.projectcalico.org/v1", "IPAMConfig", "ipamconfigs", false},
	{"crd.projectcalico.org/v1", "IPAMBlock", "ipamblocks", false},
	{"crd.projectcalico.org/v1", "IPAMHandle", "ipamhandles", false},
	{"crd.projectcalico.org/v1", "BlockAffinity", "blockaffinities", false},
	{"crd.projectcalico.org/v1", "ClusterInformation", "clusterinformations", false},
}

func kindOf(apiVersion, name string) kind {
	for _, k := range kinds {
		if k.apiVersion == apiVersion && k.kind == name {
			return k
		}
	}
	panic("the API server of the tests has no " + apiVersion + " " + name)
}

func (k kind) resource() schema.GroupResource {
	gv, _ := schema.ParseGroupVersion(k.apiVersion)
	return schema.GroupResource{Group: gv.Group, Resource: k.plural}
}

func (k kind) key(namespace, name string) string {
	return strings.Join([]string{k.apiVersion, k.kind, namespace, name}, "|")
}

func keyOf(u *unstructured.Unstructured) string {
	return kindOf(u.GetAPIVersion(), u.GetKind()).key(u.GetNamespace(), u.GetName())
}

// put stores an object as it is, past everything that is watched.
func (s *apiserver) put(u *unstructured.Unstructured) {
	s.version++
	u = u.DeepCopy()
	u.SetResourceVersion(fmt.Sprint(s.version))
	if u.GetUID() == "" {
		u.SetUID(types.UID(fmt.Sprintf("uid-%d", s.version)))
	}
	s.objects[keyOf(u)] = u
}

// of lists the objects of a kind, by name.
func (s *apiserver) of(name string) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, u := range s.objects {
		if u.Object["kind"] == name {
			out = append(out, u)
		}
	}
	slices.SortFunc(out, func(a, b *unstructured.Unstructured) int {
		return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
	})
	return out
}

// RoundTrip answers a request.
func (s *apiserver) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := s.serve(req, body)
	return answer(req, out, err)
}

func answer(req *http.Request, out any, err error) (*http.Response, error) {
	code := http.StatusOK
	if err != nil {
		var status apierrors.APIStatus
		if !asStatus(err, &status) {
			return nil, err // a broken connection
		}
		st := status.Status()
		st.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		code, out = int(st.Code), st
	}
	data, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(data)),
	}, nil
}

func asStatus(err error, into *apierrors.APIStatus) bool {
	status, ok := err.(apierrors.APIStatus)
	*into = status
	return ok
}

// aimed is what a request is about.
type aimed struct {
	kind
	namespace, name, sub string
}

func (s *apiserver) serve(req *http.Request, body []byte) (any, error) {
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	if out := discover(parts); out != nil {
		return out, nil
	}
	if s.refuse != nil {
		if err := s.refuse(req.Method, req.URL.Path); err != nil {
			return nil, err
		}
	}
	t, err := aim(parts)
	if err != nil {
		return nil, err
	}
	if err := s.authorize(req, t); err != nil {
		return nil, err
	}
	if req.Method == http.MethodGet {
		return s.read(req, t)
	}
	what := req.Method + " " + req.URL.Path
	if s.fault != nil {
		if err := s.fault(what, false); err != nil {
			return nil, err
		}
	}
	s.log = append(s.log, write{what, body})
	out, err := s.write(req, t, body)
	if err != nil {
		return nil, err
	}
	s.changed()
	if s.fault != nil {
		if err := s.fault(what, true); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// aim reads a path.
func aim(parts []string) (aimed, error) {
	var t aimed
	version, rest := "", parts
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		version, rest = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		version, rest = parts[1]+"/"+parts[2], parts[3:]
	}
	if len(rest) >= 3 && rest[0] == "namespaces" {
		t.namespace, rest = rest[1], rest[2:]
	}
	for _, k := range kinds {
		if k.apiVersion == version && len(rest) > 0 && k.plural == rest[0] {
			t.kind = k
		}
	}
	if t.plural == "" {
		return t, apierrors.NewNotFound(schema.GroupResource{}, strings.Join(parts, "/"))
	}
	if len(rest) > 1 {
		t.name = rest[1]
	}
	if len(rest) > 2 {
		t.sub = rest[2]
	}
	return t, nil
}

func (s *apiserver) read(req *http.Request, t aimed) (any, error) {
	if t.name != "" {
		u := s.objects[t.key(t.namespace, t.name)]
		if u == nil {
			return nil, apierrors.NewNotFound(t.resource(), t.name)
		}
		return u.Object, nil
	}
	query := req.URL.Query()
	byLabel, err := labels.Parse(query.Get("labelSelector"))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	byField, err := fields.ParseSelector(query.Get("fieldSelector"))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	items := []any{}
	for _, u := range s.of(t.kind.kind) {
		node, _, _ := unstructured.NestedString(u.Object, "spec", "nodeName")
		inside := t.namespace == "" || u.GetNamespace() == t.namespace
		if inside && byLabel.Matches(labels.Set(u.GetLabels())) && byField.Matches(fields.Set{"spec.nodeName": node, "metadata.name": u.GetName()}) {
			items = append(items, u.Object)
		}
	}
	return map[string]any{"apiVersion": t.apiVersion, "kind": t.kind.kind + "List", "metadata": map[string]any{"resourceVersion": fmt.Sprint(s.version)}, "items": items}, nil
}

func (s *apiserver) write(req *http.Request, t aimed, body []byte) (any, error) {
	have := s.objects[t.key(t.namespace, t.name)]
	manager := req.URL.Query().Get("fieldManager")
	switch {
	case t.sub == "eviction":
		if have == nil {
			return nil, apierrors.NewNotFound(t.resource(), t.name)
		}
		delete(s.objects, keyOf(have))
		return metav1.Status{Status: metav1.StatusSuccess}, nil
	case req.Method == http.MethodDelete:
		if have == nil {
			return nil, apierrors.NewNotFound(t.resource(), t.name)
		}
		s.delete(have)
		return metav1.Status{Status: metav1.StatusSuccess}, nil
	case req.Method == http.MethodPatch && req.Header.Get("Content-Type") == string(types.ApplyPatchType):
		return s.apply(t, have, body, manager)
	case req.Method == http.MethodPatch:
		if have == nil {
			return nil, apierrors.NewNotFound(t.resource(), t.name)
		}
		var patch map[string]any
		if err := unmarshal(body, &patch); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		want := have.DeepCopy()
		mergeJSON(want.Object, patch)
		return s.store(have, want, manager)
	}
	want := &unstructured.Unstructured{}
	if err := unmarshal(body, &want.Object); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	want.SetAPIVersion(t.apiVersion)
	want.SetKind(t.kind.kind)
	want.SetNamespace(t.namespace)
	if req.Method == http.MethodPost {
		if s.objects[keyOf(want)] != nil {
			return nil, apierrors.NewAlreadyExists(t.resource(), want.GetName())
		}
		return s.store(nil, want, manager)
	}
	if have == nil {
		return nil, apierrors.NewNotFound(t.resource(), t.name)
	}
	if want.GetResourceVersion() == "" && strings.HasPrefix(t.apiVersion, "crd.") {
		return nil, apierrors.NewInvalid(want.GroupVersionKind().GroupKind(), t.name, nil)
	}
	if v := want.GetResourceVersion(); v != "" && v != have.GetResourceVersion() {
		return nil, apierrors.NewConflict(t.resource(), t.name, fmt.Errorf("the object has been modified"))
	}
	return s.store(have, want, manager)
}

// unmarshal gives numbers the types that unstructured objects have.
func unmarshal(data []byte, into *map[string]any) error {
	var u unstructured.Unstructured
	wrapped := []byte(`{"kind":"x","wrapped":` + string(data) + `}`)
	if err := u.UnmarshalJSON(wrapped); err != nil {
		return err
	}
	*into, _ = u.Object["wrapped"].(map[string]any)
	return nil
}

func mergeJSON(into, patch map[string]any) {
	for k, v := range patch {
		inner, isMap := v.(map[string]any)
		there, wasMap := into[k].(map[string]any)
		switch {
		case v == nil:
			delete(into, k)
		case isMap && wasMap:
			mergeJSON(there, inner)
		case isMap:
			fresh := map[string]any{}
			mergeJSON(fresh, inner)
			into[k] = fresh
		default:
			into[k] = v
		}
	}
}

// store writes an object, with what the server keeps of it.
func (s *apiserver) store(have, want *unstructured.Unstructured, manager string) (any, error) {
	if err := s.admit(want); err != nil {
		return nil, err
	}
	live := have
	if live == nil {
		live = empty(want)
	}
	merged, err := managerOf(want).Update(live, want, manager)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return s.keep(have, merged.(*unstructured.Unstructured)), nil
}

func (s *apiserver) apply(t aimed, have *unstructured.Unstructured, body []byte, manager string) (any, error) {
	want := &unstructured.Unstructured{}
	if err := unmarshal(body, &want.Object); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	want.SetNamespace(t.namespace)
	if have == nil {
		if err := s.admit(want); err != nil {
			return nil, err
		}
	}
	live := have
	if live == nil {
		live = empty(want)
	}
	merged, err := managerOf(want).Apply(live.DeepCopy(), want, manager, true)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return s.keep(have, merged.(*unstructured.Unstructured)), nil
}

// admit refuses new objects in a namespace that is not there, or going.
func (s *apiserver) admit(u *unstructured.Unstructured) error {
	k := kindOf(u.GetAPIVersion(), u.GetKind())
	if !k.namespaced || s.objects[keyOf(u)] != nil {
		return nil
	}
	ns := s.objects[kindOf("v1", "Namespace").key("", u.GetNamespace())]
	switch {
	case ns == nil:
		return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, u.GetNamespace())
	case ns.GetDeletionTimestamp() != nil:
		err := apierrors.NewForbidden(k.resource(), u.GetName(), fmt.Errorf("unable to create new content in namespace %s because it is being terminated", ns.GetName()))
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: "NamespaceTerminating", Message: "namespace is being terminated", Field: "metadata.namespace"}}
		return err
	}
	return nil
}

func empty(like *unstructured.Unstructured) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetAPIVersion(like.GetAPIVersion())
	u.SetKind(like.GetKind())
	return u
}

// keep stores an object under a new version, and a new generation where its spec changed.
func (s *apiserver) keep(have, want *unstructured.Unstructured) map[string]any {
	want = want.DeepCopy()
	if have == nil {
		s.version++
		want.SetUID(types.UID(fmt.Sprintf("uid-%d", s.version)))
		want.SetCreationTimestamp(metav1.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		want.SetGeneration(1)
	} else {
		want.SetUID(have.GetUID())
		want.SetCreationTimestamp(have.GetCreationTimestamp())
		want.SetGeneration(have.GetGeneration())
		if !same(have.Object["spec"], want.Object["spec"]) {
			want.SetGeneration(have.GetGeneration() + 1)
		}
		if status, ok := have.Object["status"]; ok {
			want.Object["status"] = status
		}
	}
	s.version++
	want.SetResourceVersion(fmt.Sprint(s.version))
	s.objects[keyOf(want)] = want
	return want.Object
}

func same(a, b any) bool {
	x, _ := json.Marshal(pruned(a))
	y, _ := json.Marshal(pruned(b))
	return bytes.Equal(x, y)
}

// namespaceTime is how long a namespace takes to go.
const namespaceTime = 5 * time.Second

// delete removes an object. A namespace goes in the end, with what is in it.
func (s *apiserver) delete(u *unstructured.Unstructured) {
	if u.GetKind() != "Namespace" {
		delete(s.objects, keyOf(u))
		return
	}
	now := metav1.Now()
	u.SetDeletionTimestamp(&now)
	time.AfterFunc(namespaceTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.objects, keyOf(u))
		for key, o := range s.objects {
			if o.GetNamespace() == u.GetName() {
				delete(s.objects, key)
			}
		}
		s.changed()
	})
}

// managers are made once: each reads the schema of all kinds.
var (
	managersMu sync.Mutex
	managers   = map[schema.GroupVersionKind]*managedfields.FieldManager{}
)

func managerOf(u *unstructured.Unstructured) *managedfields.FieldManager {
	managersMu.Lock()
	defer managersMu.Unlock()
	gvk := u.GroupVersionKind()
	if m := managers[gvk]; m != nil {
		return m
	}
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	if !scheme.Scheme.Recognizes(gvk) {
		converter = managedfields.NewDeducedTypeConverter()
	}
	m, err := managedfields.NewDefaultFieldManager(converter, asItIs{}, asItIs{}, asItIs{}, gvk, gvk.GroupVersion(), "", nil)
	if err != nil {
		panic(err)
	}
	managers[gvk] = m
	return m
}

// asItIs converts and defaults nothing.
type asItIs struct{}

func (asItIs) Convert(in, out, _ any) error { return nil }
func (asItIs) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return in, nil
}
func (asItIs) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}
func (asItIs) Default(runtime.Object) {}
func (asItIs) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(gvk)
	return u, nil
}

// discover answers what the server has; nil where that was not asked.
func discover(parts []string) any {
	versions := map[string]*metav1.APIResourceList{}
	for _, k := range kinds {
		list := versions[k.apiVersion]
		if list == nil {
			list = &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: k.apiVersion}
			versions[k.apiVersion] = list
		}
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: k.plural, Kind: k.kind, Namespaced: k.namespaced, Verbs: metav1.Verbs{"get", "list", "create", "update", "patch", "delete"}})
	}
	versions["v1"].APIResources = append(versions["v1"].APIResources, metav1.APIResource{Name: "pods/eviction", Kind: "Eviction", Group: "policy", Version: "v1", Namespaced: true, Verbs: metav1.Verbs{"create"}})
	switch {
	case len(parts) == 1 && parts[0] == "api":
		return &metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions", APIVersion: "v1"}, Versions: []string{"v1"}}
	case len(parts) == 1 && parts[0] == "apis":
		out := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		for _, v := range slices.Sorted(maps.Keys(versions)) {
			if group, version, ok := strings.Cut(v, "/"); ok {
				of := metav1.GroupVersionForDiscovery{GroupVersion: v, Version: version}
				out.Groups = append(out.Groups, metav1.APIGroup{Name: group, Versions: []metav1.GroupVersionForDiscovery{of}, PreferredVersion: of})
			}
		}
		return out
	case len(parts) == 2 && parts[0] == "api", len(parts) == 3 && parts[0] == "apis":
		if list := versions[strings.Join(parts[1:], "/")]; list != nil {
			return list
		}
	}
	return nil
}

// pruned is a value without what means nothing: nulls, and empty maps and lists.
func pruned(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if p := pruned(e); p != nil {
				out[k] = p
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		if len(v) == 0 {
			return nil
		}
		out := make([]any, len(v))
		for i := range v {
			// The places of a list count: a null in it is one.
			out[i] = pruned(v[i])
		}
		return out
	}
	return v
}
