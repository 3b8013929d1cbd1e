package source

import (
	"context"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/memory"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// reachTimeout bounds one look at a repository.
const reachTimeout = 30 * time.Second

// Reach sees whether the repository answers to the credentials that a rollout
// would use, and returns the commit of the source's branch. It asks for the list of
// branches alone: nothing is fetched or written. It is no activity.
func Reach(ctx context.Context, a *Activities, src rancher.Source, namespace string) (commit string, err error) {
	if err := checkURL(src.Repo); err != nil {
		return "", err
	}
	limited, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	auth, err := a.credentials(limited, src, namespace)
	if err != nil {
		return "", err
	}
	if limited, err = a.withTransport(limited); err != nil {
		return "", err
	}
	c := &clone{source: src, auth: auth, via: a}
	remote := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{src.Repo}})
	refs, err := remote.ListContext(limited, &git.ListOptions{Auth: auth})
	if err != nil {
		return "", c.named(ctx, err)
	}
	for _, ref := range refs {
		if ref.Name() == plumbing.NewBranchReferenceName(src.Branch) {
			return ref.Hash().String(), nil
		}
	}
	return "", errs.NotFound("there is no branch %s in %s", src.Branch, c.shown())
}
