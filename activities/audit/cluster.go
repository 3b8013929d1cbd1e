package audit

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/rancher/drift"
)

// cluster audits one cluster. It is reached where its API server answered.
func (a *Activities) cluster(ctx context.Context, in BatchInput, c rancher.Cluster, d *drift.Delivered) (out drift.Cluster, reached bool) {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	began := a.now()
	u := in.Unit
	out = drift.Cluster{Cluster: c.Name, Environment: u.Environment, GitRepo: u.GitRepo, Revision: u.Revision}
	switch {
	case u.Moving != "":
		out.State, out.Reason = drift.Moving, u.Moving
	case u.Unknown != "":
		out.Unknown = []string{u.Unknown}
	case !c.Connected:
		out.Unknown = []string{"not connected: " + cmp.Or(c.Reason, "no reason given")}
	case d == nil:
		out.Findings = []drift.Finding{{
			Category: drift.Delivery, Key: drift.Key{APIVersion: "fleet.cattle.io/v1alpha1", Kind: "Cluster", Name: c.Name},
			Detail: "no GitRepo of the pipeline delivers to it: it belongs to environment " + u.Environment + ", and has none of its policy",
		}}
	default:
		s := &session{Activities: a, cluster: c, out: &out}
		reached = s.audit(ctx, d)
	}
	drift.Excuse(out.Findings, in.Ignores, c.Labels, a.now())
	out.Settle()
	a.metrics.cluster(&out, a.now().Sub(began))
	return out, reached
}

// session is the reading of one cluster.
type session struct {
	*Activities
	cluster rancher.Cluster
	out     *drift.Cluster
	api     *reader
	in      drift.Input

	mu sync.Mutex
}

// audit reads and compares. Requests: one for each type that is watched or wished, one for each release
// of the pipeline, one for each API version with types that are not known here, and one for
// all the other releases that objects claim to belong to, where there are any.
func (s *session) audit(ctx context.Context, d *drift.Delivered) (reached bool) {
	s.out.Findings = append(s.out.Findings, d.Findings...)
	s.out.Fleet, s.out.Unknown = d.Views, append(s.out.Unknown, d.Unknown...)
	config, err := s.clusters.REST(s.cluster.ID)
	if err == nil {
		s.api, err = newReader(config)
	}
	if err != nil {
		s.unknown("", err)
		return false
	}
	s.releases(ctx, d.Releases)
	types := s.types()
	resources := s.resources(ctx, types)
	failed := s.lists(ctx, types, resources)
	if failed == len(types) {
		// It does not answer at all: that is one thing, and not one for each type.
		s.out.Requests = int(s.api.requests.Load())
		s.out.Unknown = append(s.out.Unknown, s.in.Unread[types[0]])
		return false
	}
	s.others(ctx)
	findings, unknown := drift.Compare(s.in)
	s.out.Findings = append(s.out.Findings, findings...)
	s.out.Unknown = append(s.out.Unknown, unknown...)
	s.out.Requests = int(s.api.requests.Load())
	return true
}

// unknown notes what could not be looked at.
func (s *session) unknown(what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := s.reason(err)
	if what != "" {
		line = what + ": " + line
	}
	s.out.Unknown = append(s.out.Unknown, line)
}

// reason is an error in one line, without the cluster's name, which stands beside it.
func (s *session) reason(err error) string {
	text := errs.Message(verify.Classify(s.cluster.Name, err))
	return strings.TrimPrefix(text, "cluster "+s.cluster.Name+": ")
}

// releases reads what Fleet's agent installed, all at the same time.
func (s *session) releases(ctx context.Context, refs map[string]drift.ReleaseRef) {
	var group sync.WaitGroup
	for bundle, ref := range refs {
		group.Go(func() { s.release(ctx, bundle, ref) })
	}
	group.Wait()
	slices.SortFunc(s.in.Releases, func(a, b drift.Held) int { return strings.Compare(a.Bundle, b.Bundle) })
	for _, h := range s.in.Releases {
		s.out.Objects += h.Wish.Len()
	}
}

// secret is what is read of a Secret.
type secret struct {
	Metadata struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Type string            `json:"type"`
	Data map[string][]byte `json:"data"`
}

