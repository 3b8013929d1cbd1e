package config

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const goodServer = `rancher: {url: https://rancher.example.com, tokenFile: token, caFile: /etc/ca.crt}
agent: {image: registry.example.com/portcullis:v1}
`

func TestServerIsReadAndCompleted(t *testing.T) {
	s, err := ParseServer("/etc/portcullis/server.yaml", []byte(goodServer))
	require.NoError(t, err)
	require.NoError(t, s.Complete("server.yaml"))
	require.Equal(t, "/etc/portcullis/token", s.Rancher.TokenFile)
	require.Equal(t, "/etc/ca.crt", s.Rancher.CAFile)
	require.Equal(t, "fleet-default", s.Rancher.Workspace)
	require.Equal(t, "127.0.0.1:7233", s.Temporal.Address)
	require.Equal(t, "portcullis", s.Temporal.TaskQueue)
	require.False(t, s.Temporal.TLS.On())
	require.Empty(t, s.Metrics.Listen)
	require.False(t, s.Slack.On())
	s, err = ParseServer("/etc/portcullis/server.yaml", []byte("slack: {botTokenFile: bot, appTokenFile: app, signingSecretFile: /run/secret, listen: 0.0.0.0:8085, apiURL: https://slack-gov.com/api/, caFile: ca.pem}"))
	require.NoError(t, err)
	require.Equal(t, Slack{"/etc/portcullis/bot", "/etc/portcullis/app", "/run/secret", "0.0.0.0:8085", "https://slack-gov.com/api/", "/etc/portcullis/ca.pem"}, s.Slack)
}

func TestBadServersAreRefusedWithThePlace(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"unknown":        {"rancher: {urll: https://x}", `s.yaml:1:11: rancher.urll: unknown field; did you mean "url"?`},
		"plain http":     {"rancher: {url: http://rancher.example.com}", `s.yaml:1:11: rancher.url: has the scheme "http"; the token is sent over https only`},
		"credentials":    {"rancher: {url: 'https://a:hunter2@r'}", `s.yaml:1:11: rancher.url: has credentials in it; put the token into a file and name it in rancher.tokenFile`},
		"address":        {"temporal: {address: localhost}", `s.yaml:1:12: temporal.address: "localhost" is not host:port`},
		"half a pair":    {"temporal: {tls: {certFile: c}}", `s.yaml:1:12: temporal.tls: has one of certFile and keyFile; they go together`},
		"pull policy":    {"agent: {pullPolicy: ifnotpresent}", `s.yaml:1:9: agent.pullPolicy: "ifnotpresent" is none of Always, IfNotPresent, Never; did you mean "IfNotPresent"?`},
		"log level":      {"log: {level: verbose}", `s.yaml:1:7: log.level: "verbose" is none of debug, info, warn, error`},
		"kind":           {"kind: Pipeline", `s.yaml:1:1: kind: is "Pipeline"; this Portcullis reads "Server"`},
		"slack token":    {"slack: {appTokenFile: app}", `s.yaml:1:1: slack.botTokenFile: is required`},
		"slack way in":   {"slack: {botTokenFile: bot}", `s.yaml:1:1: slack: has no way in for what people press: give appTokenFile for Socket Mode, or listen and signingSecretFile`},
		"slack secret":   {"slack: {botTokenFile: bot, appTokenFile: app, listen: ':8085'}", `s.yaml:1:1: slack: has one of listen and signingSecretFile; they go together`},
		"slack listen":   {"slack: {botTokenFile: bot, signingSecretFile: s, listen: slack}", `s.yaml:1:50: slack.listen: "slack" is not host:port`},
		"slack http":     {"slack: {botTokenFile: bot, appTokenFile: app, apiURL: 'http://slack.com/api/'}", `s.yaml:1:47: slack.apiURL: is not a plain https URL; tokens are sent over https only`},
		"port as number": {"metrics: {listen: 9090}", `s.yaml:1:19: metrics.listen: wants text and has a number; put it in quotes: "9090"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseServer("s.yaml", []byte(c.file))
			require.EqualError(t, err, c.want)
		})
	}
}

func TestDaemonSaysWhatItCannotRunWithout(t *testing.T) {
	s, err := ParseServer("s.yaml", []byte("temporal: {namespace: x}"))
	require.NoError(t, err)
	require.EqualError(t, s.Complete("s.yaml"), "s.yaml:1:1: rancher.url: is required\ns.yaml:1:1: rancher.tokenFile: is required\ns.yaml:1:1: agent.image: is required")
}

// The documentation's examples are read as they stand there.
func TestDocumentedExamplesAreValid(t *testing.T) {
	const (
		header = "apiVersion: portcullis.dev/v1alpha1\nkind: Pipeline\nmetadata: {name: x}\n"
		rest   = "  source: {repo: https://git.example.com/x/y, branch: main}\n  probes: [{name: dns, from: {namespaces: all}, to: {dns: example.com}, expect: allow}]\n"
	)
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	for file, parse := range map[string]func(string, []byte) error{
		"../../../docs/pipeline.md": func(f string, b []byte) error { _, err := ParsePipeline(f, b); return err },
		// An excerpt: what else a pipeline needs is put around it.
		"../../../docs/approvals.md": func(f string, b []byte) error {
			_, err := ParsePipeline(f, append([]byte(header), append(b, rest...)...))
			return err
		},
		"../../../docs/cli.md": func(f string, b []byte) error { _, err := ParseServer(f, b); return err },
	} {
		doc, err := os.ReadFile(file)
		require.NoError(t, err)
		found := block.FindAllStringSubmatch(string(doc), -1)
		require.NotEmpty(t, found, file)
		for _, f := range found {
			require.NoError(t, parse(file, []byte(f[1])), strings.TrimSpace(f[1]))
		}
	}
}

func FuzzServer(f *testing.F) {
	f.Add([]byte(goodServer))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ParseServer("s.yaml", data); err == nil {
			require.NotEmpty(t, s.Temporal.Address)
		}
	})
}
