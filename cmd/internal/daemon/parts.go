package daemon

import (
	"context"
	"slices"

	"go.temporal.io/sdk/worker"

	"portcullis.dev/portcullis/activities/audit"
	"portcullis.dev/portcullis/activities/deliver"
	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/migrate"
	"portcullis.dev/portcullis/activities/preflight"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/slackapp"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows"
)

// build makes the real parts. It reads files and talks to nothing.
func build(cfg config.Server, version string) (*Parts, error) {
	client, err := rancher.New(rancher.Config{
		URL:       cfg.Rancher.URL,
		TokenFile: cfg.Rancher.TokenFile,
		CAFile:    cfg.Rancher.CAFile,
		Workspace: cfg.Rancher.Workspace,
		UserAgent: "portcullis/" + version,
	})
	if err != nil {
		return nil, errs.FromRancher(err)
	}
	chat, err := slack.NewClient(slack.Config{BotTokenFile: cfg.Slack.BotTokenFile, URL: cfg.Slack.APIURL, CAFile: cfg.Slack.CAFile})
	if err != nil {
		return nil, err
	}
	agent := verify.Config{
		Image:            cfg.Agent.Image,
		Namespace:        cfg.Agent.Namespace,
		PullPolicy:       cfg.Agent.PullPolicy,
		ImagePullSecrets: cfg.Agent.ImagePullSecrets,
	}
	activities := workflows.Activities{
		Source:    source.New(source.Config{CacheDir: cfg.Git.CacheDir, CAFile: cfg.Git.CAFile}, client),
		Deliver:   deliver.New(client),
		Verify:    verify.New(agent, client),
		Preflight: preflight.New(preflight.Config{Namespace: cfg.Agent.Namespace}, client),
		Migrate:   migrate.New(agent, client, client),
		Audit:     audit.New(client, client),
		Slack:     slack.New(chat),
	}
	app := slackapp.New(cfg.Slack, chat)
	return &Parts{
		Rancher: typed{client},
		Slack:   app,
		Register: func(r worker.Registry) {
			workflows.Register(r)
			workflows.RegisterActivities(r, activities)
		},
		Collectors: slices.Concat(activities.Source.Collectors(), activities.Deliver.Collectors(), activities.Verify.Collectors(), activities.Preflight.Collectors(), activities.Audit.Collectors(), chat.Collectors(), app.Collectors()),
	}, nil
}

// typed gives the client's errors the types by which the daemon and its exit
// code tell what can pass from what cannot.
type typed struct{ client *rancher.Client }

func (t typed) Check(ctx context.Context) error { return errs.FromRancher(t.client.Check(ctx)) }
func (t typed) Start(ctx context.Context) error { return errs.FromRancher(t.client.Start(ctx)) }
