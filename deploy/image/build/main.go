// Command build writes Portcullis's image from programs that are built already:
// `make image`. It needs no container engine and talks to nothing.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"portcullis.dev/portcullis/deploy/image"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	var o image.Options
	out := fs.String("out", ".", "folder to write to")
	created := fs.String("created", "", "time of the revision, like 2026-01-02T15:04:05Z; it goes into labels and files")
	fs.StringVar(&o.Version, "version", "dev", "version, which is the tag too")
	fs.StringVar(&o.Revision, "revision", "", "commit")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New("name the programs, like amd64=bin/image/amd64/portcullis arm64=bin/image/arm64/portcullis")
	}
	if *created != "" {
		t, err := time.Parse(time.RFC3339, *created)
		if err != nil {
			return fmt.Errorf("-created: %w", err)
		}
		o.Created = t
	}
	return write(*out, o, fs.Args())
}

func write(dir string, o image.Options, programs []string) error {
	ref := image.Name + ":" + o.Version
	var images []v1.Image
	for _, p := range programs {
		var found bool
		if o.Architecture, o.Program, found = strings.Cut(p, "="); !found {
			return fmt.Errorf("%q is not ARCHITECTURE=FILE", p)
		}
		img, err := image.Build(o)
		if err != nil {
			return err
		}
		images = append(images, img)
		file := filepath.Join(dir, "portcullis."+o.Architecture+".docker.tar")
		if err := image.WriteDocker(file, ref, img); err != nil {
			return err
		}
		size, err := image.Size(img)
		if err != nil {
			return err
		}
		fmt.Printf("%s  %s, %.1f MB compressed\n", file, o.Architecture, float64(size)/1e6)
	}
	idx, err := image.Index(images...)
	if err != nil {
		return err
	}
	digest, err := idx.Digest()
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "portcullis.oci.tar")
	if err := image.WriteOCI(file, ref, idx); err != nil {
		return err
	}
	fmt.Printf("%s  %s@%s\n", file, ref, digest)
	return nil
}
