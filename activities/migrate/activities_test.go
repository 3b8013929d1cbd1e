package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/migration/manifest"
)

// Calico's own manifests, where its module is at hand: all the way, back from every step, and
// all the way again.
func TestPublishedManifests(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/projectcalico/calico").Output()
	dir := filepath.Join(strings.TrimSpace(string(out)), "manifests")
	if _, missing := os.Stat(filepath.Join(dir, "canal.yaml")); err != nil || missing != nil {
		t.Skip("the module with Calico's manifests is not at hand")
	}
	text, err := os.ReadFile(filepath.Join(dir, "calico-vxlan.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	packed, err := manifest.Pack(text)
	if err != nil {
		t.Fatal(err)
	}
	canal := load(t, filepath.Join(dir, "canal.yaml"))
	synctest.Test(t, func(t *testing.T) {
		w := worldOf(t, 2, canal)
		request := func(d deed) StepInput {
			in := at(t, d.step, d.node)
			if d.step == migration.Begin {
				in.Manifest = packed
			}
			return in
		}
		all := course(2)
		start := w.snapshot()
		was := []*world{w.clone()}
		for _, d := range all {
			if _, err := w.activities(t).Do(t.Context(), request(d)); err != nil {
				t.Fatalf("do %s: %v", d, err)
			}
			was = append(was, w.clone())
		}
		back := reversible(all)
		w = was[len(back)].clone()
		for i := len(back) - 1; i >= 0; i-- {
			if _, err := w.activities(t).Undo(t.Context(), request(back[i])); err != nil {
				t.Fatalf("undo %s: %v", back[i], err)
			}
		}
		mustBe(t, "there and back", without(start, evicted(back)), w)
		for name := range was[len(all)].nodes {
			if d := was[len(all)].vxlan(name); d == nil || d.MTU != podMTU {
				t.Errorf("%s has %+v", name, d)
			}
		}
		for _, u := range was[len(all)].of("DaemonSet") {
			if u.GetName() != calicoDaemonSet || strings.Contains(string(mustJSON(t, u.Object)), labelCNI) {
				t.Errorf("%s is left: %s", u.GetName(), mustJSON(t, clean(u).Object))
			}
		}
	})
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// All attempts of an activity have one time limit together, and each says what it waits for.
func TestAttemptsShareTheirTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.shut[migratorName] = true
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	var beats []Progress
	env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var p Progress
		if details.Get(&p) == nil {
			beats = append(beats, p)
		}
	})
	started := time.Now().Add(-time.Hour)
	env.SetHeartbeatDetails(Progress{StartedAt: started})
	a := w.activities(t)
	env.RegisterActivity(a.Do)
	begun := time.Now()
	_, err := env.ExecuteActivity(a.Do, at(t, migration.Begin, ""))
	if errs.TypeOf(err) != errs.TypeDeadline || !strings.Contains(err.Error(), "migrator: not within 1m0s: the migrator on n0") || time.Since(begun) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
	if len(beats) == 0 || !beats[0].StartedAt.Equal(started) || beats[0].Phase != string(migration.Begin) {
		t.Errorf("%+v", beats)
	}
}

// A step that is cancelled ends at once, and says no more than that.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.shut[migratorName] = true
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		begun := time.Now()
		for _, call := range []func(context.Context, StepInput) (*StepResult, error){w.activities(t).Do, w.activities(t).Undo} {
			if _, err := call(ctx, at(t, migration.Begin, "")); !errors.Is(err, context.Canceled) || time.Since(begun) > 4*time.Second {
				t.Errorf("%v after %s", err, time.Since(begun))
			}
		}
	})
}

func FuzzOneLine(f *testing.F) {
	f.Add("a\nb")
	f.Add(strings.Repeat("ä", maxMessage))
	f.Add("\xff\xfe")
	f.Fuzz(func(t *testing.T, s string) {
		out := oneLine(s)
		if strings.ContainsAny(out, "\n\r\t") || len(out) > maxMessage+len("…") || utf8.ValidString(s) && !utf8.ValidString(out) {
			t.Errorf("%q", out)
		}
	})
}
