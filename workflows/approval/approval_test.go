package approval

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

var (
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	people = []contract.Person{
		{Name: "alex", Slack: "U012AB3CD", Git: []string{"alex@example.com", "alex@example.org"}},
		{Name: "sam", Slack: "U045EF6GH", Git: []string{"sam@example.com"}},
		{Name: "kim", Slack: "U078IJ9KL"},
		{Name: "ci"},
	}
	now12  = strings.Repeat("50ce69b5ca6d", 5) + "50ce"
	then12 = strings.Repeat("a0ce69b5ca6d", 5) + "a0ce"
	origin = Origin{StartedBy: "kim", Author: "Kim", Email: "sam@example.com"}
)

// gate is open for those that the rules name, with nothing known of groups.
func gate(t *testing.T, a rancher.Approvals, o Origin) *contract.GateState {
	t.Helper()
	v, err := Voters("prod", people, a, o)
	require.NoError(t, err)
	return &contract.GateState{Environment: "prod", Required: a.Required, Evidence: contract.Evidence{Hash: now12}, Voters: v}
}

func vote(by string) contract.Decision { return contract.Decision{By: by, Evidence: now12} }

func from(people []string, groups ...string) rancher.Approvers {
	return rancher.Approvers{People: people, Groups: groups}
}

func TestOnePersonByAnyName(t *testing.T) {
	for by, want := range map[string]string{
		"alex": "alex", " Alex ": "alex", "U012AB3CD": "alex", "u012ab3cd": "alex", "Alex@Example.org": "alex",
		"zoe": "zoe", "zoe  smith": "zoe smith", "ubuntu": "ubuntu",
	} {
		got, known := Name(people, by)
		require.Equal(t, want, got, by)
		require.Equal(t, want == "alex", known, by)
		require.True(t, Same(people, by, want), by)
	}
	require.False(t, Same(people, "alex", "sam"))
}

func TestWhoMayApprove(t *testing.T) {
	named := rancher.Approvals{Required: 2, From: from([]string{"alex", "sam"})}
	for name, c := range map[string]struct {
		rules rancher.Approvals
		by    string
		want  string
	}{
		"named":                    {named, "sam", ""},
		"named, by user":           {named, "U045EF6GH", ""},
		"not named":                {named, "kim", "kim may not approve prod: alex or sam may"},
		"stranger":                 {named, "mallory", "mallory may not approve prod: alex or sam may; mallory is nobody in spec.people"},
		"everyone who is a person": {rancher.Approvals{Required: 1}, "kim", ""},
		"stranger to the file":     {rancher.Approvals{Required: 1}, "root", "root may not approve prod: alex, sam, kim or ci may; root is nobody in spec.people"},
		"starter": {rancher.Approvals{Required: 1, Exclude: []rancher.Exclusion{rancher.ExcludeStarter}}, "U078IJ9KL",
			"kim may not approve prod: kim started this rollout"},
		"author": {rancher.Approvals{Required: 1, Exclude: []rancher.Exclusion{rancher.ExcludeAuthor}}, "sam",
			"sam may not approve prod: sam wrote this revision"},
		"author, by address": {rancher.Approvals{Required: 1, Exclude: []rancher.Exclusion{rancher.ExcludeAuthor}}, "sam@example.com",
			"sam may not approve prod: sam wrote this revision"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Approve(gate(t, c.rules, origin), people, vote(c.by), noon)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, errs.TypeNotEntitled, errs.TypeOf(err))
			require.Equal(t, c.want, errs.Message(err))
		})
	}
}

func TestStarterWhoIsTheAuthorToo(t *testing.T) {
	g := gate(t, rancher.Approvals{Required: 1, Exclude: []rancher.Exclusion{rancher.ExcludeStarter, rancher.ExcludeAuthor}},
		Origin{StartedBy: "Sam", Email: "SAM@example.com"})
	require.Equal(t, []contract.Excluded{{Name: "sam", Why: "started this rollout and wrote this revision"}}, g.Voters.Excluded)
	require.Equal(t, []string{"alex", "kim", "ci"}, g.Voters.People)
}

