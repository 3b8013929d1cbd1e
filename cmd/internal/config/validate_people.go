package config

import (
	"net/mail"
	"regexp"
	"slices"
	"strings"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

// What Slack calls things by. Names, which change, are not read.
var (
	slackUser    = regexp.MustCompile(`^[UW][A-Z0-9]{2,20}$`)
	slackGroup   = regexp.MustCompile(`^S[A-Z0-9]{2,20}$`)
	slackChannel = regexp.MustCompile(`^[CG][A-Z0-9]{2,20}$`)
)

var personName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// validatePeople sees that whatever a person is called by is theirs alone:
// otherwise one person could have two votes, or two could have one.
func validatePeople(d *document, people []contract.Person) {
	names, users, addresses := unique{}, unique{}, unique{}
	for i, p := range people {
		here := index("spec.people", i)
		validateName(d, join(here, "name"), p.Name, names)
		if p.Slack != "" {
			validateUser(d, join(here, "slack"), p.Slack, users)
		}
		for j, address := range p.Git {
			validateAddress(d, index(join(here, "git"), j), address, addresses)
		}
	}
}

func validateName(d *document, at, name string, taken unique) {
	switch {
	case !d.required(at, name):
	case !personName.MatchString(name):
		d.fail(at, "%q is not a valid name: at most 63 letters, digits and inner dots, dashes and underscores", name)
	case slackUser.MatchString(name):
		d.fail(at, "%q looks like the ID of a Slack user, which belongs into the field slack", name)
	default:
		// Votes do not tell upper case from lower, so that nobody has two.
		taken.check(d, at, strings.ToLower(name))
	}
}

func validateUser(d *document, at, id string, taken unique) {
	if !slackUser.MatchString(id) {
		d.fail(at, "%q is not the ID of a Slack user, such as U012AB3CD; Slack shows it in the user's profile under Copy member ID", id)
		return
	}
	taken.check(d, at, id)
}

func validateAddress(d *document, at, address string, taken unique) {
	if parsed, err := mail.ParseAddress(address); err != nil || parsed.Address != address {
		d.fail(at, "%q is not an e-mail address as commits have it, such as alex@example.com", address)
		return
	}
	taken.check(d, at, strings.ToLower(address))
}

// validateApprovals judges the gate of an environment.
func validateApprovals(d *document, at string, a *rancher.Approvals, s *contract.Spec) {
	d.notNegative(join(at, "required"), a.Required)
	d.notBelowZero(join(at, "timeout"), a.Timeout)
	if a.Required == 0 {
		for field, given := range map[string]bool{
			"timeout": a.Timeout.Duration > 0, "from": d.has(join(at, "from")), "exclude": d.has(join(at, "exclude")),
		} {
			if given {
				d.fail(join(at, field), "has no effect while approvals.required is 0")
			}
		}
	}
	validateApprovers(d, join(at, "from"), &a.From, s)
	validateExclusions(d, join(at, "exclude"), a.Exclude, s)
	validateEnough(d, at, a, s)
}

func validateApprovers(d *document, at string, from *rancher.Approvers, s *contract.Spec) {
	if d.has(at) && len(from.People)+len(from.Groups) == 0 {
		d.fail(at, "names nobody; give people or groups, or leave it out")
	}
	names := personNames(s.People)
	seen := unique{}
	for i, name := range from.People {
		here := index(join(at, "people"), i)
		if !slices.Contains(names, name) {
			d.fail(here, "%q is nobody in spec.people%s", name, suggest(name, names))
			continue
		}
		seen.check(d, here, name)
	}
	for i, id := range from.Groups {
		here := index(join(at, "groups"), i)
		switch {
		case !slackGroup.MatchString(id):
			d.fail(here, "%q is not the ID of a Slack user group, such as S012AB3CD; Slack shows it in the group's menu under Copy group ID", id)
		case s.Slack == nil:
			d.fail(here, "is a Slack user group, and the pipeline has no spec.slack")
		default:
			seen.check(d, here, id)
		}
	}
}

func personNames(people []contract.Person) []string {
	names := make([]string, len(people))
	for i, p := range people {
		names[i] = p.Name
	}
	return names
}

func validateExclusions(d *document, at string, exclude []rancher.Exclusion, s *contract.Spec) {
	if d.has(at) && len(exclude) == 0 {
		d.fail(at, "is empty; name starter or author, or leave it out")
	}
	seen := unique{}
	for i, e := range exclude {
		here := index(at, i)
		d.oneOf(here, string(e), string(rancher.ExcludeStarter), string(rancher.ExcludeAuthor))
		seen.check(d, here, string(e))
		switch {
		case len(s.People) == 0:
			d.fail(here, "needs spec.people: nobody else is known to be the same person under another name")
		case e == rancher.ExcludeAuthor && !slices.ContainsFunc(s.People, func(p contract.Person) bool { return len(p.Git) > 0 }):
			d.fail(here, "needs the e-mail addresses in people's commits, and nobody in spec.people has git")
		}
	}
}

// validateEnough refuses a gate that could never open. How many are in a group
// is not known from the file, nor who will start a rollout.
func validateEnough(d *document, at string, a *rancher.Approvals, s *contract.Spec) {
	may := len(a.From.People)
	if may == 0 {
		may = len(s.People)
	}
	if len(a.From.Groups) == 0 && may > 0 && a.Required > may {
		d.fail(join(at, "required"), "is %d, and only %d may approve: the gate could never open", a.Required, may)
	}
}
