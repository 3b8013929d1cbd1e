package workflows_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "portcullis.dev/portcullis/"

// rule says what the packages under a folder may import of this module, and,
// where Outside is set, of other modules. The longest matching folder counts.
type rule struct {
	folder string
	// inside are folders of this module; a trailing slash means all below.
	inside []string
	// outside, where not nil, is the closed list of other modules' packages.
	outside []string
	// why is what a person gets to read who breaks it.
	why string
}

var rules = []rule{
	{
		folder: "rancher", inside: []string{"rancher", "rancher/"},
		why: "rancher imports neither probes nor anything above it",
	},
	{
		folder: "probes", inside: []string{"probes", "probes/"},
		why: "probes imports neither rancher nor anything above it",
	},
	{
		folder: "activities", inside: []string{"activities/", "rancher", "rancher/", "probes", "probes/"},
		why: "activities never import workflows or cmd",
	},
	{
		folder: "workflows/contract", inside: []string{"activities/", "rancher", "rancher/drift", "probes", "probes/preflight", "probes/migration"},
		outside: []string{"go.temporal.io/sdk/temporal", "k8s.io/apimachinery/pkg/apis/meta/v1"},
		why:     "contract is a leaf: names, inputs and results",
	},
	{
		// Workflow code proper: it must be deterministic, so that it touches nothing but these.
		folder:  "workflows",
		inside:  []string{"workflows/", "activities/errs", "activities/source", "activities/deliver", "activities/verify", "activities/preflight", "activities/migrate", "activities/slack", "activities/audit", "rancher", "rancher/drift", "probes", "probes/preflight", "probes/migration"},
		outside: []string{"go.temporal.io/sdk/workflow", "go.temporal.io/sdk/temporal", "go.temporal.io/sdk/log", "go.temporal.io/api/enums/v1"},
		why:     "workflow code imports the SDK's workflow, temporal and log, contract, pure packages, and activities for their types",
	},
	{
		// Not workflow code: models of the activities, and recordings.
		folder: "workflows/internal", inside: []string{"workflows/", "activities/", "rancher", "rancher/drift", "probes", "probes/preflight", "probes/migration"},
		why: "test helpers of workflows",
	},
	{
		folder: "cmd", inside: []string{"cmd/", "workflows", "workflows/", "activities/", "rancher", "rancher/", "probes", "probes/", "deploy/rbac"},
		why: "cmd is at the top",
	},
	{
		// What people apply by hand, embedded: data, and a reader for it.
		folder: "deploy/rbac", inside: []string{},
		why: "deploy/rbac has manifests and imports nothing of ours",
	},
}

// register is the one package of workflows that knows the worker.
const register = "workflows"

// banned standard packages in workflow code: they reach for the world or for chance.
var banned = []string{"os", "os/exec", "net", "net/http", "math/rand", "math/rand/v2", "crypto/rand", "sync", "io/ioutil", "log", "log/slog"}

type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
	Module     *struct{ Main bool }
}

func TestImportsGoOneWay(t *testing.T) {
	checked := 0
	for _, p := range list(t) {
		if p.Module == nil || !p.Module.Main || !strings.HasPrefix(p.ImportPath, module) {
			continue
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		r, ok := ruleOf(name)
		if !ok {
			t.Errorf("%s: no rule says what it may import; a new top-level folder needs a reason", name)
			continue
		}
		checked++
		for _, imported := range p.Imports {
			check(t, r, name, imported)
		}
	}
	if checked < 10 {
		t.Errorf("only %d packages were checked", checked)
	}
}

func check(t *testing.T, r rule, name, imported string) {
	t.Helper()
	inside, ok := strings.CutPrefix(imported, module)
	switch {
	case ok:
		if !allowed(r.inside, inside) {
			t.Errorf("%s imports %s: %s", name, inside, r.why)
		}
	case !strings.Contains(strings.SplitN(imported, "/", 2)[0], "."):
		if r.folder == "workflows" && allowed(banned, imported) {
			t.Errorf("%s imports %s: workflow code must be deterministic", name, imported)
		}
	case imported == "go.temporal.io/server" || strings.HasPrefix(imported, "go.temporal.io/server/"):
		t.Errorf("%s imports %s: only portcullis-dev has Temporal's server inside", name, imported)
	case name == register && (imported == "go.temporal.io/sdk/worker" || imported == "go.temporal.io/sdk/activity"):
	case r.outside != nil && !allowed(r.outside, imported):
		t.Errorf("%s imports %s: %s", name, imported, r.why)
	}
}

func ruleOf(name string) (rule, bool) {
	var best rule
	for _, r := range rules {
		if (name == r.folder || strings.HasPrefix(name, r.folder+"/")) && len(r.folder) > len(best.folder) {
			best = r
		}
	}
	return best, best.folder != ""
}

func allowed(list []string, name string) bool {
	for _, a := range list {
		if name == a || strings.HasSuffix(a, "/") && strings.HasPrefix(name, a) {
			return true
		}
	}
	return false
}

// list reads the imports of every package of the root module.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,Standard,Module", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
