package cli

import (
	"fmt"
	"net"
	"os/user"
	"strings"

	"github.com/spf13/pflag"

	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/workflows/contract"
)

// globalFlags say how Temporal is reached. A flag goes before the environment,
// that before the file, that before the default.
type globalFlags struct {
	config     string
	address    string
	namespace  string
	taskQueue  string
	apiKeyFile string
	tls        config.TLS
}

func (f *globalFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.config, "config", "", "server configuration file; the command line uses its temporal section [$PORTCULLIS_CONFIG]")
	fs.StringVar(&f.address, "temporal-address", "", "host:port of Temporal's frontend, 127.0.0.1:7233 by default [$PORTCULLIS_TEMPORAL_ADDRESS]")
	fs.StringVar(&f.namespace, "temporal-namespace", "", "Temporal namespace, default by default [$PORTCULLIS_TEMPORAL_NAMESPACE]")
	fs.StringVar(&f.taskQueue, "task-queue", "", "task queue of the daemon, portcullis by default [$PORTCULLIS_TASK_QUEUE]")
	fs.StringVar(&f.apiKeyFile, "temporal-api-key-file", "", "file with an API key for Temporal [$PORTCULLIS_TEMPORAL_API_KEY_FILE, or the key in $PORTCULLIS_TEMPORAL_API_KEY]")
	fs.BoolVar(&f.tls.Enabled, "temporal-tls", false, "use TLS with the system's certificates [$PORTCULLIS_TEMPORAL_TLS=true]")
	fs.StringVar(&f.tls.CAFile, "temporal-tls-ca", "", "certificates to trust [$PORTCULLIS_TEMPORAL_TLS_CA]")
	fs.StringVar(&f.tls.CertFile, "temporal-tls-cert", "", "client certificate [$PORTCULLIS_TEMPORAL_TLS_CERT]")
	fs.StringVar(&f.tls.KeyFile, "temporal-tls-key", "", "client key [$PORTCULLIS_TEMPORAL_TLS_KEY]")
	fs.StringVar(&f.tls.ServerName, "temporal-tls-server-name", "", "name in Temporal's certificate [$PORTCULLIS_TEMPORAL_TLS_SERVER_NAME]")
}

const envPrefix = "PORTCULLIS_"

func (a *app) env(name string) string {
	if a.LookupEnv == nil {
		return ""
	}
	value, _ := a.LookupEnv(envPrefix + name)
	return value
}

// serverConfig reads the file, where one is named, and lays environment and flags over it.
func (a *app) serverConfig() (config.Server, error) {
	file := first(a.flags.config, a.env("CONFIG"))
	var s config.Server
	if file != "" {
		loaded, err := config.LoadServer(file)
		if err != nil {
			return s, err
		}
		s = loaded
	} else {
		config.SetServerDefaults(&s)
	}
	a.overlay(&s.Temporal)
	return s, checkTemporal(s.Temporal)
}

// overlay puts flags and environment over the settings.
func (a *app) overlay(t *config.Temporal) {
	f := a.flags
	for _, o := range []struct {
		to        *string
		flag, env string
	}{
		{&t.Address, f.address, "TEMPORAL_ADDRESS"},
		{&t.Namespace, f.namespace, "TEMPORAL_NAMESPACE"},
		{&t.TaskQueue, f.taskQueue, "TASK_QUEUE"},
		{&t.APIKeyFile, f.apiKeyFile, "TEMPORAL_API_KEY_FILE"},
		{&t.TLS.CAFile, f.tls.CAFile, "TEMPORAL_TLS_CA"},
		{&t.TLS.CertFile, f.tls.CertFile, "TEMPORAL_TLS_CERT"},
		{&t.TLS.KeyFile, f.tls.KeyFile, "TEMPORAL_TLS_KEY"},
		{&t.TLS.ServerName, f.tls.ServerName, "TEMPORAL_TLS_SERVER_NAME"},
	} {
		*o.to = first(o.flag, a.env(o.env), *o.to)
	}
	t.TLS.Enabled = t.TLS.Enabled || f.tls.Enabled || a.env("TEMPORAL_TLS") == "true"
}

// checkTemporal looks at what may have come from flags, which no file check has seen.
func checkTemporal(t config.Temporal) error {
	if _, port, err := net.SplitHostPort(t.Address); err != nil || port == "" {
		return usagef("the address of Temporal, %q, is not host:port", t.Address)
	}
	if (t.TLS.CertFile == "") != (t.TLS.KeyFile == "") {
		return usagef("a client certificate and its key go together: --temporal-tls-cert and --temporal-tls-key")
	}
	return nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// by names who gives an order, and how that is known: by the flag, or by the person's
// account on this machine. It is recorded, not proven: who may talk to Temporal may
// say any name.
func (a *app) by(flag string) (string, contract.Known, error) {
	if said := first(flag, a.env("BY")); strings.TrimSpace(said) != "" {
		return said, contract.KnownSaid, nil
	}
	account, err := user.Current()
	if err != nil || strings.TrimSpace(account.Username) == "" {
		return "", "", usagef("say who you are with --by")
	}
	return account.Username, contract.KnownAccount, nil
}

func addBy(fs *pflag.FlagSet, by *string) {
	fs.StringVar(by, "by", "", fmt.Sprintf("who asks; the user of this machine by default [$%sBY]", envPrefix))
}
