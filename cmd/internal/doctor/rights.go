package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/deploy/rbac"
	"portcullis.dev/portcullis/rancher"
)

// reviewsAtOnce bounds the questions that one API server is asked at a time.
const reviewsAtOnce = 8

// rights asks a cluster whether the token may do everything that is needed. Each is
// asked for itself, by a SelfSubjectAccessReview, which stores nothing. The manifest, in
// deploy/rbac, has all of it.
func (d *doctor) rights(ctx context.Context, kube kubernetes.Interface, cluster, manifest string, needs []rbac.Permission, lacking Status) finding {
	ask := func(n rbac.Permission) (bool, error) {
		review, err := kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: n.Group, Resource: n.Resource, Subresource: n.Subresource, Namespace: n.Namespace, Name: n.Name, Verb: n.Verb,
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			return false, err
		}
		return review.Status.Allowed, nil
	}
	missing, err := lack(needs, ask)
	if err != nil {
		return d.unasked(ctx, err, cluster, lacking)
	}
	if len(missing) == 0 {
		return fine("all %d that are needed", len(needs))
	}
	detail := plural(len(missing), "is missing: ", "are missing: ") + strings.Join(byResource(missing), "; ")
	if len(missing) == len(needs) && len(needs) > 1 {
		detail = fmt.Sprintf("none of the %d that are needed is granted", len(needs)) // the manifest has them
	}
	return finding{
		lacking, detail,
		fmt.Sprintf("apply deploy/rbac/%s on the cluster %s for the token's user, or grant them in another way: docs/permissions.md", manifest, cluster),
	}
}

// byResource has the verbs on one thing together.
func byResource(permissions []rbac.Permission) []string {
	verbs := map[rbac.Permission][]string{}
	for _, p := range permissions {
		verb := p.Verb
		p.Verb = ""
		verbs[p] = append(verbs[p], verb)
	}
	out := make([]string, 0, len(verbs))
	for p, v := range verbs {
		slices.Sort(v)
		p.Verb = strings.Join(v, ", ")
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}

// unasked is the finding where an API server could not be asked.
func (d *doctor) unasked(ctx context.Context, err error, cluster string, lacking Status) finding {
	where := d.Config.Rancher
	f := failed(errs.FromRancher(rancher.Wrap(ctx, err, "asking cluster "+cluster+" for permissions", where.URL, where.TokenFile, where.CAFile)))
	f.status = lacking
	return f
}

// lack asks for all needs, a few at a time, and returns those that are refused.
func lack(needs []rbac.Permission, ask func(rbac.Permission) (bool, error)) ([]rbac.Permission, error) {
	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		missing []rbac.Permission
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
				missing = append(missing, n)
			}
		})
	}
	all.Wait()
	return missing, failure
}
