package rancherd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// DefaultStateDir is where the lab lives unless PORTCULLIS_LAB_DIR says otherwise.
const DefaultStateDir = "/var/lib/portcullis-lab"

// DefaultUser is whom the lab's token belongs to.
const DefaultUser = "u-portcullis"

// StateDirFlag adds --state, with its default, to a command.
func StateDirFlag(cmd *cobra.Command) *string {
	def := cmp.Or(os.Getenv("PORTCULLIS_LAB_DIR"), DefaultStateDir)
	return cmd.PersistentFlags().String("state", def, "folder of the running lab ($PORTCULLIS_LAB_DIR)")
}

// Command is `lab rancherd`: it serves until it is told to stop.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rancherd",
		Short: "Serve Rancher's cluster proxy for the lab",
		Args:  cobra.NoArgs,
	}
	stateDir := StateDirFlag(cmd)
	listen := cmd.Flags().String("listen", Listen, "address to listen on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		return Run(ctx, In(*stateDir), *listen, log)
	}
	return cmd
}

// Run serves until ctx ends.
func Run(ctx context.Context, files Files, listen string, log *slog.Logger) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	if err := files.EnsurePKI(host, "127.0.0.1", "localhost"); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	s, err := NewServer(files, log)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Addr: listen, Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	watchCtx, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	if mgmt, err := files.management(); err == nil {
		go s.Watch(watchCtx, mgmt)
	} else {
		log.Warn("cluster objects are not kept: no management cluster", "err", err)
	}
	ended := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer ended()
	log.Info("serving", "address", listen, "clusters", len(s.backends))
	err = srv.ListenAndServeTLS(files.ServerCert(), files.ServerKey())
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// management is a client for the cluster that Rancher's objects live in.
func (f Files) management() (dynamic.Interface, error) {
	list, err := f.ReadClusters()
	if err != nil {
		return nil, err
	}
	u, err := resolve(list, "local")
	if err != nil {
		return nil, err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", u.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return dynamic.NewForConfig(cfg)
}

// AdminCommand is `lab rancher`: the proxy's faults and its tokens.
func AdminCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "rancher", Short: "Cut Rancher's connection to a cluster, make and revoke its tokens"}
	stateDir := StateDirFlag(cmd)
	cmd.AddCommand(
		connection(stateDir, "disconnect", "Answer 503 for a cluster and end its streams", Files.Disconnect),
		connection(stateDir, "connect", "Undo disconnect", Files.Connect),
		tokens(stateDir),
	)
	return cmd
}

func connection(stateDir *string, verb, short string, do func(Files, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " CLUSTER", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			files := In(*stateDir)
			list, err := files.ReadClusters()
			if err != nil {
				return err
			}
			u, err := resolve(list, args[0])
			if err != nil {
				return err
			}
			return do(files, u.ID)
		},
	}
}

func tokens(stateDir *string) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make and revoke tokens"}
	create := &cobra.Command{Use: "create", Short: "Make a token and print it", Args: cobra.NoArgs}
	user := create.Flags().String("user", DefaultUser, "whose token it is")
	ttl := create.Flags().Duration("ttl", 0, "how long it is valid; 0 is for ever, below 0 has expired")
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		tok, err := NewToken(In(*stateDir).TokenTable(), *user, *ttl)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), tok)
		return err
	}
	revoke := &cobra.Command{
		Use: "revoke NAME", Short: "Revoke a token (token-xxxxx)", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return RevokeToken(In(*stateDir).TokenTable(), args[0])
		},
	}
	cmd.AddCommand(create, revoke)
	return cmd
}
