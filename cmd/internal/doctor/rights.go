package doctor

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/rancher"
)

// reviewsAtOnce bounds the questions that one API server is asked at a time.
const reviewsAtOnce = 8

// rights asks a cluster whether the token may do everything that is needed. Each is
// asked for itself, by a SelfSubjectAccessReview, which stores nothing.
func (d *doctor) rights(ctx context.Context, client *rancher.Client, cluster string, needs []need, lacking Status) finding {
	kube, err := typedClient(client, cluster)
	if err != nil {
		return failed(errs.FromRancher(err))
	}
	ask := func(n need) (bool, error) {
		review, err := kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: n.group, Resource: n.resource, Subresource: n.subresource, Namespace: n.namespace, Verb: n.verb,
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			return false, err
		}
		return review.Status.Allowed, nil
	}
	missing, err := lack(needs, ask)
	if err != nil {
		where := d.Config.Rancher
		f := failed(errs.FromRancher(rancher.Wrap(ctx, err, "asking cluster "+cluster+" for permissions", where.URL, where.TokenFile, where.CAFile)))
		f.status = lacking
		return f
	}
	if len(missing) == 0 {
		return fine("all %d that are needed", len(needs))
	}
	return finding{
		lacking, plural(len(missing), "is missing: ", "are missing: ") + strings.Join(missing, "; "),
		"grant them to the token's user on the cluster " + cluster,
	}
}

// lack asks for all needs, a few at a time, and returns those that are refused.
func lack(needs []need, ask func(need) (bool, error)) ([]string, error) {
	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		missing []string
		failure error
		slots   = make(chan struct{}, reviewsAtOnce)
	)
	for _, n := range needs {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			allowed, err := ask(n)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				failure = cmp.Or(failure, err)
			case !allowed:
				missing = append(missing, n.String())
			}
		})
	}
	all.Wait()
	slices.Sort(missing)
	return missing, failure
}
