package approval

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

// Origin is who a rollout comes from.
type Origin struct {
	StartedBy string
	// Author is who wrote the revision, and Email their address in its commit.
	Author, Email string
}

// Voters finds out whose approval counts at an environment's gate. Who is in a
// group is not known yet. It is an error when somebody is to be excluded of whom it
// cannot be told who they are, and when too few are left for the gate ever to open.
func Voters(environment string, people []contract.Person, a rancher.Approvals, o Origin) (*contract.Voters, error) {
	v := &contract.Voters{People: slices.Clone(a.From.People)}
	for _, id := range a.From.Groups {
		v.Groups = append(v.Groups, contract.Group{ID: id, Error: "Slack has not been asked yet"})
	}
	if len(v.People)+len(v.Groups) == 0 {
		v.Anyone = len(people) == 0
		for _, p := range people {
			v.People = append(v.People, p.Name)
		}
	}
	for _, e := range a.Exclude {
		if err := exclude(v, environment, people, e, o); err != nil {
			return nil, err
		}
	}
	v.People = slices.DeleteFunc(v.People, func(name string) bool { return excluded(v, name) != nil })
	if len(v.Groups) > 0 {
		v.Unlinked = unlinked(v, people)
	}
	if !v.Anyone && len(v.Groups) == 0 && len(v.People) < a.Required {
		return nil, errs.Invalid("the gate of %s could never open: it needs %d, and %s", environment, a.Required, left(v))
	}
	return v, nil
}

// unlinked are those by name who have no Slack user in the file.
func unlinked(v *contract.Voters, people []contract.Person) []string {
	var out []string
	for _, p := range people {
		if p.Slack == "" && (slices.Contains(v.People, p.Name) || excluded(v, p.Name) != nil) {
			out = append(out, p.Name)
		}
	}
	return out
}

func exclude(v *contract.Voters, environment string, people []contract.Person, e rancher.Exclusion, o Origin) error {
	switch e {
	case rancher.ExcludeStarter:
		p := find(people, strings.TrimSpace(o.StartedBy))
		if p == nil {
			return errs.Invalid("the gate of %s excludes whoever started the rollout, and %q is nobody in spec.people; say who you are with --by, or add them",
				environment, oneLine(o.StartedBy))
		}
		add(v, p.Name, "started this rollout")
	case rancher.ExcludeAuthor:
		p := author(people, o.Email)
		if p == nil {
			return errs.Invalid("the gate of %s excludes whoever wrote the revision, and its author %s <%s> is nobody in spec.people; add the address to somebody's git there",
				environment, oneLine(o.Author), oneLine(o.Email))
		}
		add(v, p.Name, "wrote this revision")
	default:
		return errs.Invalid("the gate of %s excludes %q, which this Portcullis does not know", environment, oneLine(string(e)))
	}
	return nil
}

func add(v *contract.Voters, name, why string) {
	if e := excluded(v, name); e != nil {
		e.Why += " and " + why
		return
	}
	v.Excluded = append(v.Excluded, contract.Excluded{Name: name, Why: why})
}

func excluded(v *contract.Voters, name string) *contract.Excluded {
	i := slices.IndexFunc(v.Excluded, func(e contract.Excluded) bool { return strings.EqualFold(e.Name, name) })
	if i < 0 {
		return nil
	}
	return &v.Excluded[i]
}

// left says who may approve without those who are excluded.
func left(v *contract.Voters) string {
	who := "nobody may approve"
	if len(v.People) > 0 {
		who = "only " + list(v.People, "and") + " may approve"
	}
	for _, e := range v.Excluded {
		who += "; " + e.Name + " " + e.Why
	}
	return who
}

// Resolve takes in who is in the groups, or, with err, why that could not be found
// out. Where it is not known, those who were in a group before are kept.
func Resolve(v *contract.Voters, found slack.Groups, err string) {
	for i := range v.Groups {
		g := &v.Groups[i]
		j := slices.IndexFunc(found.Groups, func(f slack.Group) bool { return f.ID == g.ID })
		switch {
		case err != "":
			g.Error = oneLine(err)
		case j < 0:
			g.Error = "Slack did not say who is in it"
		case found.Groups[j].Error != "":
			g.Error = oneLine(found.Groups[j].Error)
		default:
			*g = contract.Group{ID: g.ID, Handle: found.Groups[j].Handle, Members: slices.Sorted(slices.Values(found.Groups[j].Users)), At: found.At.UTC()}
		}
	}
}

