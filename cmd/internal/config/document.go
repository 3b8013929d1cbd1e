package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxSize bounds a file. A pipeline travels in every workflow's input, where Temporal
// allows 2 MiB; one of a thousand environments is far below this.
const maxSize = 1 << 20

type position struct{ line, column int }

// document is one YAML file that is being read: where each field stands, and
// what is wrong so far.
type document struct {
	file  string
	at    map[string]position
	found Errors
	// unread are the paths that decode could not read, of which nothing more can be said.
	unread []string
}

// decode reads data into the struct that into points to. It is strict: what the
// struct does not know, what stands twice and what has another type is noted as
// found and left out, so that the rest can be judged in the same run.
func decode(file string, data []byte, into any) (*document, error) {
	d := &document{file: file, at: map[string]position{"": {1, 1}}}
	root, err := d.parse(data)
	if err != nil {
		return nil, err
	}
	tree := d.read(root, typeOf(into), "")
	for _, e := range d.found {
		d.unread = append(d.unread, e.Path)
	}
	if err := assign(tree, into); err != nil {
		d.fail("", "cannot be read: %v", err)
		return nil, d.found
	}
	return d, nil
}

// parse returns the root of the only document in data.
func (d *document) parse(data []byte) (*yaml.Node, error) {
	if len(data) > maxSize {
		d.fail("", "is larger than 1 MiB")
		return nil, d.found
	}
	if !utf8.Valid(data) {
		d.fail("", "is not text in UTF-8")
		return nil, d.found
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF), err == nil && len(first.Content) == 0:
		d.fail("", "is empty")
		return nil, d.found
	case err != nil:
		return nil, d.syntax(err)
	}
	var second yaml.Node
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, d.syntax(err)
	default:
		d.failAt(&second, "", "holds a second document; one file is one document")
		return nil, d.found
	}
	return first.Content[0], nil
}

var syntaxLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntax gives the parser's complaint a place. The parser knows the line alone.
func (d *document) syntax(err error) error {
	line, message := 1, err.Error()
	if m := syntaxLine.FindStringSubmatch(strings.ReplaceAll(message, "\n", " ")); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
		message = m[2]
	}
	return Errors{{File: d.file, Line: line, Column: 1, Message: "is not YAML: " + message}}
}

// fail notes an error at the field, or at the nearest field around it that is in the file.
func (d *document) fail(path, format string, args ...any) {
	if slices.ContainsFunc(d.unread, func(bad string) bool { return within(path, bad) || within(bad, path) }) {
		return // it would be about what was not read
	}
	place, known := d.at[path]
	for around := path; !known; place, known = d.at[around] {
		around = parent(around)
	}
	d.found = append(d.found, Error{
		File: d.file, Line: place.line, Column: place.column, Path: path, Message: fmt.Sprintf(format, args...),
	})
}

func (d *document) failAt(node *yaml.Node, path, format string, args ...any) {
	d.found = append(d.found, Error{
		File: d.file, Line: max(node.Line, 1), Column: max(node.Column, 1), Path: path, Message: fmt.Sprintf(format, args...),
	})
}

// has tells whether the field stands in the file.
func (d *document) has(path string) bool {
	_, ok := d.at[path]
	return ok
}

// parent cuts the last step off a path: a.b[1] -> a.b -> a -> "".
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// within tells whether a path is another, or stands below it.
func within(path, around string) bool {
	rest, below := strings.CutPrefix(path, around)
	return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// assign goes through JSON, because the types that are filled have JSON tags
// and unmarshallers of their own.
func assign(tree, into any) error {
	raw, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}
