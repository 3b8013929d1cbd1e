package world

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/deploy/lab/internal/apply"
	"portcullis.dev/portcullis/deploy/lab/internal/gitd"
	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
	"portcullis.dev/portcullis/deploy/lab/policies"
)

// repoName is the sample repository's; it is served as URL/repoName.
const repoName = "network-policies.git"

// RepoURL is the sample repository as Fleet and Portcullis reach it.
const RepoURL = gitd.URL + "/" + repoName

func repo(stateDir string) gitd.Repo {
	return gitd.Repo{Bare: filepath.Join(gitd.Root(stateDir), repoName), Work: filepath.Join(stateDir, "policies")}
}

// git makes the repository with its first commit and serves it.
func (w *world) git(ctx context.Context) error {
	r := repo(w.StateDir)
	if err := r.Create(ctx); err != nil {
		return err
	}
	head, err := r.Head(ctx)
	if err != nil {
		return err
	}
	if head == "" {
		if head, err = CommitPolicy(ctx, w.StateDir, policies.First); err != nil {
			return err
		}
		w.Log("git: %s is %s", policies.First, head)
	}
	if err := w.serve("gitd"); err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	return apply.Until(ctx, connectWithin, func(ctx context.Context) (bool, string, error) {
		err := ask(ctx, client, RepoURL+"/info/refs?service=git-upload-pack", "")
		return err == nil, fmt.Sprintf("%s: %v", RepoURL, err), nil
	})
}

// CommitPolicy commits a scenario on the branch of the lab's repository and
// returns the commit.
func CommitPolicy(ctx context.Context, stateDir, scenario string) (string, error) {
	s, err := policies.Load(scenario)
	if err != nil {
		return "", err
	}
	tree, err := policies.Tree(scenario)
	if err != nil {
		return "", err
	}
	return repo(stateDir).Commit(ctx, s.Message, tree)
}

// PolicyCommand is `lab policy`: changes of the sample repository.
func PolicyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Change the lab's policy repository"}
	stateDir := rancherd.StateDirFlag(cmd)
	commit := &cobra.Command{
		Use: "commit SCENARIO", Short: "Commit a scenario on " + gitd.Branch + " and print the commit",
		Args: cobra.ExactArgs(1), ValidArgs: policies.Names(),
		RunE: func(cmd *cobra.Command, args []string) error {
			sha, err := CommitPolicy(cmd.Context(), *stateDir, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), sha)
			return err
		},
	}
	list := &cobra.Command{
		Use: "list", Short: "List the scenarios", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, n := range policies.Names() {
				s, err := policies.Load(n)
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-18s %s\n", n, s.Message); err != nil {
					return err
				}
			}
			return nil
		},
	}
	head := &cobra.Command{
		Use: "head", Short: "Print the commit at the end of " + gitd.Branch, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sha, err := repo(*stateDir).Head(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), sha)
			return err
		},
	}
	cmd.AddCommand(commit, list, head)
	return cmd
}
