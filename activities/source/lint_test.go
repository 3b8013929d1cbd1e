package source

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.temporal.io/sdk/temporal"
)

func asApp(err error, to **temporal.ApplicationError) bool { return errors.As(err, to) }

func tree(files map[string]string) []file {
	out := make([]file, 0, len(files))
	for name, text := range files {
		out = append(out, file{path: name, data: []byte(text)})
	}
	return out
}

const gnp = `apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: default.x}
spec:
`

func TestLint(t *testing.T) {
	ok := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
	for name, tc := range map[string]struct {
		files map[string]string
		paths []string
		want  []string // "rule line" with a leading ! for errors
	}{
		"clean":             {map[string]string{"p/a.yaml": ok, "p/fleet.yaml": "defaultNamespace: x\n", "README.md": "{{"}, nil, nil},
		"override targets":  {map[string]string{"p/a.yaml": ok, "p/fleet.yaml": "helm: {}\noverrideTargets:\n- clusterSelector: {}\n"}, nil, []string{"!fleet-override-targets 2"}},
		"everything else":   {map[string]string{"p/a.yaml": ok, "p/fleet.yml": "targets: []\nrolloutStrategy: {}\npaused: true\ncorrectDrift: {}\ndependsOn: []\nforceSyncGeneration: 3\nlabels: {fleet.cattle.io/commit: x, mine: y}\n"}, nil, []string{"!fleet-targets 1", "!fleet-rollout-strategy 2", "!fleet-paused 3", "!fleet-force-sync 6", "!fleet-labels 7", "fleet-correct-drift 4", "fleet-depends-on 5"}},
		"customizations":    {map[string]string{"p/a.yaml": ok, "p/fleet.yaml": "targetCustomizations:\n- name: a\n  doNotDeploy: true\n- name: b\n  forceSyncGeneration: 1\n"}, nil, []string{"!fleet-force-sync 5", "fleet-do-not-deploy 3"}},
		"charts":            {map[string]string{"p/fleet.yaml": "helm:\n  repo: https://x\n  chart: y\n", "q/fleet.yaml": "helm:\n  chart: oci://x/y\n  version: 1.2.3\n"}, nil, []string{"!fleet-chart-unpinned 3", "fleet-chart-remote 2"}},
		"outside the paths": {map[string]string{"p/a.yaml": ok, "q/fleet.yaml": "overrideTargets: []\n", "q/b.yaml": "a: [\n"}, []string{"p"}, nil},
		"wildcard paths":    {map[string]string{"p/one/a.yaml": ok, "p/two/b.yaml": "a: [\n"}, []string{"/p/*"}, []string{"!yaml-malformed 1"}},
		"missing path":      {map[string]string{"p/a.yaml": ok}, []string{"p", "absent/deep"}, []string{"!path-missing 0"}},
		"path is a file":    {map[string]string{"p/a.yaml": ok, "f.yaml": ok}, []string{"p", "f.yaml"}, []string{"!path-missing 0"}},
		"empty bundle":      {map[string]string{"p/README.md": "x", "q/a.yaml": ok}, []string{"p", "q"}, []string{"!bundle-empty 0"}},
		"malformed":         {map[string]string{"a.yaml": "a:\n  - b\n   - c\n  d: e\n"}, nil, []string{"!yaml-malformed 4"}},
		"second document":   {map[string]string{"a.yaml": ok + "---\nkind: X\n"}, nil, []string{"!object-malformed 5"}},
		"values":            {map[string]string{"a.yaml": ok, "values.yaml": "a: b\n"}, nil, nil},
		"chart itself":      {map[string]string{"c/Chart.yaml": "apiVersion: v2\nname: c\nversion: 1.0.0\n", "c/templates/a.yaml": "a: {{ .Values.x }}\n"}, nil, nil},
		"template":          {map[string]string{"c/Chart.yaml": "name: c\n", "c/templates/a.yaml": "a: {{ .Values.x | quote }}\n{{- range $i := list 1 2 }}\n  - b\n{{- end }}\n"}, nil, nil},
		"template broken":   {map[string]string{"c/Chart.yaml": "name: c\n", "c/templates/a.yaml": "a: b\nc: {{ .Values.x \n"}, nil, []string{"!template-malformed 3"}},
		"template open":     {map[string]string{"c/Chart.yaml": "name: c\n", "c/templates/_h.tpl": "{{ if .x }}\n"}, nil, []string{"!template-malformed 2"}},
		"plain in a chart":  {map[string]string{"c/Chart.yaml": "name: c\n", "c/templates/a.yaml": "a:\n  - b\n   - c\n  d: e\n"}, nil, []string{"!yaml-malformed 4"}},

		"calico version":  {map[string]string{"a.yaml": "apiVersion: projectcalico.org/v1\nkind: GlobalNetworkPolicy\n"}, nil, []string{"!calico-api-version 1"}},
		"no types":        {map[string]string{"a.yaml": gnp + "  egress:\n  - action: Allow\n"}, nil, []string{"calico-types 5"}},
		"tier":            {map[string]string{"a.yaml": gnp + "  tier: platform\n  types: [Ingress]\n"}, nil, []string{"calico-tier 5", "calico-tier-name 5"}},
		"default tier":    {map[string]string{"a.yaml": gnp + "  tier: default\n  types: [Ingress]\n"}, nil, nil},
		"egress domains":  {map[string]string{"a.yaml": "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkSet\nmetadata: {name: x}\nspec:\n  allowedEgressDomains: [a.example.com]\n"}, nil, []string{"!calico-egress-domains 5"}},
		"flow logs":       {map[string]string{"a.yaml": "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nspec:\n  flowLogsFileEnabled: true\n  flowLogsFlushInterval: 5s\n"}, nil, []string{"!calico-flow-logs 4", "calico-flow-logs 5"}},
		"selectors":       {map[string]string{"a.yaml": gnp + "  selector: app = 'x'\n  types: [Egress]\n  egress:\n  - action: Allow\n    destination: {namespaceSelector: has(a), serviceAccounts: {selector: '(('}}\n"}, nil, []string{"!calico-selector 5", "!calico-selector 9"}},
		"egress source":   {map[string]string{"a.yaml": gnp + "  types: [Egress]\n  egress:\n  - action: Allow\n    source: {selector: all()}\n"}, nil, []string{"calico-egress-source 8"}},
		"other groups":    {map[string]string{"a.yaml": "apiVersion: operator.tigera.io/v1\nkind: Installation\n"}, nil, nil},
		"templated value": {map[string]string{"c/Chart.yaml": "n: c\n", "c/templates/a.yaml": gnp + "  selector: '{{ .x }}'\n"}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range Lint(tree(tc.files), tc.paths) {
				mark := ""
				if f.Error {
					mark = "!"
				}
				got = append(got, fmt.Sprintf("%s%s %d", mark, f.Rule, f.Line))
				if f.Message == "" || f.Path == "" || strings.Contains(f.Message, "\n") {
					t.Errorf("not one line with a place: %+v", f)
				}
			}
			if strings.Join(got, "; ") != strings.Join(tc.want, "; ") {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

func TestLintListsAreBounded(t *testing.T) {
	files := map[string]string{}
	for i := range maxFindings + 50 {
		files[fmt.Sprintf("p/%03d.yaml", i)] = "a: [\n"
	}
	got := Lint(tree(files), nil)
	if len(got) != maxFindings+1 || got[maxFindings].Rule != "findings-cut" {
		t.Errorf("%d findings, the last %+v", len(got), got[len(got)-1])
	}
}

func FuzzLint(f *testing.F) {
	for _, seed := range []string{gnp, "a: &a [*a]\n", "a: &a {b: *a}\n", "{{", "---\n---\n", "overrideTargets: []", "\x00", "? [a]\n: b", "spec: !!binary x"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(_ *testing.T, a, b string) {
		Lint(tree(map[string]string{"p/a.yaml": a, "p/fleet.yaml": b, "p/Chart.yaml": "x", "p/templates/x.yaml": b}), []string{"p"})
		differing([]byte(a), []byte(b))
	})
}