// Whom a gate is to exclude must be known, or they could approve under another name.
func TestGatesThatCannotKnowOrCannotOpen(t *testing.T) {
	for name, c := range map[string]struct {
		rules  rancher.Approvals
		origin Origin
		want   string
	}{
		"starter unknown": {rancher.Approvals{Required: 1, Exclude: []rancher.Exclusion{rancher.ExcludeStarter}}, Origin{StartedBy: "root"},
			`the gate of prod excludes whoever started the rollout, and "root" is nobody in spec.people; say who you are with --by, or add them`},
		"author unknown": {rancher.Approvals{Required: 1, Exclude: []rancher.Exclusion{rancher.ExcludeAuthor}}, Origin{Author: "Bot", Email: "bot@example.com"},
			`the gate of prod excludes whoever wrote the revision, and its author Bot <bot@example.com> is nobody in spec.people; add the address to somebody's git there`},
		// The name that a commit has is chosen freely, and nobody's.
		"author by name alone": {rancher.Approvals{Required: 1, Exclude: []rancher.Exclusion{rancher.ExcludeAuthor}}, Origin{Author: "sam", Email: "sam"},
			`the gate of prod excludes whoever wrote the revision, and its author sam <sam> is nobody in spec.people; add the address to somebody's git there`},
		"too few left": {rancher.Approvals{Required: 2, From: from([]string{"alex", "kim"}), Exclude: []rancher.Exclusion{rancher.ExcludeStarter}}, origin,
			"the gate of prod could never open: it needs 2, and only alex may approve; kim started this rollout"},
		"nobody left": {rancher.Approvals{Required: 1, From: from([]string{"kim"}), Exclude: []rancher.Exclusion{rancher.ExcludeStarter}}, origin,
			"the gate of prod could never open: it needs 1, and nobody may approve; kim started this rollout"},
		"unknown rule": {rancher.Approvals{Required: 1, Exclude: []rancher.Exclusion{"committer"}}, origin,
			`the gate of prod excludes "committer", which this Portcullis does not know`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Voters("prod", people, c.rules, c.origin)
			require.Equal(t, errs.TypeInvalid, errs.TypeOf(err))
			require.Equal(t, c.want, errs.Message(err))
		})
	}
}

func TestGroups(t *testing.T) {
	g := gate(t, rancher.Approvals{Required: 1, From: from([]string{"alex"}, "S1", "S2"), Exclude: []rancher.Exclusion{rancher.ExcludeStarter}}, origin)
	refused := func(by, want string) {
		t.Helper()
		_, err := Approve(g, people, vote(by), noon)
		require.Equal(t, errs.TypeNotEntitled, errs.TypeOf(err))
		require.Equal(t, want, errs.Message(err))
	}
	taken := func(by, as string) {
		t.Helper()
		d, err := Approve(g, people, vote(by), noon)
		require.NoError(t, err)
		require.Equal(t, as, d.By)
	}
	require.True(t, Unresolved(g.Voters))
	refused("sam", "sam may not approve prod: alex, Slack's group S1 or Slack's group S2 may; it is not known now who is in Slack's group S1 (Slack has not been asked yet) and Slack's group S2 (Slack has not been asked yet)")
	taken("alex", "alex")

	Resolve(g.Voters, slack.Groups{At: noon, Groups: []slack.Group{
		{ID: "S1", Handle: "platform", Users: []string{"U999", "U045EF6GH", "U078IJ9KL"}}, {ID: "S2", Users: []string{"U555"}},
	}}, "")
	require.False(t, Unresolved(g.Voters))
	taken("sam", "sam")
	taken("u999", "u999")
	refused("kim", "kim may not approve prod: kim started this rollout")
	refused("U666", "U666 may not approve prod: alex, Slack's @platform or Slack's group S2 may, as of 12:00 UTC")
	refused("ci", "ci may not approve prod: alex, Slack's @platform or Slack's group S2 may; spec.people has no Slack user for ci")

	// Of one group it is not known any more: what it lets in is refused, the rest is not.
	Resolve(g.Voters, slack.Groups{At: noon.Add(time.Hour), Groups: []slack.Group{
		{ID: "S1", Error: "the group was\nswitched off"}, {ID: "S2", Users: []string{"U555"}},
	}}, "")
	refused("sam", "sam may not approve prod: alex, Slack's @platform or Slack's group S2 may; it is not known now who is in Slack's @platform (the group was switched off)")
	taken("U555", "U555")
	taken("alex", "alex")

	Resolve(g.Voters, slack.Groups{}, "Slack does not answer")
	refused("U555", "U555 may not approve prod: alex, Slack's @platform or Slack's group S2 may; it is not known now who is in Slack's @platform (Slack does not answer) and Slack's group S2 (Slack does not answer)")
	taken("alex", "alex")
}

