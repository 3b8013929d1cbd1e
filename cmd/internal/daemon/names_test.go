package daemon

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// repo is the repository's root, from this package.
const repo = "../../.."

const (
	rulesFile     = repo + "/deploy/prometheus/portcullis.rules.yaml"
	ruleTestsFile = repo + "/deploy/prometheus/portcullis.tests.yaml"
	dashboardFile = repo + "/deploy/grafana/portcullis.json"
	metricsDoc    = repo + "/docs/metrics.md"
)

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func rules(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	data, err := os.ReadFile(rulesFile)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, &file))
	var out []rule
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	require.NotEmpty(t, out)
	return out
}

type panel struct {
	ID      int    `json:"id"`
	Title   string `json:"title"`
	Type    string `json:"type"`
	Targets []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
}

func panels(t *testing.T) []panel {
	t.Helper()
	var board struct {
		Panels []panel `json:"panels"`
	}
	data, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &board))
	require.NotEmpty(t, board.Panels)
	return board.Panels
}

// queries are all expressions of the alerts and of the dashboard, by where they stand.
func queries(t *testing.T) map[string]string {
	out := map[string]string{}
	for _, r := range rules(t) {
		out["alert "+r.Alert] = r.Expr
	}
	for _, p := range panels(t) {
		for i, target := range p.Targets {
			out["panel "+p.Title+" "+string(rune('A'+i))] = target.Expr
		}
	}
	return out
}

var (
	inQuotes    = regexp.MustCompile(`"[^"]*"|'[^']*'`)
	inBraces    = regexp.MustCompile(`\{[^}]*\}`)
	inBrackets  = regexp.MustCompile(`\[[^\]]*\]`)
	labelLists  = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	offsets     = regexp.MustCompile(`\boffset\s+[0-9a-z]+`)
	identifiers = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
)

// metricsIn are the names of metrics in an expression: what is neither a function
// nor an operator, a label or a duration.
func metricsIn(expr string) []string {
	for _, part := range []*regexp.Regexp{inQuotes, inBraces, inBrackets, labelLists, offsets} {
		expr = part.ReplaceAllString(expr, " ")
	}
	var out []string
	for _, word := range identifiers.FindAllString(expr, -1) {
		if strings.HasSuffix(word, "(") {
			continue
		}
		if word = strings.TrimSpace(word); !slices.Contains([]string{"and", "or", "unless", "bool", "sum", "min", "max", "count"}, word) {
			out = append(out, word)
		}
	}
	return out
}

func TestMetricsInAnExpression(t *testing.T) {
	for expr, want := range map[string][]string{
		`histogram_quantile(0.95, sum by (le, phase) (rate(a_bucket{x="y", z=~"b c"}[15m])))`: {"a_bucket"},
		`time() - max by (kind) (a) > 4 * 3600`:                                               {"a"},
		`sum(a unless a offset 1h) > 0 or (absent(b) unless on (x) c)`:                        {"a", "a", "b", "c"},
		`count(sum by (i) (a) == 3) or vector(0)`:                                             {"a"},
	} {
		require.Equal(t, want, metricsIn(expr), expr)
	}
}

var described = regexp.MustCompile(`fqName: "([^"]+)"`)

// exported are the names that a daemon exports: what is registered, what workflows
// write through the SDK, and what the SDK writes itself.
func exported(t *testing.T) (own, foreign map[string]bool) {
	t.Helper()
	own, foreign = map[string]bool{}, map[string]bool{}
	d := newReal(t)
	found := make(chan *prometheus.Desc, 1000)
	for _, c := range append(d.parts.Collectors, d.world, d.health.up, d.metrics.activities.failures) {
		c.Describe(found)
	}
	close(found)
	for desc := range found {
		own[described.FindStringSubmatch(desc.String())[1]] = true
	}
	for name := range gather(t, d) {
		if strings.HasPrefix(name, "portcullis_") {
			own[name] = true
		} else {
			foreign[name] = true
		}
	}
	written := regexp.MustCompile(`\.\s*(Counter|Timer|Gauge)\("(portcullis_[a-z_]+)"\)`)
	for _, m := range grep(t, filepath.Join(repo, "workflows"), written) {
		own[exporterName(m[1], m[2])] = true
	}
	sdk := grep(t, filepath.Join(moduleDir(t, "go.temporal.io/sdk"), "internal", "common", "metrics"), regexp.MustCompile(`([A-Z]\w+)\s+= \w+ \+ "_?([a-z_]+)"`))
	for _, m := range sdk {
		for _, prefix := range []string{"temporal_", "temporal_request_", "temporal_long_request_"} {
			for _, kind := range []string{"Counter", "Timer", "Gauge"} {
				foreign[exporterName(kind, prefix+m[2])] = true
			}
		}
	}
	return own, foreign
}

