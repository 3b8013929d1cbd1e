// Package simcluster is the API servers, kubelets and node agents of any number
// of downstream clusters that are not there. It answers what Portcullis asks of
// a cluster: lists, watches, server-side apply of the node agent, and the exec
// of a session with it, by WebSocket. All clusters have the same nodes and pods;
// each has its own node agents. Connections between its pods are not made: what
// becomes of one is looked up.
//
// It behaves as Kubernetes 1.30 does, which the lab's real clusters run: a watch
// that is to begin with a list is refused.
package simcluster

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
)

const kubernetesVersion = "v1.30.4"

const (
	// maxBody bounds what is applied.
	maxBody = 1 << 20
	// watchesFor is how long a watch lasts that does not say it.
	watchesFor = 30 * time.Minute
)

var protobufs = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)

// Server answers for all clusters. Which one is asked for is in the header that
// Rancher's stand-in adds to a request that came by an alias.
type Server struct {
	log   *slog.Logger
	world *world

	mu     sync.Mutex
	stores map[string]*store
	// encoded are answers to lists, which are the same for all clusters with the same agents.
	encoded map[listing][]byte
}

// listing is a list that can be asked for.
type listing struct {
	kind, namespace, selector string
	limit                     int
	agent                     agent
	version                   int64
	// protobuf is Kubernetes' other form, beside JSON.
	protobuf bool
}

// New makes a server.
func New(log *slog.Logger) *Server {
	return &Server{log: log, world: newWorld(), stores: map[string]*store{}, encoded: map[listing][]byte{}}
}

// Handler routes requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"major": "1", "minor": "30", "gitVersion": kubernetesVersion})
	})
	for _, path := range []string{"/api/v1/{kind}", "/api/v1/namespaces/{namespace}/{kind}", "/apis/discovery.k8s.io/v1/{kind}"} {
		mux.HandleFunc("GET "+path, s.list)
	}
	for _, path := range []string{
		"/api/v1/namespaces/{name}", "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
		"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}",
	} {
		mux.HandleFunc("GET "+path, s.get)
		mux.HandleFunc("PATCH "+path, s.apply)
		mux.HandleFunc("DELETE "+path, s.remove)
	}
	mux.HandleFunc("/api/v1/namespaces/{namespace}/pods/{name}/exec", s.exec)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.log.Warn("not simulated", "method", r.Method, "path", r.URL.Path)
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, "a simulated cluster has no "+r.URL.Path)
	})
	return mux
}

// of is what was written into the cluster that a request is for.
func (s *Server) of(r *http.Request) *store {
	id := r.Header.Get(rancherd.AliasHeader)
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.stores[id]
	if !ok {
		st = newStore()
		s.stores[id] = st
	}
	return st
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	if o, ok := s.of(r).get(r.URL.Path); ok {
		writeJSON(w, http.StatusOK, o)
		return
	}
	notFound(w, r)
}

func (s *Server) apply(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var configuration map[string]any
	if err == nil {
		err = yaml.Unmarshal(body, &configuration)
	}
	if err != nil || r.Header.Get("Content-Type") != "application/apply-patch+yaml" {
		writeStatus(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "a simulated cluster takes server-side apply alone")
		return
	}
	o, created := s.of(r).apply(r.URL.Path, configuration)
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	writeJSON(w, code, o)
}

func (s *Server) remove(w http.ResponseWriter, r *http.Request) {
	if o, ok := s.of(r).remove(r.URL.Path); ok {
		writeJSON(w, http.StatusOK, o)
		return
	}
	notFound(w, r)
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	st, q := s.of(r), r.URL.Query()
	if on, _ := strconv.ParseBool(q.Get("watch")); on {
		s.watch(w, r, st)
		return
	}
	version, _ := st.now()
	limit, _ := strconv.Atoi(q.Get("limit"))
	l := listing{
		kind: r.PathValue("kind"), namespace: r.PathValue("namespace"), selector: q.Get("labelSelector"), limit: limit,
		agent: st.agent(), version: version, protobuf: strings.HasPrefix(r.Header.Get("Accept"), runtime.ContentTypeProtobuf),
	}
	text, err := s.encode(l)
	if err != nil {
		s.log.Warn("not simulated", "path", r.URL.Path, "err", err)
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, err.Error())
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	if l.protobuf {
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	}
	_, _ = w.Write(text)
}

