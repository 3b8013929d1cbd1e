package component

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHashSources(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sum := func() string {
		t.Helper()
		h := sha256.New()
		if err := hashSources(h, dir); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", h.Sum(nil))
	}
	if err := hashSources(sha256.New(), dir); err == nil {
		t.Error("an empty folder was hashed")
	}
	put("go.mod", "module m")
	first := sum()
	put("README", "not a source")
	if sum() != first {
		t.Error("a file that is no source changed the hash")
	}
	put("main.go", "package main")
	if sum() == first {
		t.Error("a new source did not change the hash")
	}
}

func TestKubernetesReportsItsVersion(t *testing.T) {
	for _, want := range []string{"version.gitVersion=" + KubernetesVersion, "gitMajor=1 ", "gitMinor=30 "} {
		if !strings.Contains(kubernetesVersionFlags()+" ", want) {
			t.Errorf("flags %q lack %q", kubernetesVersionFlags(), want)
		}
	}
}
