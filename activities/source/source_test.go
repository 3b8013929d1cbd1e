package source

import (
	"context"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.temporal.io/sdk/temporal"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// remote is a real repository behind Git's own HTTP server.
type remote struct {
	t    *testing.T
	work string
	url  string
}

const secretPassword = "open-sesame"

func newRemote(t *testing.T, password string) *remote {
	t.Helper()
	core, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Skip("git is not installed")
	}
	root := t.TempDir()
	r := &remote{t: t, work: filepath.Join(root, "tree")}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(core)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, got, _ := req.BasicAuth(); password != "" && got != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, req)
	}))
	t.Cleanup(srv.Close)
	r.url = srv.URL + "/tree/.git"
	if err := os.Mkdir(r.work, 0o700); err != nil {
		t.Fatal(err)
	}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r *remote) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = r.work
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files (an empty text removes one) and returns the commit.
func (r *remote) commit(message string, files map[string]string) string {
	r.t.Helper()
	for name, text := range files {
		path := filepath.Join(r.work, name)
		if text == "" {
			r.git("rm", "-q", name)
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", message)
	return r.git("rev-parse", "HEAD")
}

func (r *remote) source() rancher.Source { return rancher.Source{Repo: r.url, Branch: "main"} }

type secrets map[string]map[string][]byte

func (s secrets) ReadSecret(_ context.Context, namespace, name string) (map[string][]byte, error) {
	if data, ok := s[namespace+"/"+name]; ok {
		return data, nil
	}
	return nil, &rancher.Error{Kind: rancher.KindNotFound, Message: "reading Secret " + namespace + "/" + name + ": not found"}
}

func policy(name string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: " + name + ", namespace: shop}\nspec: {podSelector: {}}\n"
}

func TestResolve(t *testing.T) {
	r := newRemote(t, "")
	first := r.commit("Deny by default\n\nBecause.", map[string]string{"a.yaml": policy("a")})
	r.git("tag", "light", first)
	r.git("tag", "-a", "-m", "x", "v1", first)
	second := r.commit("Allow DNS", map[string]string{"b.yaml": policy("b")})
	r.git("branch", "both", second)
	r.git("tag", "both", first)
	r.git("checkout", "-q", "-b", "feature")
	aside := r.commit("Aside", map[string]string{"c.yaml": policy("c")})
	r.git("checkout", "-q", "main")
	a := New(Config{CacheDir: t.TempDir()}, secrets{})
	for name, tc := range map[string]struct {
		ref, want string
		kind      string
		says      []string
	}{
		"head of the branch":   {"", second, "", nil},
		"branch by name":       {"main", second, "", nil},
		"full commit":          {first, first, "", nil},
		"upper case":           {strings.ToUpper(first), first, "", nil},
		"annotated tag":        {"v1", first, "", nil},
		"light tag":            {"light", first, "", nil},
		"not there":            {strings.Repeat("d", 40), "", errs.TypeNotFound, []string{"is not in http"}},
		"no such name":         {"nope", "", errs.TypeNotFound, []string{"revision nope is not in"}},
		"not on the branch":    {aside, "", errs.TypeInvalid, []string{"is not on branch main of", "it is on feature"}},
		"branch not on branch": {"feature", "", errs.TypeInvalid, []string{"feature (" + aside + ")", "it is on feature"}},
		"short":                {first[:8], "", errs.TypeInvalid, []string{first, "give the full commit"}},
		"tag and branch":       {"both", "", errs.TypeInvalid, []string{"both a tag", "give the full commit"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := a.Resolve(t.Context(), ResolveInput{Source: r.source(), Ref: tc.ref, Namespace: "ns"})
			if errs.TypeOf(err) != tc.kind {
				t.Fatalf("got %v", err)
			}
			for _, s := range tc.says {
				if !strings.Contains(errs.Message(err), s) {
					t.Errorf("%q is not in %q", s, errs.Message(err))
				}
			}
			if tc.want != "" && (got.Commit != tc.want || got.Author != "Ada" || got.Email != "ada@example.com" || strings.Contains(got.Subject, "\n")) {
				t.Errorf("got %+v", got)
			}
		})
	}
	t.Run("a new commit and a branch that went", func(t *testing.T) {
		third := r.commit("More", map[string]string{"d.yaml": policy("d")})
		r.git("branch", "-D", "feature")
		got, err := a.Resolve(t.Context(), ResolveInput{Source: r.source()})
		if err != nil || got.Commit != third {
			t.Errorf("got %+v, %v", got, err)
		}
		if _, err := a.Resolve(t.Context(), ResolveInput{Source: r.source(), Ref: "feature"}); errs.TypeOf(err) != errs.TypeNotFound {
			t.Errorf("a branch that went: %v", err)
		}
	})
	t.Run("no such branch", func(t *testing.T) {
		src := r.source()
		src.Branch = "trunk"
		if _, err := a.Resolve(t.Context(), ResolveInput{Source: src}); errs.TypeOf(err) != errs.TypeNotFound {
			t.Errorf("got %v", err)
		}
	})
}

func TestAccess(t *testing.T) {
	r := newRemote(t, secretPassword)
	head := r.commit("One", map[string]string{"a.yaml": policy("a")})
	known := secrets{
		"ns/good":  {"username": []byte("git"), "password": []byte(secretPassword)},
		"ns/bad":   {"username": []byte("git"), "password": []byte("wrong-password")},
		"ns/empty": {},
		"ns/ssh":   {"ssh-privatekey": []byte("not a key"), "known_hosts": []byte("x")},
		"ns/keys":  {"ssh-privatekey": []byte("not a key")},
	}
	a := New(Config{CacheDir: t.TempDir()}, known)
	for name, tc := range map[string]struct{ repo, secret, kind, says string }{
		"good":             {r.url, "good", "", ""},
		"wrong password":   {r.url, "bad", errs.TypeDenied, "Secret bad"},
		"no credentials":   {r.url, "", errs.TypeDenied, "none are configured"},
		"no Secret":        {r.url, "absent", errs.TypeNotFound, "ns/absent"},
		"empty Secret":     {r.url, "empty", errs.TypeInvalid, "neither username nor password"},
		"no repository":    {strings.Replace(r.url, "/tree/", "/other/", 1), "good", errs.TypeNotFound, "is not a repository"},
		"server down":      {"http://127.0.0.1:1/x.git", "good", errs.TypeUnavailable, "connection refused"},
		"password in URL":  {"https://u:hidden@git.example.com/x", "", errs.TypeInvalid, "user information"},
		"local file":       {"file:///etc", "", errs.TypeInvalid, "https, http or ssh"},
		"path":             {"/etc", "", errs.TypeInvalid, "https, http or ssh"},
		"ssh without key":  {"git@git.example.com:a/b.git", "", errs.TypeInvalid, "needs an SSH key"},
		"ssh without host": {"ssh://git@git.example.com/a/b.git", "keys", errs.TypeInvalid, "known_hosts"},
		"ssh with bad key": {"ssh://git@git.example.com/a/b.git", "ssh", errs.TypeInvalid, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := rancher.Source{Repo: tc.repo, Branch: "main", ClientSecretName: tc.secret}
			got, err := a.Resolve(t.Context(), ResolveInput{Source: src, Namespace: "ns"})
			if errs.TypeOf(err) != tc.kind || !strings.Contains(errs.Message(err), tc.says) {
				t.Fatalf("got %v", err)
			}
			if tc.kind == "" && got.Commit != head {
				t.Errorf("got %+v", got)
			}
			for _, hidden := range []string{"hidden", "wrong-password", secretPassword, "not a key", "\n"} {
				if err != nil && strings.Contains(err.Error(), hidden) {
					t.Errorf("not one clean line: %q", err)
				}
			}
		})
	}
}

