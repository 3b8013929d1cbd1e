package config

import (
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

// validatePipeline finds everything that can be seen from the file alone. What
// depends on clusters or on Git is found when a rollout is planned.
func validatePipeline(d *document, p *contract.Pipeline, now time.Time) {
	d.constant("apiVersion", p.APIVersion, contract.APIVersion)
	d.constant("kind", p.Kind, contract.Kind)
	d.label("metadata.name", p.Metadata.Name)
	validateSource(d, &p.Spec.Source)
	validateEnvironments(d, p.Spec.Environments)
	validateProbes(d, p.Spec.Probes, p.Spec.ProbeTimings)
	d.oneOf("spec.rollback.scope", string(p.Spec.Rollback.Scope),
		string(contract.ScopeEnvironment), string(contract.ScopeRollout))
	validatePeople(d, p.Spec.People)
	for i := range p.Spec.Environments {
		validateApprovals(d, join(index("spec.environments", i), "gate.approvals"), &p.Spec.Environments[i].Gate.Approvals, &p.Spec)
	}
	validateSlack(d, p.Spec.Slack)
	validateDrift(d, p.Spec.Drift, len(p.Spec.People), now)
}

func validateSource(d *document, s *rancher.Source) {
	if d.required("spec.source.repo", s.Repo) {
		validateRepo(d, s.Repo)
	}
	if d.required("spec.source.branch", s.Branch) {
		if err := plumbing.NewBranchReferenceName(s.Branch).Validate(); err != nil {
			d.fail("spec.source.branch", "%q is not a branch name", s.Branch)
		}
	}
	validatePaths(d, s.Paths)
	if s.ClientSecretName != "" {
		d.subdomain("spec.source.clientSecretName", s.ClientSecretName)
	}
}

// scpLike is Git's user@host:path form.
var scpLike = regexp.MustCompile(`^[\w.-]+@[\w.-]+:[^/].*$`)

func validateRepo(d *document, repo string) {
	const at = "spec.source.repo"
	if scpLike.MatchString(repo) {
		return
	}
	u, err := url.Parse(repo)
	switch {
	case err != nil || u.Host == "" || u.Path == "" || u.Path == "/":
		// The value is not repeated: it may hold a password that broke the parsing.
		d.fail(at, "is not the URL of a Git repository; write it like https://git.example.com/team/repo or git@git.example.com:team/repo")
	case u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "ssh":
		d.fail(at, "has the scheme %q; use https, http or ssh", u.Scheme)
	case u.User != nil && (u.Scheme != "ssh" || hasPassword(u)):
		d.fail(at, "has credentials in it; put them into a Secret and name it in spec.source.clientSecretName")
	case u.RawQuery != "" || u.Fragment != "":
		d.fail(at, "has a query or a fragment; a repository's URL has none")
	}
}

func hasPassword(u *url.URL) bool {
	_, has := u.User.Password()
	return has
}

func validatePaths(d *document, paths []string) {
	for i, p := range paths {
		at := index("spec.source.paths", i)
		switch {
		case p == "" || p == "." || p == "/":
			d.fail(at, "is the root of the repository; leave spec.source.paths out for that")
		case strings.HasPrefix(p, "/") || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsAny(p, "\\\x00\n"):
			d.fail(at, "%q leaves the repository; write a path inside it, such as bundles/infrastructure", p)
		case path.Clean(p) != p:
			d.fail(at, "%q is not clean; write %q", p, path.Clean(p))
		default:
			validateOverlap(d, paths[:i], p, at)
		}
	}
}

// validateOverlap refuses a directory that another one already delivers: two
// bundles would then own the same objects.
func validateOverlap(d *document, earlier []string, p, at string) {
	for _, e := range earlier {
		switch {
		case e == p:
			d.fail(at, "%q stands twice", p)
		case strings.HasPrefix(p, e+"/"):
			d.fail(at, "%q is inside %q, which is delivered already", p, e)
		case strings.HasPrefix(e, p+"/"):
			d.fail(at, "%q contains %q, which is delivered already", p, e)
		}
	}
}

func validateEnvironments(d *document, environments []rancher.Environment) {
	const at = "spec.environments"
	if len(environments) == 0 {
		d.fail(at, "is required: name at least one environment")
	}
	names, repos := unique{}, unique{}
	for i := range environments {
		e, here := &environments[i], index(at, i)
		if d.label(join(here, "name"), e.Name) {
			names.check(d, join(here, "name"), e.Name)
		}
		if e.GitRepo != "" && d.subdomain(join(here, "gitRepo"), e.GitRepo) {
			repos.check(d, join(here, "gitRepo"), e.GitRepo)
		}
		if emptySelector(e.Clusters) {
			d.fail(join(here, "clusters"), "selects nothing by name, which would mean every cluster; give matchLabels or matchExpressions")
		}
		d.selector(join(here, "clusters"), e.Clusters)
		validateWaves(d, here, e)
		validateGate(d, join(here, "gate"), &e.Gate)
	}
}

func validateWaves(d *document, environment string, e *rancher.Environment) {
	at := join(environment, "waves")
	if e.GitRepo != "" && len(e.Waves) > 1 {
		d.fail(join(environment, "gitRepo"), "adopts one GitRepo, and %d waves need one each; leave gitRepo out or have one wave", len(e.Waves))
	}
	names := unique{}
	for i := range e.Waves {
		w, here := &e.Waves[i], index(at, i)
		if d.label(join(here, "name"), w.Name) {
			names.check(d, join(here, "name"), w.Name)
		}
		if emptySelector(w.Clusters) && i < len(e.Waves)-1 {
			d.fail(here, "has no clusters, which means all that are left, and is not the last wave; only the last may be empty")
		}
		d.selector(join(here, "clusters"), w.Clusters)
		d.notNegative(join(here, "maxConcurrent"), w.MaxConcurrent)
		d.notBelowZero(join(here, "soak"), w.Soak)
		if e.GitRepo != "" && w.MaxConcurrent > 0 {
			d.fail(join(here, "maxConcurrent"), "needs a GitRepo for each slice, and %s adopts one; leave one of them out", join(environment, "gitRepo"))
		}
	}
}

func validateGate(d *document, at string, g *rancher.Gate) {
	d.notBelowZero(join(at, "soak"), g.Soak)
	d.notBelowZero(join(at, "settleTimeout"), g.SettleTimeout)
}

// unique remembers where each name stood first.
type unique map[string]string

func (u unique) check(d *document, at, name string) {
	if first, taken := u[name]; taken {
		d.fail(at, "%q is taken by %s", name, first)
		return
	}
	u[name] = at
}

func emptySelector(s metav1.LabelSelector) bool {
	return len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}

func (d *document) selector(at string, s metav1.LabelSelector) {
	if _, err := metav1.LabelSelectorAsSelector(&s); err != nil {
		d.fail(at, "is not a label selector: %s", oneLine(err.Error()))
	}
}

func (d *document) required(at, value string) bool {
	if value == "" {
		d.fail(at, "is required")
		return false
	}
	return true
}

func (d *document) constant(at, value, want string) {
	if d.required(at, value) && value != want {
		d.fail(at, "is %q; this Portcullis reads %q", value, want)
	}
}

func (d *document) oneOf(at, value string, allowed ...string) {
	if value == "" && !d.has(at) {
		return
	}
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	d.fail(at, "%q is none of %s%s", value, strings.Join(allowed, ", "), suggest(value, allowed))
}

func (d *document) label(at, value string) bool {
	return d.required(at, value) && d.named(at, value, validation.IsDNS1123Label(value),
		"at most 63 lower case letters, digits and inner dashes")
}

func (d *document) subdomain(at, value string) bool {
	return d.named(at, value, validation.IsDNS1123Subdomain(value),
		"lower case letters, digits, inner dashes and dots")
}

func (d *document) named(at, value string, wrong []string, rule string) bool {
	if len(wrong) > 0 {
		d.fail(at, "%q is not a valid name: %s", value, rule)
	}
	return len(wrong) == 0
}

func (d *document) notNegative(at string, n int) {
	if n < 0 {
		d.fail(at, "is %d; it cannot be below 0", n)
	}
}

// longest is more than any soak or time-out that is meant, and keeps sums of
// durations from overflowing.
const longest = 366 * 24 * time.Hour

func (d *document) notBelowZero(at string, v metav1.Duration) {
	if v.Duration < 0 {
		d.fail(at, "is %s; it cannot be below 0", v.Duration)
	}
	d.notLong(at, v)
}

func (d *document) notLong(at string, v metav1.Duration) {
	if v.Duration > longest {
		d.fail(at, "is %s; it cannot be longer than a year", v.Duration)
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