// watch tells of no event: what changes in a simulated cluster makes its watches
// end, and their clients list again.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, st *store) {
	q := r.URL.Query()
	if on, _ := strconv.ParseBool(q.Get("sendInitialEvents")); on {
		writeStatus(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid,
			"sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
		return
	}
	version, changed := st.now()
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	if asked := q.Get("resourceVersion"); asked != "" && asked != "0" && asked != strconv.FormatInt(version, 10) {
		writeJSON(w, http.StatusOK, map[string]any{"type": "ERROR", "object": status(http.StatusGone, metav1.StatusReasonExpired, "too old resource version: "+asked)})
		return
	}
	w.WriteHeader(http.StatusOK)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	lasts := watchesFor
	if seconds, err := strconv.Atoi(q.Get("timeoutSeconds")); err == nil && seconds > 0 {
		lasts = time.Duration(seconds) * time.Second
	}
	over := time.NewTimer(lasts)
	defer over.Stop()
	select {
	case <-changed:
	case <-over.C:
	case <-r.Context().Done():
	}
}

// encode is the answer to a list, made once.
func (s *Server) encode(l listing) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text, ok := s.encoded[l]; ok {
		return text, nil
	}
	list, err := s.world.list(l)
	if err != nil {
		return nil, err
	}
	encode := json.Marshal
	if l.protobuf {
		encode = func(any) ([]byte, error) { return runtime.Encode(protobufs, list) }
	}
	text, err := encode(list)
	if err != nil {
		return nil, err
	}
	s.encoded[l] = text
	return text, nil
}

// list makes the answer to a list.
func (w *world) list(l listing) (runtime.Object, error) {
	selector, err := labels.Parse(l.selector)
	if err != nil {
		return nil, err
	}
	at := metav1.ListMeta{ResourceVersion: strconv.FormatInt(l.version, 10)}
	kind := func(name, version string) metav1.TypeMeta { return metav1.TypeMeta{Kind: name, APIVersion: version} }
	switch l.kind {
	case "nodes":
		return &corev1.NodeList{TypeMeta: kind("NodeList", "v1"), ListMeta: at, Items: w.nodes}, nil
	case "services":
		return &corev1.ServiceList{TypeMeta: kind("ServiceList", "v1"), ListMeta: at, Items: w.services}, nil
	case "endpointslices":
		return &discoveryv1.EndpointSliceList{TypeMeta: kind("EndpointSliceList", "discovery.k8s.io/v1"), ListMeta: at, Items: w.endpoints}, nil
	case "pods":
		list := &corev1.PodList{TypeMeta: kind("PodList", "v1"), ListMeta: at, Items: []corev1.Pod{}}
		for _, p := range append(w.pods[:len(w.pods):len(w.pods)], agentPods(l.agent)...) {
			if (l.namespace == "" || l.namespace == p.Namespace) && selector.Matches(labels.Set(p.Labels)) {
				list.Items = append(list.Items, p)
			}
		}
		if l.limit > 0 && l.limit < len(list.Items) {
			list.Items, list.Continue = list.Items[:l.limit], "more"
		}
		return list, nil
	}
	return nil, fmt.Errorf("a simulated cluster has no %s", l.kind)
}

// agentPods are the pods of a DaemonSet, one on each node.
func agentPods(a agent) []corev1.Pod {
	if a.name == "" {
		return nil
	}
	var pods []corev1.Pod
	for i := range nodesEach {
		pods = append(pods, pod(a.namespace, fmt.Sprintf("%s-%05d", a.name, i), a.name, a.image, i, nodeIP(i), true))
	}
	return pods
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone; there is nobody else to tell
}

func status(code int32, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: code, Reason: reason, Message: message,
	}
}

func writeStatus(w http.ResponseWriter, code int32, reason metav1.StatusReason, message string) {
	writeJSON(w, int(code), status(code, reason, message))
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path+" not found")
}
