package slack

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/quick"
	"time"

	slackgo "github.com/slack-go/slack"
	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/slack/slacktest"
)

func TestEscapeMeansOnlyItself(t *testing.T) {
	for in, want := range map[string]string{
		"<!channel> look":          "&lt;!channel&gt; look",
		"<@U123|me>":               "&lt;@U123|me&gt;",
		"*bold* _it_ `code` ~no~":  "∗bold∗ ˍitˍ ˋcodeˋ ∼no∼",
		"two\nlines\r\n\tand more": "two lines and more",
		"a\u202eb\u0000c\u200bd":   "abcd",
		"&amp;":                    "&amp;amp;",
		"\xff\xfe":                 "�",
	} {
		require.Equal(t, want, Escape(in))
	}
	property := func(s string) bool {
		return !strings.ContainsAny(Escape(s), "<>*_~`\n\r") && !strings.ContainsAny(Free(s), "<>*_~`\n\r")
	}
	require.NoError(t, quick.Check(property, &quick.Config{MaxCount: 2000}))
}

func TestCleanTakesOutAddressesAndKeys(t *testing.T) {
	for _, secret := range []string{
		"10.42.1.17", "10.42.0.0/16", "192.168.1.1:8443", "fd00:10:42::17", "2001:db8::1", "::1", "[fd00::1]:53",
		"checkout-api.checkout.svc.cluster.local", "rancher.corp", "ip-10-0-3-4.eu-central-1.compute.internal", "worker-3", "node-1.example",
		"xoxb-123-abc", "xapp-1-A-2", "token-abc12:0123456789abcdefghij", "kubeconfig-user-x-y:0123456789abcdef",
		"eyJhbGciOiJ.eyJzdWIiOiI.x_y-z", "ghp_0123456789abcdef", "glpat-0123456789abc", "AKIAIOSFODNN7EXAMPLE",
		"password=hunter2", "password: hunter2", "Authorization: Bearer abcdef", strings.Repeat("Zm9v", 16) + "==",
		"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----",
	} {
		cleaned := Clean("before " + secret + " after")
		require.NotContains(t, cleaned, secret)
		require.Contains(t, cleaned, "before ")
	}
	require.NotContains(t, Clean("Authorization: Bearer abcdef123"), "abcdef123")
	require.NotContains(t, Clean("clone https://user:pass@git.example.com/x"), "pass")
	for _, fine := range []string{"Let web reach api", "NetworkPolicy/web", "v1.30.4", "not on a Friday: 10:30 is too late", "3f9c2a61d0b4", strings.Repeat("c", 40)} {
		require.Equal(t, fine, Clean(fine))
	}
}

func TestLinksAreAddressesOfTheWebOnly(t *testing.T) {
	require.Equal(t, "<https://x.example/a?b=c&amp;d=%7C%3E|t>", link("https://x.example/a?b=c&d=|>", "t"))
	for _, bad := range []string{"", "javascript:alert(1)", "https://", "x", "https://user:pass@x.example/", "ftp://x.example/"} {
		require.Empty(t, link(bad, "t"), bad)
	}
}

// fill sets every text of a value to one of its own that names its field.
func fill(v reflect.Value, path string, depth int, r *rand.Rand, text func(path string) string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text(path))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(r.IntN(1000)))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Pointer:
		if r.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), path, depth+1, r, text)
		}
	case reflect.Slice:
		n := r.IntN(30)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(v.Index(i), path, depth+1, r, text)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(r.Int64N(1<<32), 0)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), path+"."+v.Type().Field(i).Name, depth+1, r, text)
		}
	}
}

var nasty = []string{
	"<!channel>", "<@U1>", "*", "`", "&", "10.42.7.9", "fd00::7", "node-7", "pod.ns.svc", "xoxb-1-secret", "password=hunter2",
	"\n", "\u202e", "\xff", "ü", "日本", strings.Repeat("long ", 2000), "{}", "\"", "|", "https://evil.example",
}