func (s *session) release(ctx context.Context, bundle string, ref drift.ReleaseRef) {
	var got secret
	path := "/api/v1/namespaces/" + url.PathEscape(ref.Namespace) + "/secrets/" + url.PathEscape(ref.Secret())
	err := s.api.get(ctx, path, func(body io.Reader) error { return broken(json.NewDecoder(body).Decode(&got)) })
	gone := drift.Finding{
		Category: drift.Tampered, Bundle: bundle,
		Key: drift.Key{APIVersion: "v1", Kind: "Secret", Namespace: ref.Namespace, Name: ref.Secret()},
	}
	if apierrors.IsNotFound(err) {
		gone.Detail = fmt.Sprintf("Helm's release %s is gone: what was rolled out is not known, and Fleet cannot keep it up", ref)
		s.found(gone)
		s.unknown("release "+ref.String(), fmt.Errorf("it is gone"))
		return
	}
	if err != nil {
		s.unknown("release "+ref.String(), err)
		return
	}
	r, wish, err := s.wishes.decode(got.Data["release"])
	if err != nil {
		gone.Detail = fmt.Sprintf("Helm's release %s: %v", ref, err)
		s.found(gone)
		s.unknown("release "+ref.String(), err)
		return
	}
	if f := r.Check(ref, bundle, got.Metadata.Labels["status"]); f != nil {
		s.found(*f)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.Releases = append(s.in.Releases, drift.Held{Ref: ref, Bundle: bundle, Wish: wish})
}

func (s *session) found(f drift.Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Findings = append(s.out.Findings, f)
}

// types are all that are listed: those that are watched, and those of wished objects.
func (s *session) types() []drift.Type {
	out := drift.Watched()
	for _, h := range s.in.Releases {
		for _, t := range h.Wish.Types() {
			switch why := drift.Unread(t); {
			case slices.Contains(out, t):
			case why != "":
				s.unread(t, why)
			default:
				out = append(out, t)
			}
		}
	}
	return out
}

func (s *session) unread(t drift.Type, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in.Unread == nil {
		s.in.Unread = map[drift.Type]string{}
	}
	s.in.Unread[t] = why
}

// resources finds the plurals of types that are not known here, by one question for each API version.
func (s *session) resources(ctx context.Context, types []drift.Type) map[drift.Type]string {
	out := map[drift.Type]string{}
	asked := map[string]bool{}
	for _, t := range types {
		if name := drift.Resource(t); name != "" {
			out[t] = name
			continue
		}
		if asked[t.APIVersion] {
			continue
		}
		asked[t.APIVersion] = true
		var found struct {
			Resources []struct {
				Name string `json:"name"`
				Kind string `json:"kind"`
			} `json:"resources"`
		}
		err := s.api.get(ctx, apiPath(t.APIVersion), func(body io.Reader) error { return broken(json.NewDecoder(body).Decode(&found)) })
		if err != nil && !apierrors.IsNotFound(err) {
			for _, other := range types {
				if other.APIVersion == t.APIVersion && drift.Resource(other) == "" {
					s.unread(other, s.reason(err))
				}
			}
			continue
		}
		for _, r := range found.Resources {
			if !strings.Contains(r.Name, "/") {
				out[drift.Type{APIVersion: t.APIVersion, Kind: r.Kind}] = r.Name
			}
		}
	}
	return out
}

func apiPath(version string) string {
	if !strings.Contains(version, "/") {
		return "/api/" + url.PathEscape(version)
	}
	group, v, _ := strings.Cut(version, "/")
	return "/apis/" + url.PathEscape(group) + "/" + url.PathEscape(v)
}

// lists reads every type at the same time, and returns how many could not be read.
func (s *session) lists(ctx context.Context, types []drift.Type, resources map[drift.Type]string) int {
	s.in.Live = map[drift.Type][]*drift.Object{}
	readable := slices.DeleteFunc(slices.Clone(types), func(t drift.Type) bool { _, failed := s.in.Unread[t]; return failed })
	var group sync.WaitGroup
	for _, t := range readable {
		group.Go(func() { s.list(ctx, t, resources[t]) })
	}
	group.Wait()
	failed := 0
	for _, t := range types {
		if _, is := s.in.Unread[t]; is {
			failed++
		}
	}
	return failed
}

func (s *session) list(ctx context.Context, t drift.Type, resource string) {
	objects := []*drift.Object{}
	var err error
	if resource != "" { // else the cluster does not serve it
		err = s.api.list(ctx, apiPath(t.APIVersion)+"/"+url.PathEscape(resource), func(item json.RawMessage) error {
			o, err := drift.Decode(item, t)
			if err == nil {
				objects = append(objects, o)
			}
			return err
		})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		s.unread(t, s.reason(err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.Live[t] = objects
}

// releaseName is what Helm takes as a name; nothing else goes into a selector.
var releaseName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,51}[a-z0-9])?$`)

// maxClaims bounds the releases that are asked for.
const maxClaims = 100

// others reads the releases that objects claim to belong to, all in one list.
func (s *session) others(ctx context.Context) {
	wanted, names := map[string]bool{}, []string{}
	for _, claim := range drift.Claims(s.in) {
		_, name, _ := strings.Cut(claim, "/")
		if !releaseName.MatchString(name) || len(names) == maxClaims {
			continue
		}
		wanted[claim] = true
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	q := url.Values{
		"fieldSelector": {"type=" + drift.ReleaseSecret},
		"labelSelector": {"owner=helm,status=deployed,name in (" + strings.Join(names, ",") + ")"},
	}
	err := s.api.list(ctx, "/api/v1/secrets?"+q.Encode(), func(item json.RawMessage) error {
		var got secret
		if json.Unmarshal(item, &got) != nil || !wanted[got.Metadata.Namespace+"/"+got.Metadata.Labels["name"]] {
			return nil
		}
		r, wish, err := s.wishes.decode(got.Data["release"])
		if err != nil || r.Namespace != got.Metadata.Namespace || r.Name != got.Metadata.Labels["name"] {
			return nil // what claims to belong to it stays a claim
		}
		s.in.Others = append(s.in.Others, drift.Held{Ref: drift.ReleaseRef{Namespace: r.Namespace, Name: r.Name, Version: r.Version}, Wish: wish})
		return nil
	})
	if err != nil {
		s.unknown("the Helm releases that objects say they belong to cannot be read", err)
	}
}
