package view

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/workflows/contract"
)

func TestStatusSaysThatSlackIsBehind(t *testing.T) {
	r := atGate()
	require.NotContains(t, strings.Join(Screen{Width: 100, Now: noon}.Lines(r), "\n"), "Slack is behind")
	r.Slack = &contract.SlackState{Behind: noon, Reason: "Slack refuses the token (token_revoked)"}
	require.Contains(t, strings.Join(Screen{Width: 100, Now: noon}.Lines(r), "\n"), "Slack is behind since 12:00 UTC: Slack refuses the token (token_revoked)")
}
