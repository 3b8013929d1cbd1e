package cli

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/workflows/contract"
)

// Set by the linker for a release; otherwise the module's own are taken.
var (
	version string
	commit  string
)

// Version is what this build is called.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range append(info.Deps, &info.Main) {
			if module.Path == "portcullis.dev/portcullis" && module.Version != "" && module.Version != "v0.0.0-00010101000000-000000000000" {
				return module.Version
			}
		}
	}
	return "(devel)"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: a.run(func(context.Context, []string) error {
			v := map[string]string{
				"version": Version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH, "pipeline": contract.APIVersion,
			}
			if commit != "" {
				v["commit"] = commit
			}
			return a.print(v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s %s, %s, %s, reads %s\n", a.Program, v["version"], v["go"], v["platform"], v["pipeline"])
				return err
			})
		}),
	}
}
