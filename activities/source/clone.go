package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

const (
	// fetchTimeout bounds one fetch with all its retries.
	fetchTimeout = 2 * time.Minute
	// lockTimeout bounds waiting for another process that fetches the same repository.
	lockTimeout = 3 * time.Minute
	lockRetry   = 100 * time.Millisecond
)

// clone is a bare mirror of one repository, locked for this caller.
type clone struct {
	repo   *git.Repository
	source rancher.Source
	auth   transport.AuthMethod
	via    *Activities
	unlock func()
}

func (c *clone) close() { c.unlock() }

// shown is the repository's URL as it may be told.
func (c *clone) shown() string { return rancher.RedactURL(c.source.Repo) }

func (a *Activities) open(ctx context.Context, src rancher.Source, namespace string) (*clone, error) {
	if err := checkURL(src.Repo); err != nil {
		return nil, err
	}
	auth, err := a.credentials(ctx, src, namespace)
	if err != nil {
		return nil, err
	}
	if a.cfg.CacheDir == "" {
		return nil, errs.Invalid("git.cacheDir is empty; name a directory for clones")
	}
	sum := sha256.Sum256([]byte(src.Repo))
	dir := filepath.Join(a.cfg.CacheDir, hex.EncodeToString(sum[:16])+".git")
	if err := os.MkdirAll(a.cfg.CacheDir, 0o700); err != nil {
		return nil, errs.Unavailable("cannot make the Git cache %s: %v", a.cfg.CacheDir, reason(err))
	}
	unlock, err := a.lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	repo, err := openMirror(dir)
	if err != nil {
		unlock()
		return nil, errs.Unavailable("cannot open the clone of %s in %s: %v", rancher.RedactURL(src.Repo), dir, err)
	}
	return &clone{repo: repo, source: src, auth: auth, via: a, unlock: unlock}, nil
}

// openMirror opens a bare clone or makes an empty one. What cannot be opened (a
// write cut short) is made anew: it is only a cache.
func openMirror(dir string) (*git.Repository, error) {
	repo, err := git.PlainOpen(dir)
	if err == nil {
		return repo, nil
	}
	if !errors.Is(err, git.ErrRepositoryNotExists) {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	return git.PlainInit(dir, true)
}

// lock takes the directory for this goroutine and this process.
func (a *Activities) lock(ctx context.Context, dir string) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	held, _ := a.locks.LoadOrStore(dir, make(chan struct{}, 1))
	turn, ok := held.(chan struct{})
	if !ok {
		return nil, errs.Failed("the lock of %s is of an unknown kind", dir)
	}
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, errs.Unavailable("the clone in %s is busy", dir)
	}
	file, err := lockFile(ctx, dir+".lock")
	if err != nil {
		<-turn
		return nil, err
	}
	return func() {
		_ = file.Close() // closing gives the lock up
		<-turn
	}, nil
}

func lockFile(ctx context.Context, path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errs.Unavailable("cannot lock the Git cache: %v", reason(err))
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = file.Close()
			return nil, errs.Unavailable("cannot lock the Git cache %s: %v", path, err)
		}
		t := time.NewTimer(lockRetry)
		select {
		case <-ctx.Done():
			t.Stop()
			_ = file.Close()
			return nil, errs.Unavailable("the Git cache %s is busy with another process", path)
		case <-t.C:
		}
	}
}

// checkURL refuses what would read this machine's files, and credentials that
// would end up in workflow histories.
func checkURL(repo string) error {
	if ep, err := transport.NewEndpoint(repo); err == nil && ep.Protocol == "ssh" {
		if ep.Password != "" {
			return errs.Invalid("spec.source.repo holds a password; put it into a Secret and name that as clientSecretName")
		}
		return nil
	}
	u, err := url.Parse(repo)
	if err != nil {
		return errs.Invalid("spec.source.repo is not a URL")
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return errs.Invalid("spec.source.repo %s must be an https, http or ssh URL", u.Redacted())
	}
	if u.User != nil {
		return errs.Invalid("spec.source.repo holds user information; put it into a Secret and name that as clientSecretName")
	}
	return nil
}

func reason(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// fetch brings all branches and tags, and drops those that are gone.
func (c *clone) fetch(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	limited, err := c.via.withTransport(limited)
	if err != nil {
		return err
	}
	remote := git.NewRemote(c.repo.Storer, &config.RemoteConfig{Name: "origin", URLs: []string{c.source.Repo}})
	err = remote.FetchContext(limited, &git.FetchOptions{
		RefSpecs: []config.RefSpec{"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"},
		Auth:     c.auth,
		Tags:     git.NoTags,
		Force:    true,
		Prune:    true,
	})
	if errors.Is(err, git.NoErrAlreadyUpToDate) {
		return nil
	}
	return c.named(ctx, err)
}

// named gives a failure of go-git its type.
func (c *clone) named(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed), errors.Is(err, transport.ErrInvalidAuthMethod):
		return errs.Denied("%s refused the credentials%s; correct them", c.shown(), c.secretName())
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return errs.NotFound("%s is not a repository, or its server hides it from these credentials%s", c.shown(), c.secretName())
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return errs.Invalid("%s is empty", c.shown())
	}
	if named := rancher.Wrap(ctx, err, "fetching", c.shown(), "", c.via.cfg.CAFile); rancher.KindOf(named) == rancher.KindUntrusted {
		return errs.Untrusted("fetching %s: its server's certificate does not verify against %s; configure git.caFile", c.shown(), orSystem(c.via.cfg.CAFile))
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "unable to authenticate"), strings.Contains(text, "handshake failed: ssh: no key"):
		return errs.Denied("%s refused the SSH key%s; correct it", c.shown(), c.secretName())
	case strings.Contains(text, "knownhosts: "):
		return errs.Untrusted("%s shows an SSH host key that known_hosts%s does not have; correct it", c.shown(), c.secretName())
	case errors.Is(err, context.DeadlineExceeded):
		return errs.Unavailable("fetching %s took longer than %s", c.shown(), fetchTimeout)
	}
	return errs.Unavailable("fetching %s: %s", c.shown(), plain(err))
}

func orSystem(caFile string) string {
	if caFile == "" {
		return "the system's CAs"
	}
	return caFile
}

// secretName says, for a message, where the credentials are.
func (c *clone) secretName() string {
	if c.source.ClientSecretName == "" {
		return " (none are configured; name a Secret as clientSecretName)"
	}
	return fmt.Sprintf(" of Secret %s", c.source.ClientSecretName)
}

// plain is the reason without the URL that net/http puts before it.
func plain(err error) string {
	var ue *url.Error
	if errors.As(err, &ue) && ue.Err != nil {
		err = ue.Err
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// has says whether the clone holds all of these commits; empty ones count as held.
func (c *clone) has(commits ...string) bool {
	for _, s := range commits {
		if s == "" {
			continue
		}
		if _, err := c.repo.CommitObject(plumbing.NewHash(s)); err != nil {
			return false
		}
	}
	return true
}
