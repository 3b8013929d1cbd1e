package daemon

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/slackapp"
)

type fakeSlack struct {
	started, waited bool
	ctx             context.Context
}

func (f *fakeSlack) Start(ctx context.Context, _ slackapp.Temporal, _ *slog.Logger) (func(), error) {
	f.started, f.ctx = true, ctx
	return func() { f.waited = f.ctx.Err() != nil }, nil
}

func TestSlackIsStartedWhereItIsConfigured(t *testing.T) {
	d, _ := newDaemon(t, &fakeRancher{}, nil)
	f := &fakeSlack{}
	d.parts.Slack = f
	wait, err := d.startSlack(t.Context(), nil)
	require.NoError(t, err)
	wait()
	require.False(t, f.started)

	d.opts.Config.Slack = config.Slack{BotTokenFile: "x", AppTokenFile: "y"}
	wait, err = d.startSlack(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, f.started)
	wait()
	require.True(t, f.waited, "it is ended before it is waited for")
}

func TestAPortOfSlackThatIsTakenIsSaid(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	d, _ := newDaemon(t, &fakeRancher{}, nil)
	d.opts.Config.Slack = config.Slack{BotTokenFile: "x", SigningSecretFile: "y", Listen: taken.Addr().String()}
	client, err := slack.NewClient(slack.Config{})
	require.NoError(t, err)
	d.parts.Slack = slackapp.New(d.opts.Config.Slack, client)
	_, err = d.startSlack(t.Context(), nil)
	require.Equal(t, errs.TypeInvalid, errs.TypeOf(err))
	require.ErrorContains(t, err, "slack.listen: cannot listen on")
}
