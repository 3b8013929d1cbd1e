package gitd

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func newRepo(t *testing.T) (Repo, *httptest.Server) {
	t.Helper()
	if _, err := findBackend(); err != nil {
		t.Skip(err)
	}
	root := t.TempDir()
	r := Repo{Bare: filepath.Join(root, "policies.git"), Work: filepath.Join(t.TempDir(), "work")}
	if err := r.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := Handler(root, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return r, srv
}

func commit(t *testing.T, r Repo, tree map[string]string) string {
	t.Helper()
	b := map[string][]byte{}
	for k, v := range tree {
		b[k] = []byte(v)
	}
	sha, err := r.Commit(t.Context(), "change", b)
	if err != nil {
		t.Fatal(err)
	}
	return sha
}

func TestCloneSeesWhatWasCommitted(t *testing.T) {
	r, srv := newRepo(t)
	first := commit(t, r, map[string]string{"a/one": "1", "two": "2"})
	second := commit(t, r, map[string]string{"two": "3"})
	if len(first) != 40 || first == second {
		t.Fatalf("commits %q and %q", first, second)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	run(t, "", "clone", "--quiet", srv.URL+"/policies.git", clone)
	if got := strings.TrimSpace(run(t, clone, "rev-parse", "HEAD")); got != second {
		t.Errorf("clone is at %s, want %s", got, second)
	}
	if b, err := os.ReadFile(filepath.Join(clone, "two")); err != nil || string(b) != "3" {
		t.Errorf("two: %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(clone, "a")); !os.IsNotExist(err) {
		t.Error("a file that the tree has no more is still there")
	}
	run(t, clone, "checkout", "--quiet", first)
}

func TestSameTreeIsANewCommit(t *testing.T) {
	r, _ := newRepo(t)
	tree := map[string]string{"a": "1"}
	if a, b := commit(t, r, tree), commit(t, r, tree); a == b {
		t.Error("no new commit")
	}
}

func TestCommitGoesOnFromWhatIsServed(t *testing.T) {
	r, srv := newRepo(t)
	commit(t, r, map[string]string{"a": "1"})
	other := Repo{Bare: r.Bare, Work: filepath.Join(t.TempDir(), "other")}
	if err := other.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	commit(t, other, map[string]string{"a": "2"})
	commit(t, r, map[string]string{"a": "3"})
	clone := filepath.Join(t.TempDir(), "clone")
	run(t, "", "clone", "--quiet", srv.URL+"/policies.git", clone)
	if n := strings.TrimSpace(run(t, clone, "rev-list", "--count", "HEAD")); n != "3" {
		t.Errorf("history has %s commits, want 3", n)
	}
}

func TestFetchOnly(t *testing.T) {
	r, srv := newRepo(t)
	commit(t, r, map[string]string{"a": "1"})
	for _, c := range []struct{ method, path string }{
		{http.MethodGet, "/policies.git/info/refs?service=git-receive-pack"},
		{http.MethodPost, "/policies.git/git-receive-pack"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, srv.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s %s: %d, want 403", c.method, c.path, res.StatusCode)
		}
	}
}

func TestCreateKeepsWhatIsThere(t *testing.T) {
	r, _ := newRepo(t)
	sha := commit(t, r, map[string]string{"a": "1"})
	if err := r.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	if head, err := r.Head(t.Context()); err != nil || head != sha {
		t.Errorf("head is %s, %v; want %s", head, err, sha)
	}
}

func TestPathsStayInside(t *testing.T) {
	if err := write(t.TempDir(), map[string][]byte{"../x": nil}); err == nil {
		t.Error("a path out of the repository is written")
	}
}

func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return string(out)
}
