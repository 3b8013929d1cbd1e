package approval

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/workflows/contract"
)

// Name is the one name that a person is recorded under, and whether people has them.
// They may be called by their name, the ID of their Slack user or an address in
// their commits; upper and lower case are the same.
func Name(people []contract.Person, by string) (name string, known bool) {
	by = strings.Join(strings.Fields(by), " ")
	if p := find(people, by); p != nil {
		return p.Name, true
	}
	return by, false
}

// userID is the ID of a Slack user, in upper or lower case.
var userID = regexp.MustCompile(`^[UWuw][A-Za-z0-9]{2,20}$`)

func find(people []contract.Person, by string) *contract.Person {
	i := slices.IndexFunc(people, func(p contract.Person) bool {
		return strings.EqualFold(p.Name, by) || p.Slack != "" && strings.EqualFold(p.Slack, by) || has(p.Git, by)
	})
	if i < 0 {
		return nil
	}
	return &people[i]
}

// author finds a person by the address in a commit alone.
func author(people []contract.Person, address string) *contract.Person {
	i := slices.IndexFunc(people, func(p contract.Person) bool { return has(p.Git, strings.TrimSpace(address)) })
	if i < 0 {
		return nil
	}
	return &people[i]
}

func has(addresses []string, address string) bool {
	return slices.ContainsFunc(addresses, func(a string) bool { return strings.EqualFold(a, address) })
}

// user is the ID of the Slack user that a person is, or empty.
func user(people []contract.Person, name string) string {
	if p := find(people, name); p != nil {
		return p.Slack
	}
	if userID.MatchString(name) {
		return strings.ToUpper(name)
	}
	return ""
}

// Same tells whether two names are of one person.
func Same(people []contract.Person, a, b string) bool {
	a, _ = Name(people, a)
	b, _ = Name(people, b)
	return strings.EqualFold(a, b)
}

// The most that a decision may hold, in bytes. It stands in the history, in the
// rollout's log and in messages.
const (
	mostBy       = 128
	mostWhy      = 1000
	mostEvidence = 64
	mostName     = 63
)

// WellFormed refuses what could not be shown as one line of text.
func WellFormed(d contract.Decision) error {
	for _, f := range []struct {
		field, value string
		most         int
	}{{"by", d.By, mostBy}, {"why", d.Why, mostWhy}, {"evidence", d.Evidence, mostEvidence}, {"environment", d.Environment, mostName}} {
		if len(f.value) > f.most {
			return errs.Invalid("%s has %d bytes, and %d at most are read", f.field, len(f.value), f.most)
		}
		if !utf8.ValidString(f.value) || f.field != "why" && strings.ContainsFunc(f.value, unprintable) {
			return errs.Invalid("%s has a character that cannot be printed", f.field)
		}
	}
	return nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// Via is how a decision came, as far as it is one of the known ways.
func Via(v contract.Via) contract.Via {
	switch v {
	case contract.ViaCLI, contract.ViaSlack, contract.ViaTemporal:
		return v
	default:
		return contract.ViaUnknown
	}
}

// Known is how it is known whose a decision is: that somebody said so, where
// nothing better is given.
func Known(k contract.Known) contract.Known {
	switch k {
	case contract.KnownAccount, contract.KnownSlack:
		return k
	default:
		return contract.KnownSaid
	}
}
