package drift

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Key names an object on a cluster.
type Key struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

// String is KIND NAMESPACE/NAME.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Type is the object's type.
func (k Key) Type() Type { return Type{k.APIVersion, k.Kind} }

// Type is an API version and a kind.
type Type struct{ APIVersion, Kind string }

// group is the API group, "" for the core.
func (t Type) group() string {
	group, _, found := strings.Cut(t.APIVersion, "/")
	if !found {
		return ""
	}
	return group
}

// Object is what of an object is compared, and what tells about it.
type Object struct {
	Key
	Labels      map[string]string
	Annotations map[string]string
	// Body has the top-level fields but for apiVersion, kind, metadata and status.
	Body map[string]any
	// Created and what follows are known of live objects only.
	Created  time.Time
	Deleting bool
	// Owner is the controller that the object belongs to, as "Kind name".
	Owner string
	// managed are the managedFields, read when somebody asks who wrote.
	managed json.RawMessage
}

// meta is what is read of an object's metadata.
type meta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	CreationTimestamp time.Time         `json:"creationTimestamp"`
	DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
	OwnerReferences   []struct {
		Kind       string `json:"kind"`
		Name       string `json:"name"`
		Controller bool   `json:"controller"`
	} `json:"ownerReferences"`
	ManagedFields json.RawMessage `json:"managedFields"`
}

// Decode reads an object from JSON. Items of a list carry no type; there, otherwise
// is what they are.
func Decode(data []byte, otherwise Type) (*Object, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, fmt.Errorf("it is not an object in JSON: %w", err)
	}
	o := &Object{Key: Key{APIVersion: otherwise.APIVersion, Kind: otherwise.Kind}, Body: make(map[string]any, 1)}
	var m meta
	for name, raw := range fields {
		var err error
		switch name {
		case "apiVersion":
			err = json.Unmarshal(raw, &o.APIVersion)
		case "kind":
			err = json.Unmarshal(raw, &o.Kind)
		case "metadata":
			err = json.Unmarshal(raw, &m)
		case "status":
		default:
			var v any
			if err = json.Unmarshal(raw, &v); err == nil {
				o.Body[name] = v
			}
		}
		if err != nil {
			return nil, fmt.Errorf("its %s cannot be read: %w", name, err)
		}
	}
	o.take(m)
	if o.Kind == "" || o.APIVersion == "" || o.Name == "" {
		return nil, errors.New("it lacks apiVersion, kind or metadata.name")
	}
	return o, nil
}

func (o *Object) take(m meta) {
	o.Name, o.Namespace = m.Name, m.Namespace
	o.Labels, o.Annotations = m.Labels, m.Annotations
	o.Created, o.Deleting, o.managed = m.CreationTimestamp, m.DeletionTimestamp != nil, m.ManagedFields
	for _, ref := range m.OwnerReferences {
		if ref.Controller {
			o.Owner = ref.Kind + " " + ref.Name
		}
	}
	o.calicoMetadata()
}

// calicoMetadata merges what Calico's own clients keep of the metadata in an annotation
// of the objects that they store: Felix reads the labels so.
func (o *Object) calicoMetadata() {
	text := o.Annotations[annotationCalico]
	if o.APIVersion != CalicoStored || text == "" {
		return
	}
	var kept struct {
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal([]byte(text), &kept) != nil {
		return // Calico could not read it either: the annotation stays what it is
	}
	o.Labels, o.Annotations = merged(o.Labels, kept.Labels), merged(o.Annotations, kept.Annotations)
	delete(o.Annotations, annotationCalico)
}

const annotationCalico = "projectcalico.org/metadata"

func merged(a, b map[string]string) map[string]string {
	out := make(map[string]string, len(a)+len(b))
	for k, v := range a {
		out[k] = v
	}
	for k, v := range b {
		out[k] = v
	}
	return out
}

// Helm's marks on the objects of a release.
const (
	annotationReleaseName      = "meta.helm.sh/release-name"
	annotationReleaseNamespace = "meta.helm.sh/release-namespace"
)

// Claim is the Helm release that the object says it belongs to, as
// namespace/name, or "". Anyone can write that.
func (o *Object) Claim() string {
	name := o.Annotations[annotationReleaseName]
	if name == "" {
		return ""
	}
	return o.Annotations[annotationReleaseNamespace] + "/" + name
}

// Writer is who or what wrote, as Kubernetes recorded it.
type Writer struct {
	// Manager is the program's name for itself: kubectl-edit, helm, fleetagent.
	Manager string    `json:"manager"`
	At      time.Time `json:"at,omitzero"`
}

// wrote finds who last wrote the field at path (its segments without list indexes),
// or, where nobody has it, who last wrote anything. Nil where that is not recorded.
func (o *Object) wrote(path []string) *Writer {
	var entries []metav1.ManagedFieldsEntry
	if len(o.managed) == 0 || json.Unmarshal(o.managed, &entries) != nil {
		return nil
	}
	var last, owner *Writer
	for i := range entries {
		e := &entries[i]
		if e.Subresource == "status" {
			continue
		}
		w := &Writer{Manager: e.Manager}
		if e.Time != nil {
			w.At = e.Time.UTC()
		}
		if last == nil || w.At.After(last.At) {
			last = w
		}
		if len(path) > 0 && e.FieldsV1 != nil && owns(e.FieldsV1.GetRawBytes(), path) && (owner == nil || w.At.After(owner.At)) {
			owner = w
		}
	}
	if owner != nil {
		return owner
	}
	return last
}

// owns says whether the field set has the path, or ends above it: what is atomic is
// recorded as a whole.
func owns(fieldsV1 []byte, path []string) bool {
	var at map[string]json.RawMessage
	if json.Unmarshal(fieldsV1, &at) != nil {
		return false
	}
	for i, segment := range path {
		next, ok := at["f:"+segment]
		if !ok {
			// Inside a list that is merged by key, elements have names of their own; and a
			// leaf owns all below it.
			return i > 0 && (len(at) == 0 || keyed(at))
		}
		at = nil
		if json.Unmarshal(next, &at) != nil {
			return false
		}
	}
	return true
}

func keyed(at map[string]json.RawMessage) bool {
	for name := range at {
		if strings.HasPrefix(name, "k:") || strings.HasPrefix(name, "v:") || strings.HasPrefix(name, "i:") {
			return true
		}
	}
	return false
}
