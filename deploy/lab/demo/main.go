// Command demo shows Portcullis on the lab: one good revision goes to prod,
// one is stopped in dev, one in prod. It leaves everything up for looking.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
)

const limit = 10 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

type demo struct {
	*drive.Portcullis
	pipeline string
	rows     []row
}

// row is one gate of one revision.
type row struct {
	revision, environment, outcome, evidence, seen, reason, back string
	probes                                                       int
}

func run(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	bin := filepath.Dir(exe)
	labDir := os.Getenv("PORTCULLIS_LAB_DIR")
	if labDir == "" {
		labDir = "/var/lib/portcullis-lab"
	}
	step("Start the lab (real clusters on this machine)")
	if err := stream(ctx, filepath.Join(bin, "lab"), "up"); err != nil {
		return err
	}
	d := &demo{pipeline: filepath.Join(labDir, "pipeline.yaml")}
	step("Start Temporal, its UI and Portcullis")
	if d.Portcullis, err = start(ctx, bin, labDir); err != nil {
		return err
	}
	fmt.Println("Temporal UI:", d.UI())
	step("The clusters, as Portcullis sees them")
	if _, err := d.Stream(ctx, os.Stdout, "clusters"); err != nil {
		return err
	}
	if err := d.bring(ctx, "v1", "The policies as they are: the first revision"); err != nil {
		return err
	}
	if err := d.bring(ctx, "good", "A good revision: pods are kept from the instance metadata service"); err != nil {
		return err
	}
	if err := d.bad(ctx, "bad-in-dev", "dev", "A revision that is bad everywhere: stopped in dev"); err != nil {
		return err
	}
	if err := d.bad(ctx, "bad-only-in-prod", "prod", "A revision that is bad only in prod"); err != nil {
		return err
	}
	d.summary()
	return nil
}