// An approval that was given stands while Slack does not answer, and falls when it
// says that its giver has left.
func TestApprovalsOfThoseWhoLeaveAGroup(t *testing.T) {
	g := gate(t, rancher.Approvals{Required: 2, From: from(nil, "S1")}, origin)
	in := func(users ...string) {
		Resolve(g.Voters, slack.Groups{At: noon, Groups: []slack.Group{{ID: "S1", Users: users}}}, "")
	}
	in("U012AB3CD", "U045EF6GH")
	for _, by := range []string{"alex", "sam"} {
		d, err := Approve(g, people, vote(by), noon)
		require.NoError(t, err)
		g.Votes = append(g.Votes, d)
	}
	require.Equal(t, 2, Count(g, people))
	Resolve(g.Voters, slack.Groups{}, "Slack does not answer")
	require.Empty(t, Renew(g, people, g.Evidence))
	require.Equal(t, 2, Count(g, people))
	in("U045EF6GH")
	require.Equal(t, 1, Count(g, people), "it does not count even before it is taken away")
	gone := Renew(g, people, g.Evidence)
	require.Len(t, gone, 1)
	require.Equal(t, "alex", gone[0].Vote.By)
	require.Equal(t, "alex may not approve prod: Slack's group S1 may, as of 12:00 UTC", gone[0].Why)
}

func TestTwiceLateAndOfOldEvidence(t *testing.T) {
	g := gate(t, rancher.Approvals{Required: 2}, origin)
	g.Deadline = noon.Add(time.Hour)
	refused := func(d contract.Decision, at time.Time, kind, want string) {
		t.Helper()
		_, err := Approve(g, people, d, at)
		require.Equal(t, kind, errs.TypeOf(err), err)
		require.Equal(t, want, errs.Message(err))
	}
	d, err := Approve(g, people, contract.Decision{By: "U012AB3CD", Evidence: strings.ToUpper(now12[:12]), Via: "pigeon", Known: "surely"}, noon)
	require.NoError(t, err)
	require.Equal(t, contract.Decision{By: "alex", Environment: "prod", Evidence: now12, At: noon, Via: contract.ViaUnknown, Known: contract.KnownSaid}, d)
	g.Votes = append(g.Votes, d)

	refused(vote("Alex"), noon, errs.TypeApproved, "alex has approved prod already, at 12:00 UTC; it has 1 of 2 approvals")
	refused(vote("sam"), g.Deadline, errs.TypeLate, "the approval of sam comes too late: its gate was open until 2026-11-23T13:00:00Z")
	refused(contract.Decision{By: "sam", Evidence: then12}, noon, errs.TypeConflict, "the evidence has changed: it is now 50ce69b5ca6d; look at it again before approving")
	refused(contract.Decision{By: "sam", Evidence: now12[:11]}, noon, errs.TypeInvalid, "an approval names the evidence that was seen, with at least 12 characters of its hash; it is 50ce69b5ca6d")
	refused(contract.Decision{By: "sam", Evidence: now12, Environment: "staging"}, noon, errs.TypeConflict, "the gate that waits is that of prod, and not of staging")

	gone := Renew(g, people, contract.Evidence{Hash: then12})
	require.Equal(t, []Void{{Vote: d, Why: "the evidence has changed from 50ce69b5ca6d to a0ce69b5ca6d"}}, gone)
	require.Zero(t, Count(g, people))
	again, err := Approve(g, people, contract.Decision{By: "alex", Evidence: then12}, noon)
	require.NoError(t, err)
	g.Votes = append(g.Votes, again)
	require.Equal(t, 1, Count(g, people))
}

