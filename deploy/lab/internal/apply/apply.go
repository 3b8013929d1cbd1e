// Package apply is the little that the world needs of a Kubernetes client: server-side
// apply of manifests whose kinds may be seconds old, and waiting.
package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// FieldManager owns what the lab applies.
const FieldManager = "portcullis-lab"

// applyWithin bounds how long an apply waits for its kind to be served or for a
// passing fault of the API server.
const applyWithin = 30 * time.Second

// Client applies and waits on one cluster.
type Client struct {
	// REST is the configuration that the client was made from.
	REST *rest.Config
	// Dynamic reads and writes any kind.
	Dynamic dynamic.Interface

	mapper *restmapper.DeferredDiscoveryRESTMapper
}

// Open makes a client from a kubeconfig file. It does not connect.
func Open(kubeconfig string) (*Client, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %s: %w", kubeconfig, err)
	}
	cfg.QPS, cfg.Burst = 50, 100
	cfg.Timeout = 30 * time.Second
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for %s: %w", kubeconfig, err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for %s: %w", kubeconfig, err)
	}
	return &Client{
		REST:    cfg,
		Dynamic: dyn,
		mapper:  restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco)),
	}, nil
}

// Decode splits a YAML stream into objects; empty documents are left out.
func Decode(manifest []byte) ([]*unstructured.Unstructured, error) {
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	var out []*unstructured.Unstructured
	for {
		var raw runtime.RawExtension
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", len(out)+1, err)
		}
		if len(raw.Raw) == 0 || string(raw.Raw) == "null" {
			continue
		}
		// Unstructured's own decoding keeps whole numbers whole.
		var u unstructured.Unstructured
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			return nil, fmt.Errorf("document %d: %w", len(out)+1, err)
		}
		if u.GetAPIVersion() == "" {
			return nil, fmt.Errorf("document %d has no apiVersion", len(out)+1)
		}
		out = append(out, &u)
	}
}

// ApplyYAML applies every object of a manifest in its order.
func (c *Client) ApplyYAML(ctx context.Context, manifest []byte) error {
	objs, err := Decode(manifest)
	if err != nil {
		return err
	}
	return c.Apply(ctx, objs...)
}

// Apply applies objects in order by server-side apply. A kind that is not
// served yet (its CRD was created a moment ago) is waited for.
func (c *Client) Apply(ctx context.Context, objs ...*unstructured.Unstructured) error {
	for _, o := range objs {
		if err := c.apply(ctx, o); err != nil {
			return fmt.Errorf("apply %s %s: %w", o.GetKind(), qualified(o), err)
		}
	}
	return nil
}

func (c *Client) apply(ctx context.Context, o *unstructured.Unstructured) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 300*time.Millisecond, applyWithin, true,
		func(ctx context.Context) (bool, error) {
			ri, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
			if err == nil {
				opts := metav1.ApplyOptions{FieldManager: FieldManager, Force: true}
				_, err = ri.Apply(ctx, o.GetName(), o, opts)
			}
			last = err
			if err != nil && !passing(err) {
				return false, err
			}
			return err == nil, nil
		})
	if err != nil && last != nil {
		return last
	}
	return err
}

func (c *Client) resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		c.mapper.Reset()
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.Dynamic.Resource(m.Resource).Namespace(namespace), nil
	}
	return c.Dynamic.Resource(m.Resource), nil
}

// passing says whether an error may go away by itself: the kind is not served
// yet, or the server is starting, busy or momentarily unreachable.
func passing(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return !errors.Is(err, context.Canceled)
	}
	return apierrors.IsNotFound(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) || apierrors.IsTimeout(err)
}

// Until polls what until it is done, its error is final, or the time is over.
// Then the error says what was awaited last.
func Until(ctx context.Context, limit time.Duration, what func(context.Context) (done bool, awaited string, err error)) error {
	var awaited string
	err := wait.PollUntilContextTimeout(ctx, 500*time.Millisecond, limit, true,
		func(ctx context.Context) (bool, error) {
			done, a, err := what(ctx)
			awaited = a
			return done, err
		})
	if wait.Interrupted(err) && awaited != "" {
		return fmt.Errorf("after %s still waiting for %s", limit, awaited)
	}
	return err
}

// WaitRollout waits until every named Deployment in the namespace has all its
// replicas updated and available.
func (c *Client) WaitRollout(ctx context.Context, limit time.Duration, namespace string, names ...string) error {
	return c.waitAll(ctx, limit, "deployments", replicas, namespace, names)
}

// WaitEverywhere is WaitRollout for DaemonSets.
func (c *Client) WaitEverywhere(ctx context.Context, limit time.Duration, namespace string, names ...string) error {
	return c.waitAll(ctx, limit, "daemonsets", everywhere, namespace, names)
}

func (c *Client) waitAll(
	ctx context.Context, limit time.Duration, resource string, judge func(*unstructured.Unstructured) (string, bool), namespace string, names []string,
) error {
	objects := c.Dynamic.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: resource})
	for _, name := range names {
		err := Until(ctx, limit, func(ctx context.Context) (bool, string, error) {
			awaited := strings.TrimSuffix(resource, "s") + " " + namespace + "/" + name
			o, err := objects.Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, awaited + ": " + err.Error(), nil
			}
			progress, done := judge(o)
			return done, fmt.Sprintf("%s: %s", awaited, progress), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replicas says how far a Deployment is, and whether it is there.
func replicas(d *unstructured.Unstructured) (progress string, done bool) {
	want := number(d, "spec", "replicas")
	updated, available := number(d, "status", "updatedReplicas"), number(d, "status", "availableReplicas")
	seen := number(d, "status", "observedGeneration") >= d.GetGeneration()
	done = seen && updated == want && available == want && number(d, "status", "replicas") == want
	return fmt.Sprintf("%d of %d replicas available", available, want), done
}

// everywhere says on how many nodes a DaemonSet is, and whether on all.
func everywhere(d *unstructured.Unstructured) (progress string, done bool) {
	want, available := number(d, "status", "desiredNumberScheduled"), number(d, "status", "numberAvailable")
	seen := number(d, "status", "observedGeneration") >= d.GetGeneration()
	done = seen && want > 0 && available == want && number(d, "status", "updatedNumberScheduled") == want
	return fmt.Sprintf("available on %d of %d nodes", available, want), done
}

func number(o *unstructured.Unstructured, path ...string) int64 {
	n, _, _ := unstructured.NestedInt64(o.Object, path...)
	return n
}

func qualified(o *unstructured.Unstructured) string {
	if ns := o.GetNamespace(); ns != "" {
		return ns + "/" + o.GetName()
	}
	return o.GetName()
}
