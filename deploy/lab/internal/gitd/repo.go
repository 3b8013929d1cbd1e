package gitd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Branch is the only branch of a new repository.
const Branch = "main"

// gitWithin bounds one git command; all of them work on local disk.
const gitWithin = 30 * time.Second

// Repo is a bare repository and a work clone of it.
type Repo struct {
	// Bare is what is served; Work is where commits are made.
	Bare, Work string
}

// Create makes the bare repository and its clone where they are not there yet.
func (r Repo) Create(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(r.Bare, "HEAD")); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(r.Bare), 0o755); err != nil {
			return err
		}
		if _, err := git(ctx, "", "init", "--quiet", "--bare", "--initial-branch="+Branch, r.Bare); err != nil {
			return err
		}
		// As hosted Git servers do: a commit may be fetched by its name alone.
		if _, err := git(ctx, r.Bare, "config", "uploadpack.allowReachableSHA1InWant", "true"); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(r.Work, ".git")); errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(r.Work); err != nil {
			return err
		}
		if _, err := git(ctx, "", "clone", "--quiet", r.Bare, r.Work); err != nil {
			return err
		}
	}
	return nil
}

// Head is the commit at the end of the branch, or "" in an empty repository.
func (r Repo) Head(ctx context.Context) (string, error) {
	out, err := git(ctx, r.Bare, "for-each-ref", "--format=%(objectname)", "refs/heads/"+Branch)
	return strings.TrimSpace(out), err
}

// Commit makes the whole content of the repository equal to tree, on top of the
// branch as it is served, and returns the new commit. A commit is made even
// where nothing changes.
func (r Repo) Commit(ctx context.Context, message string, tree map[string][]byte) (string, error) {
	head, err := r.Head(ctx)
	if err != nil {
		return "", err
	}
	if head != "" {
		for _, args := range [][]string{
			{"fetch", "--quiet", "origin"},
			{"checkout", "--quiet", "--force", "-B", Branch, "origin/" + Branch},
		} {
			if _, err := git(ctx, r.Work, args...); err != nil {
				return "", err
			}
		}
		if _, err := git(ctx, r.Work, "rm", "-r", "--quiet", "--ignore-unmatch", "."); err != nil {
			return "", err
		}
	}
	if err := write(r.Work, tree); err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"add", "--all"},
		{"commit", "--quiet", "--allow-empty", "-m", message},
		{"push", "--quiet", "origin", "HEAD:" + Branch},
	} {
		if _, err := git(ctx, r.Work, args...); err != nil {
			return "", err
		}
	}
	return r.Head(ctx)
}

func write(dir string, tree map[string][]byte) error {
	for p, b := range tree {
		if !filepath.IsLocal(filepath.FromSlash(p)) {
			return fmt.Errorf("path %q leaves the repository", p)
		}
		name := filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// git runs git apart from the settings of whoever runs the lab.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=Platform", "GIT_AUTHOR_EMAIL=platform@example.com",
		"GIT_COMMITTER_NAME=Platform", "GIT_COMMITTER_EMAIL=platform@example.com",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}
