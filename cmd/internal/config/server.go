package config

import (
	"net"
	"net/url"
	"os"
	"path/filepath"

	"portcullis.dev/portcullis/workflows/contract"
)

// ServerKind may stand in a server's file; it is not required there.
const ServerKind = "Server"

// Server is what the daemon and, of it, what the command line needs to know.
type Server struct {
	APIVersion string   `json:"apiVersion,omitempty"`
	Kind       string   `json:"kind,omitempty"`
	Rancher    Rancher  `json:"rancher,omitzero"`
	Temporal   Temporal `json:"temporal,omitzero"`
	Agent      Agent    `json:"agent,omitzero"`
	Git        Git      `json:"git,omitzero"`
	Metrics    Metrics  `json:"metrics,omitzero"`
	Log        Log      `json:"log,omitzero"`
	Slack      Slack    `json:"slack,omitzero"`
}

// Rancher says how the daemon reaches Rancher.
type Rancher struct {
	// URL of Rancher, as people open it.
	URL string `json:"url,omitempty"`
	// TokenFile holds an API token; it is read again when it changes.
	TokenFile string `json:"tokenFile,omitempty"`
	// CAFile has the certificates to trust; empty means the system's.
	CAFile string `json:"caFile,omitempty"`
	// Workspace is the Fleet workspace. Default fleet-default.
	Workspace string `json:"workspace,omitempty"`
}

// Temporal says how the daemon and the command line reach Temporal.
type Temporal struct {
	// Address is host:port of the frontend. Default 127.0.0.1:7233.
	Address string `json:"address,omitempty"`
	// Namespace defaults to default.
	Namespace string `json:"namespace,omitempty"`
	// TaskQueue is where the daemon polls. Default portcullis.
	TaskQueue string `json:"taskQueue,omitempty"`
	// APIKeyFile holds an API key; with one, the connection uses TLS.
	APIKeyFile string `json:"apiKeyFile,omitempty"`
	TLS        TLS    `json:"tls,omitzero"`
}

// TLS of a connection. Any field that is set switches it on.
type TLS struct {
	// Enabled asks for TLS with the system's certificates and no other setting.
	Enabled bool `json:"enabled,omitempty"`
	// CAFile has the certificates to trust; empty means the system's.
	CAFile string `json:"caFile,omitempty"`
	// CertFile and KeyFile are the client's own.
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
	// ServerName is expected in the server's certificate instead of the address's host.
	ServerName string `json:"serverName,omitempty"`
}

// On tells whether the connection is to use TLS.
func (t TLS) On() bool { return t != TLS{} }

// Agent is the node agent on downstream clusters.
type Agent struct {
	// Image of the agent, which is Portcullis's own.
	Image string `json:"image,omitempty"`
	// Namespace defaults to portcullis-system.
	Namespace string `json:"namespace,omitempty"`
	// PullPolicy is Always, IfNotPresent or Never. Default IfNotPresent.
	PullPolicy string `json:"pullPolicy,omitempty"`
	// ImagePullSecrets name Secrets in the agent's namespace.
	ImagePullSecrets []string `json:"imagePullSecrets,omitempty"`
}

// Git is how the daemon reads policy repositories.
type Git struct {
	// CacheDir keeps clones between rollouts; it may be lost at any time.
	CacheDir string `json:"cacheDir,omitempty"`
	// CAFile has the certificates to trust; empty means the system's.
	CAFile string `json:"caFile,omitempty"`
}

// Metrics is the daemon's only listener.
type Metrics struct {
	// Listen is host:port for /metrics, /healthz and /readyz; empty means none.
	Listen string `json:"listen,omitempty"`
}

// Log of the daemon, on standard error.
type Log struct {
	// Level is debug, info, warn or error. Default info.
	Level string `json:"level,omitempty"`
	// Format is text or json. Default text.
	Format string `json:"format,omitempty"`
}

// Slack says how the daemon reaches Slack and is reached by it. Empty means not at all.
type Slack struct {
	// BotTokenFile holds the token (xoxb-) that messages are sent with.
	BotTokenFile string `json:"botTokenFile,omitempty"`
	// AppTokenFile holds the token (xapp-) of Socket Mode, which needs no inbound port.
	AppTokenFile string `json:"appTokenFile,omitempty"`
	// SigningSecretFile holds the secret that Slack signs its requests to Listen with.
	SigningSecretFile string `json:"signingSecretFile,omitempty"`
	// Listen is host:port for Slack's interactions; empty means none.
	Listen string `json:"listen,omitempty"`
	// APIURL is Slack's Web API. Default https://slack.com/api/; GovSlack has another.
	APIURL string `json:"apiURL,omitempty"`
	// CAFile has the certificates to trust; empty means the system's.
	CAFile string `json:"caFile,omitempty"`
}

// On tells whether the daemon has Slack.
func (s Slack) On() bool { return s != Slack{} }

// LoadServer reads, completes and validates a server's file. Relative file
// names in it are taken from the file's own directory.
func LoadServer(file string) (Server, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return Server{}, err
	}
	return ParseServer(file, data)
}

// ParseServer is LoadServer on bytes.
func ParseServer(file string, data []byte) (Server, error) {
	var s Server
	d, err := decode(file, data, &s)
	if err != nil {
		return Server{}, err
	}
	validateServer(d, &s)
	if err := d.found.sorted(); err != nil {
		return Server{}, err
	}
	resolveFiles(&s, filepath.Dir(file))
	SetServerDefaults(&s)
	return s, nil
}

