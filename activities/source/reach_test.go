package source

import (
	"os"
	"testing"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// Reach sees what a fetch would, and leaves nothing behind.
func TestReach(t *testing.T) {
	r := newRemote(t, "open sesame")
	head := r.commit("Deny by default", map[string]string{"a.yaml": policy("a")})
	cache := t.TempDir()
	a := New(Config{CacheDir: cache}, secrets{
		"fleet-default/right": {"username": []byte("x"), "password": []byte("open sesame")},
		"fleet-default/wrong": {"username": []byte("x"), "password": []byte("sesame")},
	})
	for name, tc := range map[string]struct {
		source rancher.Source
		want   string
		kind   string
	}{
		"there":          {rancher.Source{Repo: r.url, Branch: "main", ClientSecretName: "right"}, head, ""},
		"no branch":      {rancher.Source{Repo: r.url, Branch: "gone", ClientSecretName: "right"}, "", errs.TypeNotFound},
		"wrong password": {rancher.Source{Repo: r.url, Branch: "main", ClientSecretName: "wrong"}, "", errs.TypeDenied},
		"no password":    {rancher.Source{Repo: r.url, Branch: "main"}, "", errs.TypeDenied},
		"no secret":      {rancher.Source{Repo: r.url, Branch: "main", ClientSecretName: "none"}, "", errs.TypeNotFound},
		"down":           {rancher.Source{Repo: "http://127.0.0.1:1/x", Branch: "main"}, "", errs.TypeUnavailable},
		"a file":         {rancher.Source{Repo: "file:///etc", Branch: "main"}, "", errs.TypeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Reach(t.Context(), a, tc.source, "fleet-default")
			if got != tc.want || errs.TypeOf(err) != tc.kind {
				t.Errorf("got %q, %v; want %q and the type %q", got, err, tc.want, tc.kind)
			}
		})
	}
	left, err := os.ReadDir(cache)
	if err != nil || len(left) != 0 {
		t.Errorf("Reach left %v in the cache (%v)", left, err)
	}
}