// exporterName is what the exporter makes of a name.
func exporterName(kind, name string) string {
	switch kind {
	case "Counter":
		return strings.TrimSuffix(name, "_total") + "_total"
	case "Timer":
		return name + "_seconds"
	}
	return name
}

func grep(t *testing.T, dir string, what *regexp.Regexp) [][]string {
	t.Helper()
	var out [][]string
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		out = append(out, what.FindAllStringSubmatch(string(data), -1)...)
		return err
	}))
	require.NotEmpty(t, out, dir)
	return out
}

func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// felix are the metrics that Felix of open-source Calico registers, from its source.
func felix(t *testing.T) map[string]bool {
	out := map[string]bool{}
	for _, m := range grep(t, filepath.Join(moduleDir(t, "github.com/projectcalico/calico"), "felix"), regexp.MustCompile(`Name:\s*"(felix_[a-z0-9_]+)"`)) {
		out[m[1]] = true
	}
	return out
}

// The dashboard and the alerts use only names that Portcullis, the SDK in it and
// open-source Calico really export.
func TestDashboardAndAlertsUseOnlyWhatIsExported(t *testing.T) {
	own, foreign := exported(t)
	known := func(name string) bool {
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			base := strings.TrimSuffix(name, suffix)
			if own[base] || foreign[base] {
				return true
			}
		}
		return false
	}
	calico := felix(t)
	for where, expr := range queries(t) {
		names := metricsIn(expr)
		require.NotEmpty(t, names, where)
		for _, name := range names {
			require.True(t, known(name) || calico[name], "%s: nothing exports %s", where, name)
		}
	}
	require.False(t, known("portcullis_made_up"))
	// Names that articles give to open-source Calico, which has no such thing.
	require.False(t, calico["calico_denied_packets_total"])
}

// Every metric of Portcullis is in the documentation, and nothing else is.
func TestEveryMetricIsDocumented(t *testing.T) {
	own, _ := exported(t)
	data, err := os.ReadFile(metricsDoc)
	require.NoError(t, err)
	documented := map[string]bool{}
	for _, name := range regexp.MustCompile("`(portcullis_[a-z_]+)`").FindAllStringSubmatch(string(data), -1) {
		documented[name[1]] = true
		require.True(t, own[name[1]], "docs/metrics.md has %s, which nothing exports", name[1])
	}
	for name := range own {
		require.True(t, documented[name], "docs/metrics.md lacks %s", name)
	}
}

// Each alert has a runbook page, a test in which it fires, and a word on how urgent it is.
func TestEachAlertHasItsRunbookAndItsTest(t *testing.T) {
	tests, err := os.ReadFile(ruleTestsFile)
	require.NoError(t, err)
	pages := map[string]bool{"README.md": true}
	for _, r := range rules(t) {
		require.Contains(t, []string{"page", "ticket"}, r.Labels["severity"], r.Alert)
		require.NotEmpty(t, r.Annotations["summary"], r.Alert)
		require.Equal(t, "docs/runbooks/"+r.Alert+".md", r.Annotations["runbook"])
		pages[r.Alert+".md"] = true
		page, err := os.ReadFile(filepath.Join(repo, r.Annotations["runbook"]))
		require.NoError(t, err)
		for _, section := range []string{"# " + r.Alert + "\n", "## What it means", "## How to look", "## What to do"} {
			require.Contains(t, string(page), section, r.Alert)
		}
		require.Regexp(t, `(?m)alertname: `+r.Alert+`(, exp_alerts| *\n +exp_alerts)`, string(tests), "no test in which it fires")
		require.Regexp(t, `alertname: `+r.Alert+`\}`, string(tests), "no test in which it is silent")
	}
	files, err := os.ReadDir(filepath.Join(repo, "docs", "runbooks"))
	require.NoError(t, err)
	for _, f := range files {
		require.True(t, pages[f.Name()], "docs/runbooks/%s is of no alert", f.Name())
	}
}

func TestTheDashboardIsWhole(t *testing.T) {
	seen := map[int]bool{}
	for _, p := range panels(t) {
		require.False(t, seen[p.ID], "two panels have the ID %d", p.ID)
		seen[p.ID] = true
		require.NotEmpty(t, p.Title)
		require.Equal(t, p.Type == "row", len(p.Targets) == 0, p.Title)
	}
}
