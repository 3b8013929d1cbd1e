package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// basePackages are what Calico's and Fleet's images run besides their own programs.
var basePackages = []string{
	"bash", "ca-certificates", "conntrack", "coreutils", "findutils", "grep", "iproute2", "ipset", "iptables",
	"kmod", "mawk", "netbase", "procps", "runit", "sed", "tini",
}

// dropped is what no program of the lab reads: the content of folders, where
// there is a slash at the end, and else everything that begins so.
var dropped = []string{
	"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/perl", "usr/share/i18n/",
	"usr/share/bash-completion/", "usr/share/zoneinfo/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/x86_64-linux-gnu/perl",
	"usr/lib/locale/", "usr/bin/perl", "var/cache/", "var/lib/apt/", "var/lib/dpkg/", "var/log/", "dev/", "proc/", "sys/", "run/",
}

// links are what Debian's alternatives and a merged /usr would have made.
func links() []File {
	fs := []File{
		{Path: "bin/sh", Link: "bash"},
		{Path: "usr/bin/which", Link: "which.debianutils"},
		{Path: "usr/bin/awk", Link: "mawk"},
		{Path: "usr/bin/bash", Link: "/bin/bash"},
	}
	for _, fam := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			fs = append(fs, File{Path: "usr/sbin/" + fam + verb, Link: "xtables-nft-multi"})
		}
	}
	return fs
}

// BaseLayer is a Debian root from packages, made once with mmdebstrap and kept in cache.
func BaseLayer(ctx context.Context, cache string, log func(string, ...any)) (Layer, error) {
	recipe := sha256.Sum256(fmt.Append(nil, basePackages, dropped, links(), "v2"))
	dir := filepath.Join(cache, "layers")
	note := filepath.Join(cache, "base-"+hex.EncodeToString(recipe[:])[:12])
	if sum, err := os.ReadFile(note); err == nil {
		path := filepath.Join(dir, string(sum))
		if fi, err := os.Stat(path); err == nil {
			return Layer{Digest: "sha256:" + string(sum), Size: fi.Size(), Path: path}, nil
		}
	}
	log("making the base image from Debian packages")
	raw, err := os.CreateTemp(cache, ".base-*.tar")
	if err != nil {
		return Layer{}, err
	}
	defer os.Remove(raw.Name())
	defer raw.Close()
	// Unpacked and not configured: nothing of it is run by a shell of its own.
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--variant=extract", "--include="+strings.Join(basePackages, ","), "--format=tar", "bookworm", "-")
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = raw, &stderr
	if err := cmd.Run(); err != nil {
		return Layer{}, fmt.Errorf("mmdebstrap: %w: %s", err, tail(stderr.String()))
	}
	if _, err := raw.Seek(0, io.SeekStart); err != nil {
		return Layer{}, err
	}
	l, err := writeLayer(dir, func(t *tar.Writer) error { return filterBase(t, raw) })
	if err != nil {
		return Layer{}, err
	}
	return l, os.WriteFile(note, []byte(strings.TrimPrefix(l.Digest, "sha256:")), 0o644)
}

func filterBase(out *tar.Writer, in io.Reader) error {
	replaced := map[string]bool{}
	for _, l := range links() {
		replaced[l.Path] = true
	}
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(h.Name, "./")
		if name == "" || replaced[name] || unwanted(name) {
			continue
		}
		h.Name = name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimPrefix(h.Linkname, "./")
			if unwanted(h.Linkname) {
				continue
			}
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, r); err != nil {
			return err
		}
	}
	for _, l := range links() {
		if err := entry(out, map[string]bool{}, l); err != nil {
			return err
		}
	}
	return nil
}

func unwanted(name string) bool {
	for _, d := range dropped {
		if strings.HasPrefix(name, d) && (name != d || !strings.HasSuffix(d, "/")) {
			return true
		}
	}
	return false
}

func tail(s string) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(l[max(0, len(l)-5):], " | ")
}
