package doctor

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	slackgo "github.com/slack-go/slack"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
	"portcullis.dev/portcullis/cmd/internal/config"
)

// The scopes of the bot's token: without the first nothing is shown; the second
// finds who is in a user group that may approve, the third uploads what was measured.
const (
	scopeWrite  = "chat:write"
	scopeGroups = "usergroups:read"
	scopeFiles  = "files:write"
)

func (d *doctor) slack(ctx context.Context) {
	settings := d.Config.Slack
	if !settings.On() {
		d.skip(ctx, "the daemon's file has no slack", SlackToken)
		return
	}
	d.check(ctx, SlackToken, "", func(ctx context.Context) finding {
		if err := slackFiles(settings); err != nil {
			return failed(err)
		}
		client, err := slack.NewClient(slack.Config{BotTokenFile: settings.BotTokenFile, URL: settings.APIURL, CAFile: settings.CAFile})
		if err != nil {
			return failed(err)
		}
		var who *slackgo.AuthTestResponse
		err = client.Do(ctx, "auth.test", "the bot token", func(ctx context.Context, api *slackgo.Client) (err error) {
			who, err = api.AuthTestContext(ctx)
			return err
		})
		if err != nil {
			return failed(err)
		}
		return scopes(who.User, who.Team, who.Header.Get("X-OAuth-Scopes"))
	})
}

// slackFiles sees that the secrets are there, each in its place. None is told.
func slackFiles(s config.Slack) error {
	for _, f := range []struct{ field, path, prefix string }{
		{"botTokenFile", s.BotTokenFile, "xoxb-"}, {"appTokenFile", s.AppTokenFile, "xapp-"}, {"signingSecretFile", s.SigningSecretFile, ""},
	} {
		if f.path == "" {
			continue
		}
		data, err := os.ReadFile(f.path)
		text := strings.TrimSpace(string(data))
		switch {
		case err != nil:
			return errs.Invalid("slack.%s: %v", f.field, err)
		case text == "":
			return errs.Invalid("slack.%s: %s is empty", f.field, f.path)
		case !strings.HasPrefix(text, f.prefix):
			return errs.Invalid("slack.%s: %s does not hold a token that begins with %s", f.field, f.path, f.prefix)
		}
	}
	return nil
}

// scopes judges what the token may do.
func scopes(user, team, header string) finding {
	have := strings.FieldsFunc(header, func(r rune) bool { return r == ',' || r == ' ' })
	who := fmt.Sprintf("%s in %s", user, team)
	remedy := func(scope string) string {
		return "add the scope " + scope + " to the app (OAuth & Permissions), install it again, and put the new token into the file"
	}
	switch {
	case len(have) == 0:
		return doubt("see them in the app's OAuth & Permissions", "it is %s; Slack does not tell its scopes", who)
	case !slices.Contains(have, scopeWrite):
		return broken(remedy(scopeWrite), "it is %s, without the scope %s: nothing can be shown", who, scopeWrite)
	}
	var lack, so []string
	for _, s := range []struct{ scope, so string }{{scopeGroups, "user groups cannot approve"}, {scopeFiles, "gates have no picture of what was measured"}} {
		if !slices.Contains(have, s.scope) {
			lack, so = append(lack, s.scope), append(so, s.so)
		}
	}
	if len(lack) > 0 {
		missing := strings.Join(lack, " and ")
		return doubt(remedy(missing), "it is %s, without the scope %s: %s", who, missing, strings.Join(so, ", and "))
	}
	return fine("it is %s, with all scopes", who)
}
