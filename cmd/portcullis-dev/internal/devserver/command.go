package devserver

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"portcullis.dev/portcullis/cmd/internal/cli"
	"portcullis.dev/portcullis/cmd/internal/config"
)

// Retention is how long ended rollouts can be read.
const Retention = 7 * 24 * time.Hour

// New gives the command line its embedded server.
func New(lookupEnv func(string) (string, bool)) *cli.DevServer {
	o := Options{Namespace: config.DefaultTemporalNamespace, Retention: Retention}
	return &cli.DevServer{
		Flags: func(fs *pflag.FlagSet) {
			fs.StringVar(&o.Database, "db", defaultDatabase(lookupEnv), "SQLite file that Temporal keeps everything in")
			fs.IntVar(&o.Port, "temporal-port", 7233, "port of Temporal's frontend on 127.0.0.1")
			fs.IntVar(&o.UIPort, "ui-port", 8233, "port of Temporal's UI on 127.0.0.1")
		},
		Start: func(_ context.Context, log *slog.Logger) (cli.RunningDevServer, error) {
			o.Logger = log
			s, err := Start(o)
			if err != nil {
				return cli.RunningDevServer{}, err
			}
			return cli.RunningDevServer{Address: s.Address(), Namespace: o.Namespace, UI: s.UI(), Stop: s.Stop}, nil
		},
	}
}

// defaultDatabase is in the user's state folder, as the XDG rules have it.
func defaultDatabase(lookupEnv func(string) (string, bool)) string {
	const name = "portcullis/temporal.db"
	if state, _ := lookupEnv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, name)
	}
	home, _ := lookupEnv("HOME")
	return filepath.Join(home, ".local", "state", name)
}
