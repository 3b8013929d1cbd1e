package deployed

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	_ "go.temporal.io/server/common/persistence/sql/sqlplugin/postgresql" // the plugin that the configuration names
	"go.temporal.io/server/tools/sql"
	"google.golang.org/protobuf/types/known/durationpb"
)

// folder has what is tried here.
const folder = "../../../../deploy/temporal"

// tools are the programs of Temporal's images that the scripts call. This program
// is each of them, under that name.
var tools = map[string]func(args []string) error{
	"temporal-sql-tool": sql.RunTool,
	"temporal":          operator,
}

func TestMain(m *testing.M) {
	if run, ok := tools[filepath.Base(os.Args[0])]; ok {
		if err := run(os.Args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// operator does what Temporal's command line does for the commands of
// setup-namespace.sh, and takes no other.
func operator(args []string) error {
	verb := strings.Join(args[1:min(len(args), 4)], " ")
	verb, _, _ = strings.Cut(verb, " --")
	fs := flag.NewFlagSet(verb, flag.ContinueOnError)
	name := fs.String("namespace", "", "")
	retention := fs.String("retention", "", "")
	description := fs.String("description", "", "")
	limit := fs.Int("limit", 0, "")
	if err := fs.Parse(args[1+len(strings.Fields(verb)):]); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := client.Dial(client.Options{HostPort: os.Getenv("TEMPORAL_ADDRESS"), Namespace: *name})
	if err != nil {
		return err
	}
	defer c.Close()
	switch verb {
	case "operator namespace describe":
		_, err = c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: *name})
	case "operator namespace create":
		var keep time.Duration
		if keep, err = days(*retention); err == nil {
			_, err = c.WorkflowService().RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
				Namespace: *name, Description: *description, WorkflowExecutionRetentionPeriod: durationpb.New(keep),
			})
		}
	case "workflow list":
		_, err = c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{PageSize: int32(*limit)})
	default:
		err = fmt.Errorf("unknown command %q", args)
	}
	return err
}

// days reads 30d, which Go's durations do not know and Temporal's command line does.
func days(s string) (time.Duration, error) {
	n, found := strings.CutSuffix(s, "d")
	if !found {
		return time.ParseDuration(s)
	}
	d, err := time.ParseDuration(n + "h")
	return 24 * d, err
}
