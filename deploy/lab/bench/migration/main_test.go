// Package migration measures migrations from Canal to Calico on the lab, beside
// Calico's own flannel-migration controller: `make bench`. Every run has a lab of
// its own, made for it and taken down after it.
package migration

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"portcullis.dev/portcullis/deploy/lab/internal/drive"
	"portcullis.dev/portcullis/deploy/lab/internal/drive/drivetest"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

const (
	// cluster is the topology's name and that of its Canal cluster.
	cluster = "canal"
	// by is who gives all orders.
	by = "bench"
	// outVariable is the folder for pictures and figures; bin/bench without it.
	outVariable = "PORTCULLIS_BENCH_OUT"
	// asIsVariable has a run use the lab that is up, which must be one on Canal.
	asIsVariable = "PORTCULLIS_BENCH_LAB_AS_IS"
	labLimit     = 15 * time.Minute
)

var must = drivetest.Must

var (
	// nodes are moved in this order.
	nodes = []string{"canal-1", "canal-2", "canal-3"}
	place drive.Options
	out   string
)

func TestMain(m *testing.M) {
	flag.Parse()
	if b := flag.Lookup("test.bench"); b == nil || b.Value.String() == "" {
		os.Exit(m.Run()) // nothing to measure: a lab is not started for it
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	code := m.Run()
	if os.Getenv(drivetest.KeepVariable) == "" {
		if err := place.Show(context.Background(), "down"); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func prepare() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the lab needs root")
	}
	var err error
	if place, err = drive.Here("../../../../bin"); err != nil {
		return err
	}
	if out = os.Getenv(outVariable); out == "" {
		out = filepath.Join(place.BinDir, "bench")
	}
	return os.MkdirAll(out, 0o755)
}

// stage is a lab that was just made, with the sample policies, and with Portcullis
// where that is wanted.
type stage struct {
	drivetest.Lab
	kube kubernetes.Interface
}

// fresh makes the lab anew. A lab that is up, of whatever topology, is taken down.
func fresh(b *testing.B, portcullis bool) *stage {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), labLimit)
	defer cancel()
	if os.Getenv(asIsVariable) == "" {
		must(b, place.Anew(ctx, topologyFile(b, portcullis)))
	}
	o := place
	o.Dir = b.TempDir()
	s := &stage{Lab: drivetest.Lab{Portcullis: &drive.Portcullis{Options: o}}}
	if portcullis {
		var err error
		s.Portcullis, err = drive.Start(ctx, o)
		must(b, err)
		b.Cleanup(s.Stop)
		s.Restart(b)
		b.Cleanup(func() {
			if b.Failed() {
				keep(b, s.Daemon.Log)
			}
		})
	}
	s.kube = s.Client(b, cluster)
	s.policies(b)
	return s
}

// topologyFile names the lab's topology. Portcullis knows clusters by Fleet; Calico's
// controller needs none of it, and is spared it.
func topologyFile(b *testing.B, fleet bool) string {
	b.Helper()
	if fleet {
		return cluster
	}
	file, err := topology.WithoutFleet(cluster, b.TempDir())
	must(b, err)
	return file
}

// keep copies a log to where the pictures are.
func keep(b *testing.B, file string) {
	b.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(filepath.Join(out, filename(b.Name())+"-"+filepath.Base(file)), text, 0o644)
	}
	if err != nil {
		b.Error(err)
	}
}

func filename(name string) string {
	_, name, _ = strings.Cut(name, "Benchmark")
	return strings.ToLower(strings.NewReplacer("/", "-", "#", "-").Replace(name))
}

// write keeps figures or a picture.
func write(b *testing.B, ending string, content any) {
	b.Helper()
	text, is := content.(string)
	if !is {
		encoded, err := json.MarshalIndent(content, "", "  ")
		must(b, err)
		text = string(encoded) + "\n"
	}
	must(b, os.WriteFile(filepath.Join(out, filename(b.Name())+ending), []byte(text), 0o644))
}
