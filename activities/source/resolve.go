package source

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

const (
	// shortest is the fewest hexadecimal digits that are taken for a short commit.
	shortest = 4
	// namedAtMost is how many branches or commits a message names.
	namedAtMost = 3
)

// resolve finds what ref means, and that it is on the source's branch.
func (c *clone) resolve(ref string) (*Revision, error) {
	head, err := c.branch(c.source.Branch)
	if err != nil {
		return nil, err
	}
	commit := head
	if ref = strings.TrimSpace(ref); ref != "" {
		if commit, err = c.find(ref); err != nil {
			return nil, err
		}
	}
	on, err := reaches(head, commit)
	if err != nil {
		return nil, c.broken(err)
	}
	if !on {
		return nil, errs.Invalid("revision %s is not on branch %s of %s; %s", shown(ref, commit), c.source.Branch, c.shown(), c.where(commit))
	}
	subject, _, _ := strings.Cut(strings.TrimSpace(commit.Message), "\n")
	return &Revision{Commit: commit.Hash.String(), Subject: subject, Author: commit.Author.Name, Email: commit.Author.Email, Time: commit.Committer.When.UTC()}, nil
}

func shown(ref string, commit *object.Commit) string {
	if full := commit.Hash.String(); ref != full {
		return fmt.Sprintf("%s (%s)", ref, full)
	}
	return ref
}

func (c *clone) branch(name string) (*object.Commit, error) {
	if name == "" {
		return nil, errs.Invalid("spec.source.branch is empty; name the branch that revisions must be on")
	}
	ref, err := c.repo.Reference(plumbing.NewBranchReferenceName(name), true)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return nil, errs.NotFound("there is no branch %s in %s", name, c.shown())
	}
	if err != nil {
		return nil, c.broken(err)
	}
	commit, err := c.repo.CommitObject(ref.Hash())
	if err != nil {
		return nil, c.broken(err)
	}
	return commit, nil
}

// find returns the commit that a full hash, a tag or a branch names.
func (c *clone) find(ref string) (*object.Commit, error) {
	if hex := strings.ToLower(ref); rancher.FullCommit(hex) {
		commit, err := c.repo.CommitObject(plumbing.NewHash(hex))
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			return nil, errs.NotFound("revision %s is not in %s", ref, c.shown())
		}
		return commit, err
	}
	tag, err := c.tag(ref)
	if err != nil {
		return nil, err
	}
	branch, err := c.repo.Reference(plumbing.NewBranchReferenceName(strings.TrimPrefix(ref, "refs/heads/")), true)
	if err != nil && !errors.Is(err, plumbing.ErrReferenceNotFound) {
		return nil, c.broken(err)
	}
	switch {
	case tag != nil && branch != nil && tag.Hash != branch.Hash():
		return nil, errs.Invalid("%s is both a tag (%s) and a branch (%s) of %s; give the full commit", ref, tag.Hash, branch.Hash(), c.shown())
	case tag != nil:
		return tag, nil
	case branch != nil:
		commit, err := c.repo.CommitObject(branch.Hash())
		if err != nil {
			return nil, c.broken(err)
		}
		return commit, nil
	}
	return nil, c.unknown(ref)
}

func (c *clone) tag(name string) (*object.Commit, error) {
	ref, err := c.repo.Reference(plumbing.NewTagReferenceName(strings.TrimPrefix(name, "refs/tags/")), true)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, c.broken(err)
	}
	if annotated, err := c.repo.TagObject(ref.Hash()); err == nil {
		commit, err := annotated.Commit()
		if err != nil {
			return nil, errs.Invalid("tag %s of %s does not name a commit", name, c.shown())
		}
		return commit, nil
	}
	commit, err := c.repo.CommitObject(ref.Hash())
	if err != nil {
		return nil, errs.Invalid("tag %s of %s does not name a commit", name, c.shown())
	}
	return commit, nil
}

// unknown refuses what is neither a commit, a tag nor a branch. A short commit
// may mean another one tomorrow, so it is refused with the full one named.
func (c *clone) unknown(ref string) error {
	hex := strings.ToLower(ref)
	if len(hex) < shortest || len(hex) >= 40 || strings.Trim(hex, "0123456789abcdef") != "" {
		return errs.NotFound("revision %s is not in %s", ref, c.shown())
	}
	var full []string
	commits, err := c.repo.CommitObjects()
	if err != nil {
		return c.broken(err)
	}
	err = commits.ForEach(func(commit *object.Commit) error {
		if strings.HasPrefix(commit.Hash.String(), hex) {
			full = append(full, commit.Hash.String())
		}
		if len(full) > namedAtMost {
			return storer.ErrStop
		}
		return nil
	})
	if err != nil {
		return c.broken(err)
	}
	slices.Sort(full)
	switch len(full) {
	case 0:
		return errs.NotFound("revision %s is not in %s", ref, c.shown())
	case 1:
		return errs.Invalid("revision %s is short for %s; give the full commit", ref, full[0])
	}
	return errs.Invalid("revision %s is ambiguous in %s: %s; give the full commit", ref, c.shown(), strings.Join(full, ", "))
}

// reaches says whether commit is head or an ancestor of it.
func reaches(head, commit *object.Commit) (bool, error) {
	if head.Hash == commit.Hash {
		return true, nil
	}
	return commit.IsAncestor(head)
}

// where says on which branches a commit is.
func (c *clone) where(commit *object.Commit) string {
	refs, err := c.repo.Branches()
	if err != nil {
		return "its branches cannot be read"
	}
	var on []string
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		head, err := c.repo.CommitObject(ref.Hash())
		if err != nil {
			return nil //nolint:nilerr // a branch of something else is not where the commit is
		}
		if ok, err := reaches(head, commit); err == nil && ok {
			on = append(on, ref.Name().Short())
		}
		if len(on) > namedAtMost {
			return storer.ErrStop
		}
		return nil
	})
	switch {
	case err != nil:
		return "its branches cannot be read"
	case len(on) == 0:
		return "it is on no branch"
	case len(on) > namedAtMost:
		return "it is on " + strings.Join(on[:namedAtMost], ", ") + " and more"
	}
	return "it is on " + strings.Join(on, ", ")
}

func (c *clone) broken(err error) error {
	return errs.Unavailable("the clone of %s cannot be read: %s", c.shown(), plain(err))
}