func TestWhoMayReject(t *testing.T) {
	g := gate(t, rancher.Approvals{Required: 1, From: from([]string{"alex", "kim"}), Exclude: []rancher.Exclusion{rancher.ExcludeStarter}}, origin)
	for _, by := range []string{"alex", "kim"} {
		d, err := Reject(g, people, contract.Decision{By: by}, noon)
		require.NoError(t, err)
		require.Equal(t, now12, d.Evidence, "it is recorded on what it was given")
	}
	_, err := Reject(g, people, contract.Decision{By: "mallory"}, noon)
	require.Equal(t, "mallory may not reject prod: alex may; mallory is nobody in spec.people; `portcullis rollout abort` is open to everyone", errs.Message(err))
	_, err = Reject(g, people, contract.Decision{By: "alex", Evidence: then12}, noon)
	require.Equal(t, errs.TypeConflict, errs.TypeOf(err))
}

func TestMalformedDecisions(t *testing.T) {
	g := gate(t, rancher.Approvals{Required: 1}, origin)
	g.Voters.Anyone = true
	for name, c := range map[string]struct {
		d    contract.Decision
		want string
	}{
		"nobody":   {contract.Decision{By: " \t"}, "by has a character that cannot be printed"},
		"empty":    {contract.Decision{By: "  "}, "say who decides: by is empty"},
		"giant by": {contract.Decision{By: strings.Repeat("a", 1<<20)}, "by has 1048576 bytes, and 128 at most are read"},
		"lines":    {contract.Decision{By: "alex\ntime=12:00 msg=approved"}, "by has a character that cannot be printed"},
		"hidden":   {contract.Decision{By: "alex\u200b"}, "by has a character that cannot be printed"},
		"giant":    {contract.Decision{By: "alex", Why: strings.Repeat("a", 1001)}, "why has 1001 bytes, and 1000 at most are read"},
		"evidence": {contract.Decision{By: "alex", Evidence: now12 + "0"}, "evidence has 65 bytes, and 64 at most are read"},
		"not text": {contract.Decision{By: "alex\xff"}, "by has a character that cannot be printed"},
		"why":      {contract.Decision{By: "alex", Why: "\xff"}, "why has a character that cannot be printed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Approve(g, people, c.d, noon)
			require.Equal(t, errs.TypeInvalid, errs.TypeOf(err))
			require.Equal(t, c.want, errs.Message(err))
		})
	}
}

// A rollout that began before there were rules goes on without them.
func TestGateOfAnOlderPortcullis(t *testing.T) {
	g := &contract.GateState{Environment: "prod", Required: 1, Evidence: contract.Evidence{Hash: now12}}
	d, err := Approve(g, nil, vote("anyone at all"), noon)
	require.NoError(t, err)
	g.Votes = append(g.Votes, d)
	require.Equal(t, 1, Count(g, nil))
	require.Equal(t, "anyone", Who(g.Voters))
}