// Whatever a view holds: Slack takes the message, nobody is mentioned, and no
// address or key is in it.
func TestEveryMessageIsValidAndSafe(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		var v View
		fill(reflect.ValueOf(&v).Elem(), "", 0, r, func(string) string {
			s := ""
			for range r.IntN(4) {
				s += nasty[r.IntN(len(nasty))] + []string{" ", ", ", "\n"}[r.IntN(3)]
			}
			return s
		})
		v.Pipeline, v.Kind = "policies", []Kind{"", KindCorrection}[r.IntN(2)]
		v.Rollout, v.Revision = "run", strings.Repeat("c", 40)
		if v.Gate != nil {
			v.Gate.Environment, v.Gate.Evidence = "prod", strings.Repeat("f", 64)
		}
		text, blocks := Message(v, "prod", "")
		raw, err := json.Marshal(slackgo.Blocks{BlockSet: blocks})
		require.NoError(t, err)
		require.Empty(t, slacktest.Blocks(raw, 50))
		modal, err := json.Marshal(DetailsModal(v, Target{Kind: v.Kind, Pipeline: "policies", Environment: "prod"}))
		require.NoError(t, err)
		require.Empty(t, slacktest.Modal(modal))
		safe(t, text+string(raw)+string(modal)+strings.Join(Lines(View{}, v), "\n"))
	}
}

func safe(t *testing.T, s string) {
	t.Helper()
	for _, bad := range []string{"<!channel>", "\\u003c!channel", "<@U1>", "\\u003c@U1", "10.42.7.9", "fd00::7", "pod.ns.svc", "xoxb-1-secret", "hunter2"} {
		if i := strings.Index(s, bad); i >= 0 {
			t.Fatalf("%q is in it: %s", bad, s[max(0, i-80):min(len(s), i+80)])
		}
	}
}

func TestLinesTellTheStory(t *testing.T) {
	v := View{
		Pipeline: "policies", Rollout: "r", Revision: strings.Repeat("c", 40), Subject: "Let web reach api", StartedBy: "ann",
		Environments: []Environment{{Name: "dev", State: pending}, {Name: "prod", State: pending}},
	}
	step := func(change func(*View)) []string {
		raw, err := json.Marshal(v)
		require.NoError(t, err)
		var old View
		require.NoError(t, json.Unmarshal(raw, &old))
		change(&v)
		return Lines(old, v)
	}
	require.Equal(t, []string{"revision `cccccccccccc` Let web reach api, started by ann"}, Lines(View{}, v))
	require.Equal(t, []string{"*dev* promoting"}, step(func(v *View) { v.Environments[0].State = "promoting" }))
	require.Equal(t, []string{"*dev* verified: 1 of 1 cluster verified, 3 connections probed"}, step(func(v *View) {
		v.Environments[0] = Environment{Name: "dev", State: verified, Clusters: 1, Verified: 1, Pairs: 3}
	}))
	require.Equal(t, []string{"*prod* waits for 2 approvals of evidence `aaaaaaaaaaaa`"}, step(func(v *View) {
		v.Environments[1].State = awaiting
		v.Gate = &Gate{Environment: "prod", Required: 2, Evidence: strings.Repeat("a", 64)}
	}))
	require.Equal(t, []string{"approved by sam by Slack (fine), 1 of 2"}, step(func(v *View) {
		v.Gate.Votes = []Said{{By: "sam", Via: "slack", Why: "fine"}}
	}))
	require.Equal(t, []string{"the evidence of *prod* has changed from `aaaaaaaaaaaa` to `bbbbbbbbbbbb`; void: 1 approval of the old one"}, step(func(v *View) {
		v.Gate.Evidence, v.Gate.Votes = strings.Repeat("b", 64), nil
	}))
	require.Equal(t, []string{"approved by sam, 1 of 2", "approved by alex by the command line, 2 of 2"}, step(func(v *View) {
		v.Gate.Votes = []Said{{By: "sam"}, {By: "alex", Via: "cli"}}
	}))
	require.Equal(t, []string{"*prod* promoting", "the gate of *prod* is open, evidence `bbbbbbbbbbbb`"}, step(func(v *View) {
		v.Gate, v.Environments[1].State = nil, "promoting"
	}))
	require.Equal(t, []string{"aborted by ann (wrong one)"}, step(func(v *View) { v.Ended = &Ended{How: "aborted", Said: Said{By: "ann", Why: "wrong one"}} }))
	require.Equal(t, []string{"*prod* rolled back; put back to `dddddddddddd`, live, NOT proven on the wire", "*rolled back*"}, step(func(v *View) {
		v.Environments[1].State, v.State, v.Over = rolledBack, rolledBack, true
		v.Environments[1].Back = &Back{Kind: "last-verified", Revision: strings.Repeat("d", 40), Live: true}
	}))
	require.Empty(t, step(func(*View) {}))
}

func marshal(t *testing.T, blocks []slackgo.Block) string {
	t.Helper()
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	require.NoError(t, e.Encode(slackgo.Blocks{BlockSet: blocks}))
	require.Empty(t, slacktest.Blocks([]byte(b.String()), 50))
	return b.String()
}
