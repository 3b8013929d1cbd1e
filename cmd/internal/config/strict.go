package config

import (
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/probes"
)

var (
	durationType   = reflect.TypeFor[metav1.Duration]()
	namespacesType = reflect.TypeFor[probes.Namespaces]()
)

func typeOf(pointer any) reflect.Type { return reflect.TypeOf(pointer).Elem() }

// read checks node against the Go type that it is meant for and returns it as
// what encoding/json marshals. Every field's place is noted on the way.
func (d *document) read(node *yaml.Node, t reflect.Type, path string) any {
	if _, noted := d.at[path]; !noted || path == "" {
		d.at[path] = position{max(node.Line, 1), max(node.Column, 1)}
	}
	if !d.plain(node, path) {
		return nil
	}
	switch t {
	case durationType:
		return d.readDuration(node, path)
	case namespacesType:
		if node.Kind == yaml.ScalarNode {
			return d.readNamespacesWord(node, path)
		}
		return d.readList(node, reflect.TypeFor[[]string](), path)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.read(node, t.Elem(), path)
	case reflect.Struct:
		return d.readStruct(node, t, path)
	case reflect.Map:
		return d.readMap(node, t, path)
	case reflect.Slice:
		return d.readList(node, t, path)
	default:
		return d.readScalar(node, t, path)
	}
}

// plain refuses what YAML can do beyond trees of text, numbers and booleans.
func (d *document) plain(node *yaml.Node, path string) bool {
	switch {
	case node.Kind == yaml.AliasNode:
		d.failAt(node, path, "is an alias (*%s); write the value out", node.Value)
	case node.Anchor != "":
		d.failAt(node, path, "has an anchor (&%s); anchors and aliases are not read", node.Anchor)
	case node.ShortTag() == "!!null":
		d.failAt(node, path, "has no value; give it one or leave the field out")
	case node.Style&yaml.TaggedStyle != 0:
		d.failAt(node, path, "has a tag (%s); tags are not read", node.Tag)
	default:
		return true
	}
	return false
}

func (d *document) readStruct(node *yaml.Node, t reflect.Type, path string) any {
	if !d.want(node, yaml.MappingNode, "fields", path) {
		return nil
	}
	fields, names := jsonFields(t)
	return d.readPairs(node, path, func(key, value *yaml.Node, field string) any {
		ft, known := fields[key.Value]
		if !known {
			d.failAt(key, field, "unknown field%s", suggest(key.Value, names))
			return nil
		}
		return d.read(value, ft, field)
	})
}

func (d *document) readMap(node *yaml.Node, t reflect.Type, path string) any {
	if !d.want(node, yaml.MappingNode, "names with values", path) {
		return nil
	}
	return d.readPairs(node, path, func(_, value *yaml.Node, field string) any {
		return d.read(value, t.Elem(), field)
	})
}

// readPairs walks a mapping and refuses keys that stand twice, of which YAML
// parsers elsewhere silently take the last.
func (d *document) readPairs(node *yaml.Node, path string, each func(key, value *yaml.Node, field string) any) any {
	out := make(map[string]any, len(node.Content)/2)
	lines := make(map[string]int, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			d.failAt(key, path, "has a key that is not a plain name")
			continue
		}
		if !d.plain(key, path) {
			continue
		}
		field := join(path, key.Value)
		if line, twice := lines[key.Value]; twice {
			d.failAt(key, field, "stands twice (first in line %d)", line)
			continue
		}
		lines[key.Value] = key.Line
		d.at[field] = position{key.Line, key.Column}
		if read := each(key, value, field); read != nil {
			out[key.Value] = read
		}
	}
	return out
}

func (d *document) readList(node *yaml.Node, t reflect.Type, path string) any {
	if !d.want(node, yaml.SequenceNode, "a list", path) {
		return nil
	}
	out := make([]any, len(node.Content))
	for i, item := range node.Content {
		out[i] = d.read(item, t.Elem(), index(path, i))
	}
	return out
}

func (d *document) readScalar(node *yaml.Node, t reflect.Type, path string) any {
	switch t.Kind() {
	case reflect.String:
		return d.readText(node, path)
	case reflect.Bool:
		return d.readBool(node, path)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return d.readInt(node, t.Bits(), path)
	default:
		d.failAt(node, path, "cannot be set in a file")
		return nil
	}
}

func (d *document) readText(node *yaml.Node, path string) any {
	if !d.want(node, yaml.ScalarNode, "text", path) {
		return nil
	}
	switch node.ShortTag() {
	case "!!str", "!!timestamp":
		return node.Value
	default:
		d.failAt(node, path, "wants text and has %s; put it in quotes: %q", kindOf(node), node.Value)
		return nil
	}
}

func (d *document) readBool(node *yaml.Node, path string) any {
	var b bool
	if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!bool" || node.Decode(&b) != nil {
		d.failAt(node, path, "wants true or false and has %s", kindOf(node))
		return nil
	}
	return b
}

func (d *document) readInt(node *yaml.Node, bits int, path string) any {
	if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!int" {
		d.failAt(node, path, "wants a whole number and has %s", kindOf(node))
		return nil
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(node.Value, "_", ""), 0, bits)
	if err != nil {
		d.failAt(node, path, "wants a whole number; %s is out of range", node.Value)
		return nil
	}
	return n
}

func (d *document) readDuration(node *yaml.Node, path string) any {
	const how = "write it like 90s, 10m or 1h30m"
	if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!str" && node.ShortTag() != "!!int" {
		d.failAt(node, path, "wants a duration and has %s; %s", kindOf(node), how)
		return nil
	}
	if _, err := time.ParseDuration(node.Value); err != nil {
		d.failAt(node, path, "%q is not a duration; %s", node.Value, how)
		return nil
	}
	return node.Value
}

func (d *document) readNamespacesWord(node *yaml.Node, path string) any {
	if node.Value != "all" {
		d.failAt(node, path, `wants the word all or a list of names and has %q`, node.Value)
		return nil
	}
	return node.Value
}

func (d *document) want(node *yaml.Node, kind yaml.Kind, what, path string) bool {
	if node.Kind == kind {
		return true
	}
	d.failAt(node, path, "wants %s and has %s", what, kindOf(node))
	return false
}

// kindOf names what a node is, for people.
func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "a boolean"
	default:
		return "text"
	}
}

// jsonFields maps the JSON names of a struct's fields to their types, and lists the names in order.
func jsonFields(t reflect.Type) (map[string]reflect.Type, []string) {
	types := make(map[string]reflect.Type, t.NumField())
	var names []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || name == "" || !f.IsExported() {
			continue
		}
		types[name] = f.Type
		names = append(names, name)
	}
	return types, names
}
