package source

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/template/parse"

	"go.yaml.in/yaml/v3"
)

// Lint judges the files of a revision that are below paths: whether Fleet can
// read them, whether they choose for themselves where and when they go, and
// mistakes in Calico policy that are certain from the text alone.
func Lint(files []file, paths []string) []Finding {
	l := &linter{charts: map[string]bool{}, bundles: map[string]bool{}}
	l.layout(files, paths)
	for _, f := range files {
		if under(paths, f.path) {
			l.file(f)
		}
	}
	slices.SortStableFunc(l.found, func(a, b Finding) int {
		if a.Error != b.Error {
			if a.Error {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.Path, b.Path), a.Line-b.Line)
	})
	if more := len(l.found) - maxFindings; more > 0 {
		l.found = append(l.found[:maxFindings], Finding{Rule: "findings-cut", Message: fmt.Sprintf("%d more findings are not listed", more)})
	}
	return l.found
}

type linter struct {
	found []Finding
	// charts are directories of Helm charts, bundles those that Fleet makes a Bundle of.
	charts, bundles map[string]bool
}

func (l *linter) add(isError bool, rule, path string, line int, format string, args ...any) {
	l.found = append(l.found, Finding{Rule: rule, Error: isError, Path: path, Line: line, Message: fmt.Sprintf(format, args...)})
}

func isFleetFile(name string) bool {
	base := path.Base(name)
	return base == "fleet.yaml" || base == "fleet.yml"
}

// layout finds charts and bundles, and paths or bundles without content.
func (l *linter) layout(files []file, paths []string) {
	if len(paths) == 0 {
		paths = []string{"."}
	}
	for _, f := range files {
		switch dir := path.Dir(f.path); {
		case path.Base(f.path) == "Chart.yaml":
			l.charts[dir] = true
		case isFleetFile(f.path):
			l.bundles[dir] = true
		}
	}
	content := map[string]int{}
	for _, p := range paths {
		hit := false
		for _, f := range files {
			dir, ok := within(p, f.path)
			if !ok {
				continue
			}
			hit = true
			if isYAML(f.path) && !isFleetFile(f.path) {
				content[dir]++
			} else {
				content[dir] += 0
			}
		}
		if !hit {
			l.add(true, "path-missing", p, 0, "there is no directory %s in this revision; correct spec.source.paths or the repository", p)
		}
	}
	for _, dir := range slices.Sorted(keys(content)) {
		if content[dir] == 0 && !l.remoteChart(files, dir) {
			l.add(true, "bundle-empty", dir, 0, "there is nothing to deploy in %s", dir)
		}
	}
}

func keys(m map[string]int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// remoteChart says whether the bundle's content comes from elsewhere.
func (l *linter) remoteChart(files []file, dir string) bool {
	for _, f := range files {
		if !isFleetFile(f.path) || dir != "." && !strings.HasPrefix(f.path, dir+"/") {
			continue
		}
		if docs, err := documents(f.data); err == nil && len(docs) > 0 && field(docs[0].root, "helm", "chart") != nil {
			return true
		}
	}
	return false
}

func (l *linter) file(f file) {
	switch {
	case f.large:
		l.add(false, "file-large", f.path, 0, "the file is over %d KiB and was not read", maxFile>>10)
	case isFleetFile(f.path):
		l.fleetFile(f)
	case l.inTemplates(f.path) && bytes.Contains(f.data, []byte("{{")), isTemplate(f.path):
		l.template(f)
	case isYAML(f.path) && !isChartFile(f.path) && !bytes.Contains(f.data, []byte("{{")):
		l.manifest(f)
	}
}

// isChartFile is Helm's own description of a chart: YAML with an apiVersion, but no object.
func isChartFile(name string) bool {
	base := path.Base(name)
	return base == "Chart.yaml" || base == "Chart.lock"
}

// inTemplates says whether a file is in the templates directory of a chart.
func (l *linter) inTemplates(name string) bool {
	for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
		if path.Base(dir) == "templates" && l.charts[path.Dir(dir)] {
			return true
		}
	}
	return false
}

// template checks a Helm template's own syntax; what it renders to depends on values.
func (l *linter) template(f file) {
	t := parse.New(f.path)
	t.Mode = parse.SkipFuncCheck
	if _, err := t.Parse(string(f.data), "{{", "}}", map[string]*parse.Tree{}); err != nil {
		line, msg := templateLine(f.path, err)
		l.add(true, "template-malformed", f.path, line, "the Helm template cannot be parsed: %s", msg)
	}
}

// templateLine takes apart "template: path:12: what is wrong".
func templateLine(name string, err error) (int, string) {
	msg := strings.TrimPrefix(err.Error(), "template: "+name+":")
	var line int
	if _, serr := fmt.Sscanf(msg, "%d:", &line); serr == nil {
		_, msg, _ = strings.Cut(msg, ":")
	}
	return line, strings.TrimSpace(msg)
}

func (l *linter) manifest(f file) {
	docs, err := documents(f.data)
	if err != nil {
		line, msg := yamlLine(f.data, err)
		l.add(true, "yaml-malformed", f.path, line, "the file is not valid YAML: %s", msg)
		return
	}
	for _, d := range docs {
		l.object(f.path, d.root)
	}
}

func (l *linter) object(name string, root *yaml.Node) {
	version, kind := field(root, "apiVersion"), field(root, "kind")
	if version == nil && kind == nil {
		return // values, and other files that are not objects
	}
	if text(version) == "" || text(kind) == "" {
		l.add(true, "object-malformed", name, root.Line, "an object needs both apiVersion and kind")
		return
	}
	l.calico(name, root, text(version), text(kind))
}
