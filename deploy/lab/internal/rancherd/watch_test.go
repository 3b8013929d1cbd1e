package rancherd

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

func TestReportWritesChangesAndRepeatsThemRarely(t *testing.T) {
	var patches []string
	code := http.StatusOK
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPatch || r.URL.Path != "/apis/management.cattle.io/v3/clusters/c-1/status" {
			t.Errorf("unexpected %s %s", r.Method, r.URL.Path)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		if code != http.StatusOK {
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
			return
		}
		patches = append(patches, string(b))
		_, _ = io.WriteString(w, `{"apiVersion":"management.cattle.io/v3","kind":"Cluster","metadata":{"name":"c-1"}}`)
	}))
	defer api.Close()
	mgmt, err := dynamic.NewForConfig(&rest.Config{Host: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]reported{}
	step := func(probeErr error, want int) {
		t.Helper()
		if err := report(t.Context(), mgmt, "c-1", probeErr, last); err != nil {
			t.Fatal(err)
		}
		if len(patches) != want {
			t.Fatalf("%d writes, want %d", len(patches), want)
		}
	}
	step(nil, 1)
	step(nil, 1)
	step(errors.New("no route"), 2)
	if p := patches[1]; !strings.Contains(p, `"False"`) || !strings.Contains(p, "no route") {
		t.Errorf("written: %s", p)
	}
	last["c-1"] = reported{state: "no route", since: time.Unix(0, 0), at: time.Now().Add(-2 * reportEvery)}
	step(errors.New("no route"), 3)
	if p := patches[2]; !strings.Contains(p, "1970-01-01T00:00:00Z") {
		t.Errorf("a repeated state looks new: %s", p)
	}
	code = http.StatusNotFound
	step(nil, 3)
}