func TestUntrustedServer(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	a := New(Config{CacheDir: t.TempDir()}, secrets{})
	_, err := a.Resolve(t.Context(), ResolveInput{Source: rancher.Source{Repo: srv.URL + "/x.git", Branch: "main"}})
	if errs.TypeOf(err) != errs.TypeUntrusted || !strings.Contains(errs.Message(err), "git.caFile") {
		t.Errorf("got %v", err)
	}
}

func TestInspectChanges(t *testing.T) {
	r := newRemote(t, "")
	first := r.commit("One", map[string]string{"p/a.yaml": policy("a") + "---\n" + policy("b"), "p/gone.yaml": policy("gone"), "elsewhere.yaml": policy("x")})
	second := r.commit("Two", map[string]string{"p/a.yaml": policy("a") + "---\n" + strings.Replace(policy("b"), "{}", "{matchLabels: {a: b}}", 1), "p/gone.yaml": "", "p/new.yaml": policy("new"), "elsewhere.yaml": policy("y")})
	a := New(Config{CacheDir: t.TempDir()}, secrets{})
	src := r.source()
	src.Paths = []string{"p"}
	missing := strings.Repeat("e", 40)
	got, err := a.Inspect(t.Context(), InspectInput{Source: src, Commit: second, Since: []string{first, "", second, missing}})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range got.Changes[first] {
		lines = append(lines, c.Kind+" "+c.Path+" "+strings.Join(c.Objects, ","))
	}
	want := []string{"modified p/a.yaml NetworkPolicy/shop/b", "removed p/gone.yaml NetworkPolicy/shop/gone", "added p/new.yaml NetworkPolicy/shop/new"}
	if !slices.Equal(lines, want) {
		t.Errorf("got %q", lines)
	}
	if len(got.Changes[second]) != 0 || len(got.Findings) != 1 || got.Findings[0].Rule != "since-missing" {
		t.Errorf("got %+v", got)
	}
	_, err = a.Inspect(t.Context(), InspectInput{Source: src, Commit: missing})
	if errs.TypeOf(err) != errs.TypeNotFound {
		t.Errorf("got %v", err)
	}
	var app *temporal.ApplicationError
	if !asApp(err, &app) || !app.NonRetryable() {
		t.Error("a missing revision would be retried")
	}
}

func TestCacheThatBrokeIsMadeAnew(t *testing.T) {
	r := newRemote(t, "")
	head := r.commit("One", map[string]string{"a.yaml": policy("a")})
	cache := t.TempDir()
	a := New(Config{CacheDir: cache}, secrets{})
	if _, err := a.Resolve(t.Context(), ResolveInput{Source: r.source()}); err != nil {
		t.Fatal(err)
	}
	clones, err := filepath.Glob(filepath.Join(cache, "*.git"))
	if err != nil || len(clones) != 1 {
		t.Fatalf("clones: %v, %v", clones, err)
	}
	if err := os.WriteFile(filepath.Join(clones[0], "config"), []byte("[broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := a.Resolve(t.Context(), ResolveInput{Source: r.source()})
	if err != nil || got.Commit != head {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestTwoAtOnce(t *testing.T) {
	r := newRemote(t, "")
	r.commit("One", map[string]string{"a.yaml": policy("a")})
	cache := t.TempDir()
	failed := make(chan error, 6)
	for range 6 {
		a := New(Config{CacheDir: cache}, secrets{}) // as in several daemons
		go func() {
			_, err := a.Resolve(t.Context(), ResolveInput{Source: r.source()})
			failed <- err
		}()
	}
	for range 6 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}