func TestAuditLogIsBounded(t *testing.T) {
	var a contract.Audit
	for i := range contract.MostAudit + 7 {
		a = Append(a, contract.AuditEntry{What: contract.UpdatePause, At: noon.Add(time.Duration(i))})
	}
	require.Len(t, a.Entries, contract.MostAudit)
	require.Equal(t, 7, a.Dropped)
	require.Equal(t, noon.Add(7), a.Entries[0].At)
}

func TestEntryOfARefusal(t *testing.T) {
	e := Entry(contract.UpdateApprove, contract.Decision{By: "kim", Why: "ok", At: noon}, errs.NotEntitled("kim may not"))
	require.Equal(t, contract.AuditEntry{At: noon, What: "approve", By: "kim", Why: "ok", Refused: "kim may not", Type: errs.TypeNotEntitled}, e)
}

func TestGateThatWasOpenedOnThisEvidence(t *testing.T) {
	a := contract.Audit{Entries: []contract.AuditEntry{{What: contract.AuditOpened, Environment: "staging", Evidence: then12}, {What: contract.UpdateApprove, Evidence: now12}}}
	require.Equal(t, "staging", Opened(a, contract.Decision{Evidence: then12[:12]}).Environment)
	require.Nil(t, Opened(a, contract.Decision{Evidence: now12}))
	require.Nil(t, Opened(a, contract.Decision{Evidence: then12[:11]}))
	require.Nil(t, Opened(a, contract.Decision{}))
}

// Everyone who may use the command line is not everyone who is in Slack.
func TestASlackUserWhomNobodyNamedIsNotEveryone(t *testing.T) {
	g := gate(t, rancher.Approvals{Required: 1}, origin)
	g.Voters = &contract.Voters{Anyone: true}
	slackUser := vote("U0STRANGER")
	slackUser.Via, slackUser.Known = contract.ViaSlack, contract.KnownSlack
	_, err := Approve(g, nil, slackUser, noon)
	require.Equal(t, errs.TypeNotEntitled, errs.TypeOf(err))
	require.ErrorContains(t, err, "nobody in spec.people has this Slack user")
	_, err = Reject(g, nil, slackUser, noon)
	require.Equal(t, errs.TypeNotEntitled, errs.TypeOf(err))
	_, err = Approve(g, nil, vote("zoe"), noon)
	require.NoError(t, err)
	slackUser.By = "U012AB3CD"
	d, err := Approve(g, people, slackUser, noon)
	require.NoError(t, err)
	require.Equal(t, "alex", d.By)
}

// Whom the file gives no Slack user may be any member of a group whom it does not name:
// nobody gets a second vote, or around being excluded, by pressing a button.
func TestMembersOfGroupsWhoMayBeSomebodyElse(t *testing.T) {
	members := slack.Groups{At: noon, Groups: []slack.Group{{ID: "S1", Users: []string{"U999", "U045EF6GH"}}}}
	for name, c := range map[string]struct {
		rules  rancher.Approvals
		origin Origin
		want   string
	}{
		"excluded": {rancher.Approvals{Required: 1, From: from(nil, "S1"), Exclude: []rancher.Exclusion{rancher.ExcludeStarter}}, Origin{StartedBy: "ci"},
			"U999 may not approve prod: spec.people does not say whose Slack user that is, and has none for ci"},
		"named": {rancher.Approvals{Required: 2, From: from([]string{"ci"}, "S1")}, origin,
			"U999 may not approve prod: spec.people does not say whose Slack user that is, and has none for ci"},
		"neither": {rancher.Approvals{Required: 1, From: from(nil, "S1")}, Origin{StartedBy: "ci"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := gate(t, c.rules, c.origin)
			Resolve(g.Voters, members, "")
			_, err := Approve(g, people, vote("sam"), noon)
			require.NoError(t, err, "it is known who that is")
			_, err = Approve(g, people, vote("U999"), noon)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, errs.TypeNotEntitled, errs.TypeOf(err))
			require.Equal(t, c.want, errs.Message(err))
		})
	}
}