// Unresolved tells whether it is not known who is in one of the groups.
func Unresolved(v *contract.Voters) bool {
	return v != nil && slices.ContainsFunc(v.Groups, func(g contract.Group) bool { return g.Error != "" })
}

// entitled says why a person may not approve; "" means that they may. now is false
// for an approval that was given before: it then stands also while it is not known
// who is in a group.
func entitled(v *contract.Voters, environment string, people []contract.Person, name string, now bool) string {
	if v == nil {
		return ""
	}
	if e := excluded(v, name); e != nil {
		return fmt.Sprintf("%s may not approve %s: %s %s", name, environment, name, e.Why)
	}
	if v.Anyone || slices.ContainsFunc(v.People, func(p string) bool { return strings.EqualFold(p, name) }) {
		return ""
	}
	id := user(people, name)
	if id != "" && slices.ContainsFunc(v.Groups, func(g contract.Group) bool {
		return !(now && g.Error != "") && slices.Contains(g.Members, id)
	}) {
		if len(v.Unlinked) == 0 || find(people, name) != nil {
			return ""
		}
		return fmt.Sprintf("%s may not approve %s: spec.people does not say whose Slack user that is, and has none for %s", name, environment, list(v.Unlinked, "and"))
	}
	reason := fmt.Sprintf("%s may not approve %s: %s may", name, environment, Who(v))
	switch {
	case id == "" && find(people, name) == nil:
		reason += "; " + name + " is nobody in spec.people"
	case len(v.Groups) == 0:
	case id == "":
		reason += "; spec.people has no Slack user for " + name
	case now && Unresolved(v):
		reason += "; " + Unknown(v)
	default:
		reason += ", as of " + asOf(v.Groups).Format("15:04 UTC")
	}
	return reason
}

func asOf(groups []contract.Group) time.Time {
	at := groups[0].At
	for _, g := range groups {
		if g.At.Before(at) {
			at = g.At
		}
	}
	return at.UTC()
}

// Who names those who may approve.
func Who(v *contract.Voters) string {
	if v == nil || v.Anyone {
		return "anyone"
	}
	who := slices.Clone(v.People)
	for _, g := range v.Groups {
		who = append(who, groupName(g))
	}
	return list(who, "or")
}

// Terms says in one line whose approvals count, and why others' do not; empty where
// everyone's do.
func Terms(v *contract.Voters) string {
	if v == nil || v.Anyone {
		return ""
	}
	line := "from " + Who(v)
	for _, x := range v.Excluded {
		line += "; not from " + x.Name + ", who " + x.Why
	}
	if len(v.Unlinked) > 0 {
		line += "; of groups, only from those in spec.people, which has no Slack user for " + list(v.Unlinked, "and")
	}
	return line
}

// Unknown says in one line of which groups it is not known now who is in them; empty
// where there are none.
func Unknown(v *contract.Voters) string {
	if !Unresolved(v) {
		return ""
	}
	return "it is not known now who is in " + list(unknown(v), "and")
}

func unknown(v *contract.Voters) []string {
	var out []string
	for _, g := range v.Groups {
		if g.Error != "" {
			out = append(out, fmt.Sprintf("%s (%s)", groupName(g), g.Error))
		}
	}
	return out
}

func groupName(g contract.Group) string {
	if g.Handle != "" {
		return "Slack's @" + g.Handle
	}
	return "Slack's group " + g.ID
}

// list is "a", "a and b" or "a, b and c".
func list(items []string, word string) string {
	last := len(items) - 1
	switch {
	case last < 0:
		return "nobody"
	case last == 0:
		return items[0]
	default:
		return strings.Join(items[:last], ", ") + " " + word + " " + items[last]
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
