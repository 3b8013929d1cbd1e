package rancherd

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

const (
	probeEvery  = 2 * time.Second
	probeWithin = 2 * time.Second
	// reportEvery repeats an unchanged state, for an object that was made anew.
	reportEvery = 30 * time.Second
)

// reported is what was last written to a Cluster object.
type reported struct {
	state string
	// since is when the state was first seen, at when it was last written.
	since, at time.Time
}

// ClustersResource is Rancher's inventory on the management cluster.
var ClustersResource = schema.GroupVersionResource{Group: "management.cattle.io", Version: "v3", Resource: "clusters"}

// Watch keeps the links and the Cluster objects true to what it sees, until ctx ends.
func (s *Server) Watch(ctx context.Context, mgmt dynamic.Interface) {
	last := make(map[string]reported)
	for {
		for id, b := range s.backends {
			err := s.probe(ctx, id, b)
			if ctx.Err() != nil {
				return
			}
			if err := report(ctx, mgmt, id, err, last); err != nil {
				s.log.Warn("cluster object not updated", "cluster", id, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(probeEvery):
		}
	}
}

// probe cuts or restores the link as the switch says, and asks the API server.
func (s *Server) probe(ctx context.Context, id string, b *backend) error {
	off := s.files.Disconnected(id)
	b.link.set(!off)
	if off {
		return errDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	return b.ready(ctx)
}

// condition is Rancher's form of a condition.
type condition struct {
	Type           string `json:"type"`
	Status         string `json:"status"`
	Reason         string `json:"reason,omitempty"`
	Message        string `json:"message,omitempty"`
	LastUpdateTime string `json:"lastUpdateTime"`
}

// conditions says what Rancher would say of a cluster that was probed with this outcome.
func conditions(probeErr error, now time.Time) []condition {
	at := now.UTC().Format(time.RFC3339)
	if probeErr == nil {
		return []condition{
			{Type: "Connected", Status: "True", LastUpdateTime: at},
			{Type: "Ready", Status: "True", LastUpdateTime: at},
		}
	}
	msg := probeErr.Error()
	return []condition{
		{Type: "Connected", Status: "False", Reason: "Disconnected", Message: msg, LastUpdateTime: at},
		{Type: "Ready", Status: "False", Reason: "Disconnected", Message: "Cluster agent is not connected", LastUpdateTime: at},
	}
}

// report writes the conditions when they differ from what was written last, or
// that was a while ago. An object
// that is not there is nobody's concern: the cluster is not in the inventory.
func report(ctx context.Context, mgmt dynamic.Interface, id string, probeErr error, last map[string]reported) error {
	now := time.Now()
	next := reported{state: fmt.Sprint(probeErr), since: now, at: now}
	if l := last[id]; l.state == next.state {
		if now.Sub(l.at) < reportEvery {
			return nil
		}
		next.since = l.since // repeated as it was, so that nobody sees a change
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions(probeErr, next.since)}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = mgmt.Resource(ClustersResource).
		Patch(ctx, id, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		last[id] = next
	}
	return err
}

// Connected reads the Connected condition of a Cluster object.
func Connected(u *unstructured.Unstructured) bool {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range list {
		if m, ok := c.(map[string]any); ok && m["type"] == "Connected" {
			return m["status"] == "True"
		}
	}
	return false
}
