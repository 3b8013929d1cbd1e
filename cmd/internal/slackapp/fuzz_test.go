package slackapp

import (
	"testing"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/slack/slacktest"
)

// Whatever is sent: it does not crash, and what is taken for a decision names a
// user, a rollout and its evidence.
func FuzzParse(f *testing.F) {
	s := slacktest.New()
	value := slack.Target{Pipeline: "policies", Environment: "prod", Rollout: "run-1", Evidence: "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}
	m := slacktest.Message{Channel: "C0GATES", TS: "1.2"}
	for _, seed := range [][]byte{
		s.BlockActions("U0ALEX", m, slack.ActionApprove, value.Encode()),
		s.BlockActions("U0ALEX", m, slack.ActionDetails, "{}"),
		s.ViewSubmission("U0ALEX", `{"type":"modal","callback_id":"portcullis.reject.why","private_metadata":"{}"}`, slack.BlockWhy, slack.InputWhy, "why"),
		s.ViewClosed("U0ALEX", `{}`), s.Shortcut("U0ALEX"), []byte(`{}`), []byte(`{"user":null,"actions":[null]}`),
	} {
		f.Add(seed)
	}
	s.Close()
	f.Fuzz(func(t *testing.T, raw []byte) {
		in, err := Parse(raw)
		if err != nil {
			return
		}
		if !userID.MatchString(in.User) {
			t.Fatalf("user %q", in.User)
		}
		switch in.Kind {
		case Approve, Reject, Details, Submit:
			if !hash.MatchString(in.Target.Evidence) || !label.MatchString(in.Target.Pipeline) || !label.MatchString(in.Target.Environment) || !runID.MatchString(in.Target.Rollout) {
				t.Fatalf("target %+v", in.Target)
			}
		}
		if len([]rune(in.Why)) > slack.MostWhy {
			t.Fatal("a reason without bounds")
		}
	})
}
