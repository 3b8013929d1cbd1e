package devserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	sqliteschema "go.temporal.io/server/schema/sqlite"
	"google.golang.org/protobuf/types/known/durationpb"
)

// openDatabase makes the file, its tables and the namespace, where they are not there.
func openDatabase(o Options) (*config.SQL, error) {
	if err := os.MkdirAll(filepath.Dir(o.Database), 0o700); err != nil {
		return nil, fmt.Errorf("the folder of Temporal's database cannot be made: %w", err)
	}
	switch _, err := os.Stat(o.Database); {
	case errors.Is(err, fs.ErrNotExist):
		if err := createDatabase(o.Database); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("the database of Temporal cannot be read: %w", err)
	}
	sql := &config.SQL{
		PluginName:   sqlite.PluginName,
		DatabaseName: o.Database,
		ConnectAttributes: map[string]string{
			"mode": "rwc",
			// The write-ahead log is what lets the process be killed at any
			// instant; synchronous=1 loses nothing then, only when the machine itself stops.
			"journal_mode": "wal",
			"synchronous":  "1",
			"busy_timeout": "10000",
		},
	}
	return sql, createNamespace(sql, o)
}

// createDatabase builds the tables under another name, so that a process that
// is killed half-way leaves no database that looks whole.
func createDatabase(file string) error {
	partial := file + ".partial"
	if err := os.Remove(partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the database of Temporal cannot be made: %w", err)
	}
	sql := &config.SQL{
		PluginName:        sqlite.PluginName,
		DatabaseName:      partial,
		ConnectAttributes: map[string]string{"mode": "rwc"},
	}
	if err := sqliteschema.SetupSchema(sql); err != nil {
		return fmt.Errorf("the database of Temporal %s cannot be made: %w", file, err)
	}
	if err := os.Rename(partial, file); err != nil {
		return fmt.Errorf("the database of Temporal cannot be made: %w", err)
	}
	return nil
}

func createNamespace(sql *config.SQL, o Options) error {
	ns, err := sqliteschema.NewNamespaceConfig(clusterName, o.Namespace, false, nil)
	if err != nil {
		return fmt.Errorf("namespace of Temporal %s: %w", o.Namespace, err)
	}
	ns.Detail.Config.Retention = durationpb.New(o.Retention)
	if err := sqliteschema.CreateNamespaces(sql, ns); err != nil {
		return fmt.Errorf("the database of Temporal %s cannot be used: %w; move it away to begin anew", o.Database, err)
	}
	return nil
}
