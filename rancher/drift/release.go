package drift

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/yaml"
)

// Bounds of what is read of a release. A Secret holds a MiB, and what is compressed
// in it may be a thousand times as large.
const (
	maxRelease = 32 << 20
	maxObjects = 20_000
)

// ReleaseSecret is the type of the Secrets in which Helm keeps releases.
const ReleaseSecret = "helm.sh/release.v1"

// ReleaseRef names one version of a Helm release, as Fleet reports it.
type ReleaseRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Version   int    `json:"version"`
}

// String is NAMESPACE/NAME:VERSION, as Fleet writes it.
func (r ReleaseRef) String() string { return fmt.Sprintf("%s/%s:%d", r.Namespace, r.Name, r.Version) }

// Secret is the name of the Secret that has it.
func (r ReleaseRef) Secret() string {
	return fmt.Sprintf("sh.helm.release.v1.%s.v%d", r.Name, r.Version)
}

// ParseReleaseRef reads what Fleet reports as a BundleDeployment's release.
func ParseReleaseRef(s string) (ReleaseRef, error) {
	at, version, ok := strings.Cut(s, ":")
	namespace, name, ok2 := strings.Cut(at, "/")
	n, err := strconv.Atoi(version)
	if !ok || !ok2 || err != nil || n < 1 || !pathSegment(namespace) || !pathSegment(name) {
		return ReleaseRef{}, fmt.Errorf("%.100q is not a release as Fleet writes it (namespace/name:version)", s)
	}
	return ReleaseRef{namespace, name, n}, nil
}

// pathSegment keeps a name inside its segment of a URL.
func pathSegment(s string) bool {
	return s != "" && len(s) <= 253 && s != "." && s != ".." && !strings.ContainsAny(s, "/?#%\\ \t\r\n")
}

// Release is what is read of a Helm release.
type Release struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Version   int    `json:"version"`
	Manifest  string `json:"manifest"`
	Info      struct {
		Status string `json:"status"`
	} `json:"info"`
	Chart struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	} `json:"chart"`
}

// Annotations that Fleet's agent puts on the charts that it installs.
const (
	chartBundle = "fleet.cattle.io/bundle-id"
	chartCommit = "fleet.cattle.io/commit"
)

// Bundle is the BundleDeployment that Fleet installed it for, or "".
func (r *Release) Bundle() string { return r.Chart.Metadata.Annotations[chartBundle] }

// Commit is the one that it was last installed for. A commit that changed nothing
// of the content does not install again.
func (r *Release) Commit() string { return r.Chart.Metadata.Annotations[chartCommit] }

// DecodeRelease reads a release from the data of its Secret: base64 over gzip
// over JSON. Releases of old, without gzip, are read too.
func DecodeRelease(data []byte) (*Release, error) {
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(data)))
	n, err := base64.StdEncoding.Decode(raw, data)
	if err != nil {
		return nil, errors.New("the release is not base64")
	}
	raw = raw[:n]
	if bytes.HasPrefix(raw, []byte{0x1f, 0x8b, 0x08}) {
		if raw, err = inflate(raw); err != nil {
			return nil, err
		}
	}
	r := &Release{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, errors.New("the release is not JSON as Helm writes it")
	}
	if r.Name == "" || r.Version < 1 {
		return nil, errors.New("the release has no name or version")
	}
	return r, nil
}

func inflate(raw []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, errors.New("the release is not gzip, though it begins so")
	}
	out, err := io.ReadAll(io.LimitReader(z, maxRelease+1))
	if err != nil {
		return nil, errors.New("the release ends in the middle, or is damaged")
	}
	if len(out) > maxRelease {
		return nil, fmt.Errorf("the release is larger than %d MiB", maxRelease>>20)
	}
	return out, nil
}

// Objects reads the manifest. What has no namespace gets none here.
func (r *Release) Objects() ([]*Object, error) {
	reader := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(r.Manifest)))
	var out []*Object
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the manifest of release %s/%s cannot be split: %w", r.Namespace, r.Name, err)
		}
		if out, err = readDocument(doc, out); err != nil {
			return nil, fmt.Errorf("the manifest of release %s/%s: %w", r.Namespace, r.Name, err)
		}
		if len(out) > maxObjects {
			return nil, fmt.Errorf("the manifest of release %s/%s has more than %d objects", r.Namespace, r.Name, maxObjects)
		}
	}
}

// readDocument adds the object of a YAML document, or the objects of a List. A
// document without content has none.
func readDocument(doc []byte, out []*Object) ([]*Object, error) {
	data, err := yaml.ToJSON(doc)
	if err != nil {
		return nil, fmt.Errorf("a document is not YAML: %w", err)
	}
	if data = bytes.TrimSpace(data); len(data) == 0 || bytes.Equal(data, []byte("null")) {
		return out, nil
	}
	var list struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if json.Unmarshal(data, &list) == nil && list.Kind == "List" {
		for _, item := range list.Items {
			o, err := Decode(item, Type{})
			if err != nil {
				return nil, fmt.Errorf("an object of a List: %w", err)
			}
			out = append(out, o)
		}
		return out, nil
	}
	o, err := Decode(data, Type{})
	if err != nil {
		return nil, fmt.Errorf("a document: %w", err)
	}
	return append(out, o), nil
}