// Defaults of the parts that have one.
const (
	DefaultWorkspace         = "fleet-default"
	DefaultTemporalAddress   = "127.0.0.1:7233"
	DefaultTemporalNamespace = "default"
	DefaultAgentNamespace    = "portcullis-system"
	DefaultPullPolicy        = "IfNotPresent"
)

// SetServerDefaults fills in what was left out. It is the only place where the
// daemon's defaults are decided.
func SetServerDefaults(s *Server) {
	orElse(&s.Rancher.Workspace, DefaultWorkspace)
	orElse(&s.Temporal.Address, DefaultTemporalAddress)
	orElse(&s.Temporal.Namespace, DefaultTemporalNamespace)
	orElse(&s.Temporal.TaskQueue, contract.DefaultTaskQueue)
	orElse(&s.Agent.Namespace, DefaultAgentNamespace)
	orElse(&s.Agent.PullPolicy, DefaultPullPolicy)
	orElse(&s.Git.CacheDir, defaultCacheDir())
	orElse(&s.Log.Level, "info")
	orElse(&s.Log.Format, "text")
}

func orElse(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// defaultCacheDir is in the user's cache, or where the system keeps what may
// be lost when the process has no home.
func defaultCacheDir() string {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	return filepath.Join(base, "portcullis", "git")
}

func resolveFiles(s *Server, dir string) {
	for _, f := range []*string{
		&s.Rancher.TokenFile, &s.Rancher.CAFile,
		&s.Temporal.APIKeyFile, &s.Temporal.TLS.CAFile, &s.Temporal.TLS.CertFile, &s.Temporal.TLS.KeyFile,
		&s.Git.CacheDir, &s.Git.CAFile,
		&s.Slack.BotTokenFile, &s.Slack.AppTokenFile, &s.Slack.SigningSecretFile, &s.Slack.CAFile,
	} {
		if *f != "" && !filepath.IsAbs(*f) {
			*f = filepath.Join(dir, *f)
		}
	}
}

func validateServer(d *document, s *Server) {
	if s.APIVersion != "" {
		d.constant("apiVersion", s.APIVersion, contract.APIVersion)
	}
	if s.Kind != "" {
		d.constant("kind", s.Kind, ServerKind)
	}
	if s.Rancher.URL != "" {
		validateRancherURL(d, s.Rancher.URL)
	}
	if s.Rancher.Workspace != "" {
		d.subdomain("rancher.workspace", s.Rancher.Workspace)
	}
	d.hostPort("temporal.address", s.Temporal.Address)
	d.hostPort("metrics.listen", s.Metrics.Listen)
	if (s.Temporal.TLS.CertFile == "") != (s.Temporal.TLS.KeyFile == "") {
		d.fail("temporal.tls", "has one of certFile and keyFile; they go together")
	}
	if s.Agent.Namespace != "" {
		d.label("agent.namespace", s.Agent.Namespace)
	}
	for i, name := range s.Agent.ImagePullSecrets {
		d.subdomain(index("agent.imagePullSecrets", i), name)
	}
	d.oneOf("agent.pullPolicy", s.Agent.PullPolicy, "Always", "IfNotPresent", "Never")
	d.oneOf("log.level", s.Log.Level, "debug", "info", "warn", "error")
	d.oneOf("log.format", s.Log.Format, "text", "json")
	validateSlackServer(d, s.Slack)
}

// validateSlackServer asks for at least one way in which Slack's buttons arrive.
func validateSlackServer(d *document, s Slack) {
	if !s.On() {
		return
	}
	d.required("slack.botTokenFile", s.BotTokenFile)
	d.hostPort("slack.listen", s.Listen)
	if u, err := url.Parse(s.APIURL); s.APIURL != "" && (err != nil || u.Host == "" || u.Scheme != "https" || u.User != nil) {
		d.fail("slack.apiURL", "is not a plain https URL; tokens are sent over https only")
	}
	switch {
	case (s.Listen == "") != (s.SigningSecretFile == ""):
		d.fail("slack", "has one of listen and signingSecretFile; they go together")
	case s.AppTokenFile == "" && s.Listen == "":
		d.fail("slack", "has no way in for what people press: give appTokenFile for Socket Mode, or listen and signingSecretFile")
	}
}

func validateRancherURL(d *document, raw string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "":
		d.fail("rancher.url", "is not a URL; write it like https://rancher.example.com")
	case u.User != nil:
		d.fail("rancher.url", "has credentials in it; put the token into a file and name it in rancher.tokenFile")
	case u.Scheme != "https":
		d.fail("rancher.url", "has the scheme %q; the token is sent over https only", u.Scheme)
	}
}

func (d *document) hostPort(at, value string) {
	if value == "" {
		return
	}
	if _, port, err := net.SplitHostPort(value); err != nil || port == "" {
		d.fail(at, "%q is not host:port", value)
	}
}

// Complete tells, in Errors, what the daemon cannot run without. The command
// line can: it needs the temporal section alone.
func (s *Server) Complete(file string) error {
	d := &document{file: file, at: map[string]position{"": {1, 1}}}
	d.required("rancher.url", s.Rancher.URL)
	d.required("rancher.tokenFile", s.Rancher.TokenFile)
	d.required("agent.image", s.Agent.Image)
	return d.found.sorted()
}
