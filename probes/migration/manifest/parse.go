package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// item is one object and where it stands.
type item struct {
	*unstructured.Unstructured
	node *yaml.Node
}

// key identifies an object in a cluster.
type key struct{ group, kind, namespace, name string }

func (i item) key() key {
	return key{i.GroupVersionKind().Group, i.GetKind(), i.GetNamespace(), i.GetName()}
}

func (i item) String() string {
	if i.GetNamespace() == "" {
		return i.GetKind() + " " + i.GetName()
	}
	return i.GetKind() + " " + i.GetNamespace() + "/" + i.GetName()
}

// line is where the field at path stands, or the nearest that holds it. A path has
// strings for fields and numbers for places in lists.
func (i item) line(path ...any) int {
	node, line := i.node, i.node.Line
	for _, step := range path {
		found, at := child(node, step)
		if found == nil {
			break
		}
		node, line = found, at
	}
	return line
}

// child gives a field's value and its name's line.
func child(node *yaml.Node, step any) (*yaml.Node, int) {
	switch step := step.(type) {
	case string:
		for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i+1], node.Content[i].Line
			}
		}
	case int:
		if node.Kind == yaml.SequenceNode && step < len(node.Content) {
			return node.Content[step], node.Content[step].Line
		}
	}
	return nil, 0
}

// parse reads the objects of a stream of YAML documents.
func parse(data []byte) (items []item, errs Errors) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return items, errs
		}
		if err != nil {
			// The parser cannot go on behind a document that it could not read.
			errs.add(yamlLine(err), "this is no YAML: %s", yamlMessage(err))
			return items, errs
		}
		if len(document.Content) == 0 || document.Content[0].ShortTag() == "!!null" {
			continue
		}
		if it, ok := object(document.Content[0], &errs); ok {
			items = append(items, it)
		}
	}
}

func object(node *yaml.Node, errs *Errors) (it item, ok bool) {
	before := len(*errs)
	plain(node, errs)
	if len(*errs) > before {
		return it, false
	}
	if node.Kind != yaml.MappingNode {
		errs.add(node.Line, "this is no object: it has no fields")
		return it, false
	}
	var fields map[string]any
	if err := node.Decode(&fields); err != nil {
		errs.add(yamlLine(err), "%s", yamlMessage(err))
		return it, false
	}
	// By way of JSON, so that numbers have the types that unstructured objects want.
	text, err := json.Marshal(fields)
	if err != nil {
		errs.add(node.Line, "this is no object: %s", err)
		return it, false
	}
	it = item{new(unstructured.Unstructured), node}
	if err := it.UnmarshalJSON(text); err != nil {
		errs.add(node.Line, "this is no object of Kubernetes: it has no kind")
		return it, false
	}
	if it.GetAPIVersion() == "" || it.GetName() == "" {
		errs.add(node.Line, "this %s has no apiVersion or no name", it.GetKind())
		return it, false
	}
	return it, true
}

// ambiguous are words that some readers of YAML, kubectl among them, take for
// booleans, and others for text.
var ambiguous = []string{"y", "n", "yes", "no", "on", "off"}

// plain refuses what two readers of YAML could read in two ways.
func plain(node *yaml.Node, errs *Errors) {
	switch {
	case node.Kind == yaml.AliasNode || node.Anchor != "":
		errs.add(node.Line, "anchors and aliases are not read; write the value out")
		return
	case node.Kind == yaml.ScalarNode && node.Style == 0 && slices.Contains(ambiguous, strings.ToLower(node.Value)):
		errs.add(node.Line, "%s is text to some and a boolean to others; put it in quotes", node.Value)
	}
	for _, c := range node.Content {
		plain(c, errs)
	}
}

var yamlPlace = regexp.MustCompile(`line (\d+): `)

func yamlLine(err error) int {
	if m := yamlPlace.FindStringSubmatch(err.Error()); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return 0
}

// yamlMessage is the parser's own text without its name and place, on one line.
func yamlMessage(err error) string {
	var typed *yaml.TypeError
	text := err.Error()
	if errors.As(err, &typed) && len(typed.Errors) > 0 {
		text = typed.Errors[0]
	}
	text = strings.TrimPrefix(strings.Join(strings.Fields(text), " "), "yaml: ")
	if m := yamlPlace.FindStringIndex(text); m != nil && m[0] == 0 {
		text = text[m[1]:]
	}
	return text
}
