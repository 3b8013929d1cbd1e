package source

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is one YAML document and where it stands in its file.
type document struct {
	root *yaml.Node
}

// documents parses all YAML documents of a file. Lines count from the file's begin.
func documents(data []byte) ([]document, error) {
	var out []document
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if len(n.Content) == 1 && n.Content[0].Kind == yaml.MappingNode {
			out = append(out, document{root: n.Content[0]})
		}
	}
}

// field returns the value of a key of a mapping, following a path of keys; nil
// where one is missing. Aliases are followed.
func field(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		n = child(n, key)
	}
	return n
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n = resolved(n); n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return resolved(n.Content[i+1])
		}
	}
	return nil
}

// keyLine is the line of a key in a mapping, or 0.
func keyLine(n *yaml.Node, key string) int {
	if n = resolved(n); n == nil || n.Kind != yaml.MappingNode {
		return 0
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i].Line
		}
	}
	return 0
}

func resolved(n *yaml.Node) *yaml.Node {
	for range 8 { // an alias of an alias; a loop ends
		if n == nil || n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return nil
}

func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

var (
	actionLine   = regexp.MustCompile(`(?m)^[ \t]*\{\{-?[^{}]*-?\}\}[ \t]*\n?`)
	inlineAction = regexp.MustCompile(`\{\{[^{}]*\}\}`)
)

// differing names the objects, as kind/name, that are not the same in two
// versions of a file. Templates are read as well as they can be without their
// values; what cannot be read is not named.
func differing(was, is []byte) []string {
	a, b := objects(was), objects(is)
	set := map[string]bool{}
	for name, body := range a {
		if b[name] != body {
			set[name] = true
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			set[name] = true
		}
	}
	out := slices.Sorted(maps.Keys(set))
	return out[:min(len(out), maxObjects)]
}

// objects maps kind/name to the text of each object in a file.
func objects(data []byte) map[string]string {
	out := map[string]string{}
	if bytes.Contains(data, []byte("{{")) {
		data = inlineAction.ReplaceAll(actionLine.ReplaceAll(data, nil), []byte("x"))
	}
	docs, err := documents(data)
	if err != nil {
		return out
	}
	for _, d := range docs {
		kind, name := text(field(d.root, "kind")), text(field(d.root, "metadata", "name"))
		if kind == "" || name == "" {
			continue
		}
		if ns := text(field(d.root, "metadata", "namespace")); ns != "" {
			name = ns + "/" + name
		}
		body, err := yaml.Marshal(d.root)
		if err == nil {
			out[kind+"/"+name] += string(body)
		}
	}
	return out
}

// maxLocated is the longest file, in lines, in which the exact line is looked for.
const maxLocated = 500

// yamlLine says in which line a file stops being YAML, and what the parser said.
// The parser often names the line where the surrounding block began; what can be
// read without the line is a better guide.
func yamlLine(data []byte, err error) (int, string) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if m := lineInMessage.FindStringSubmatch(msg); m != nil {
		for _, r := range m[1] {
			line = line*10 + int(r-'0')
		}
		msg = strings.TrimSpace(strings.Replace(msg, m[0], "", 1))
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines) > maxLocated {
		return line, msg
	}
	end := len(data)
	for n := len(lines); n > 0; n-- {
		end -= len(lines[n-1])
		if _, err := documents(data[:end]); err == nil {
			return n, msg
		}
	}
	return line, msg
}

var lineInMessage = regexp.MustCompile(`line (\d{1,6}): ?`)
