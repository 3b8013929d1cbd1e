package slack_test

import (
	"bytes"
	"image/png"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/slack/slacktest"
)

// measuredView is a gate with a matrix of two requirements on three clusters.
func measuredView() slack.View {
	v := gateView()
	v.Gate.Matrix = &slack.Matrix{Clusters: 3, Rows: []slack.MatrixRow{
		{Name: "web reaches api", Cells: "mmm"},
		{Name: "nobody reaches db", Cells: "mu-", Unmet: []string{"prod-2"}},
	}}
	return v
}

func input(v slack.View, before *slack.Posted) slack.MessageInput {
	in := slack.MessageInput{Channel: "C0GATES", Environment: "prod", View: v}
	if before != nil {
		in.At, in.Picture = before.At, before.Picture
	}
	return in
}

// The matrix is uploaded once, and stays in the message as long as the gate shows it.
func TestAGateShowsWhatWasMeasured(t *testing.T) {
	s, a, _ := workspace(t)
	first, err := a.Message(t.Context(), input(measuredView(), nil))
	require.NoError(t, err)
	files := s.Files()
	require.Len(t, files, 1)
	require.Empty(t, files[0].Channel, "the message shows the file; it is not posted beside it")
	require.Equal(t, "4 of 6 as required, by 2 requirements on 3 clusters", files[0].Alt)
	img, err := png.Decode(bytes.NewReader(files[0].Data))
	require.NoError(t, err)
	require.GreaterOrEqual(t, img.Bounds().Dx(), 300)

	m := s.Messages("C0GATES", "")[0]
	require.Equal(t, []string{files[0].ID}, m.Pictures())
	for _, want := range []string{"4 of 6 as required", "1  web reaches api: as required on 3 of 3", "2  nobody reaches db: as required on 1 of 3, not on prod-2, not measured on 1"} {
		require.Contains(t, m.Blocks, want)
	}
	require.NotContains(t, m.Blocks, "The wire was measured", "the matrix says it")

	voted := measuredView()
	voted.Gate.Counted = 2
	second, err := a.Message(t.Context(), input(voted, first))
	require.NoError(t, err)
	require.Equal(t, first.Picture, second.Picture)
	require.Len(t, s.Files(), 1, "what is the same is not uploaded again")

	other := measuredView()
	other.Gate.Matrix.Rows[1].Cells = "mmm"
	third, err := a.Message(t.Context(), input(other, second))
	require.NoError(t, err)
	require.Len(t, s.Files(), 2)

	other.Gate = nil
	_, err = a.Message(t.Context(), input(other, third))
	require.NoError(t, err)
	require.Empty(t, s.Messages("C0GATES", "")[0].Pictures(), "with the gate goes the picture")
	require.Len(t, s.Messages("C0GATES", ""), 1)
}

// A picture that cannot be had holds no message up.
func TestAGateIsShownWithoutItsPicture(t *testing.T) {
	for name, test := range map[string]struct {
		method string
		fault  slacktest.Fault
		says   string
		// again is set where the next change of the message tries once more.
		again bool
	}{
		"no scope":    {"files.getUploadURLExternal", slacktest.Fault{Error: "missing_scope", Needed: "files:write", Provided: "chat:write"}, "needs the scope files:write", false},
		"not allowed": {"files.completeUploadExternal", slacktest.Fault{Error: "file_uploads_disabled"}, "file_uploads_disabled", false},
		"limited":     {"files.getUploadURLExternal", slacktest.Fault{Status: 429, RetryAfter: "60"}, "may be asked again", true},
		"broken":      {"files.completeUploadExternal", slacktest.Fault{Status: 503}, "answered 503", true},
	} {
		t.Run(name, func(t *testing.T) {
			s, a, _ := workspace(t)
			s.Fail(test.method, test.fault)
			at, err := a.Message(t.Context(), input(measuredView(), nil))
			require.NoError(t, err)
			require.Contains(t, at.Picture.Error, test.says)
			m := s.Messages("C0GATES", "")[0]
			require.Empty(t, m.Pictures())
			require.Contains(t, m.Blocks, "as required on 3 of 3", "it is said in words")
			require.Contains(t, m.Blocks, slack.ActionApprove)

			_, err = a.Message(t.Context(), input(measuredView(), at))
			require.NoError(t, err)
			require.Len(t, s.Messages("C0GATES", "")[0].Pictures(), map[bool]int{true: 1, false: 0}[test.again])
		})
	}
}

// Slack needs a moment before it shows a file, and calls a message with it invalid until then.
func TestSlackIsGivenTimeForAPicture(t *testing.T) {
	s, a, _ := workspace(t)
	s.Fail("chat.postMessage", slacktest.Fault{Error: "invalid_blocks"})
	_, err := a.Message(t.Context(), input(measuredView(), nil))
	require.NoError(t, err)
	require.Len(t, s.Messages("C0GATES", "")[0].Pictures(), 1)
	require.Len(t, s.Files(), 1)

	// Another answer than that is nobody's to wait for.
	s.Fail("chat.update", slacktest.Fault{Error: "message_not_found"})
	began := len(s.Calls("chat.update"))
	_, err = a.Message(t.Context(), input(measuredView(), &slack.Posted{At: s.Messages("C0GATES", "")[0].TS}))
	require.Error(t, err)
	require.Len(t, s.Calls("chat.update"), began+1)
}

func TestDrawIsBounded(t *testing.T) {
	m := slack.Matrix{Clusters: 5000}
	for range 300 {
		m.Rows = append(m.Rows, slack.MatrixRow{Name: "r", Cells: strings.Repeat("mu-x", 500)})
	}
	data, err := slack.Draw(m)
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	require.Less(t, img.Bounds().Dx(), 1400)
	require.Less(t, img.Bounds().Dy(), 700)
	require.Less(t, len(data), 64<<10)
	for _, empty := range []slack.Matrix{{}, {Rows: []slack.MatrixRow{{}}}} {
		_, err := slack.Draw(empty)
		require.NoError(t, err)
	}
}
