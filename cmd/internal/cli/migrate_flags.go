package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/probes/migration/manifest"
	"portcullis.dev/portcullis/probes/preflight"
)

// migrationFlags are what `migrate plan` and `migrate start` share, so that what is
// started is what was planned.
type migrationFlags struct {
	target        preflight.Target
	options       migration.Options
	encapsulation string
	mode          string
	windows       []string
	// calico is the file with Calico's manifest.
	calico string
}

func (f *migrationFlags) add(c *cobra.Command) {
	addTarget(c, &f.target, &f.encapsulation, preflight.VXLAN)
	fs := c.Flags()
	fs.StringVar(&f.calico, "calico", "", "file with Calico's manifest (calico-vxlan.yaml) that is to be installed")
	fs.StringVar(&f.mode, "mode", "", "in-place or drain; in place wherever that is possible by default")
	fs.StringSliceVar(&f.options.First, "first", nil, "nodes to begin with, in this order")
	fs.IntVar(&f.options.Parallel, "parallel", 0, "workers that move at a time; control-plane nodes move one by one (default 1)")
	fs.IntVar(&f.options.MaxFailures, "max-failures", 0, "nodes that may fail, and be put back, before the migration stops (default 0)")
	fs.BoolVar(&f.options.Canary, "canary", false, "wait for an approval after the first node")
	fs.StringArrayVar(&f.windows, "window", nil, `when nodes may begin to move, such as "mon-fri 22:00-05:00 Europe/Berlin"; always by default`)
	_ = c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"in-place", "drain"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.MarkFlagFilename("calico", "yaml", "yml")
}

// maxParallel bounds --parallel: beyond it, what is moved at once can hardly be
// probed between.
const maxParallel = 100

// read looks at the flags and, where a manifest is named, completes them with it.
// The packed manifest is nil where none is named.
func (f *migrationFlags) read() (packed []byte, err error) {
	f.target.Encapsulation, f.options.Mode = preflight.Encapsulation(f.encapsulation), migration.Mode(f.mode)
	if err := checkTarget(f.target); err != nil {
		return nil, err
	}
	switch m := f.options.Mode; {
	case m != "" && m != migration.InPlace && m != migration.Drain:
		return nil, usagef("--mode is %q; it is in-place or drain", f.mode)
	case f.options.Parallel < 0 || f.options.Parallel > maxParallel:
		return nil, usagef("--parallel is %d; it is from 1 to %d", f.options.Parallel, maxParallel)
	case f.options.MaxFailures < 0:
		return nil, usagef("--max-failures is %d; it is 0 or more", f.options.MaxFailures)
	}
	f.options.Windows = nil
	for _, text := range f.windows {
		w, err := parseWindow(text)
		if err != nil {
			return nil, usagef("--window %q: %s", text, err)
		}
		f.options.Windows = append(f.options.Windows, w)
	}
	if f.calico == "" {
		return nil, nil
	}
	return f.install()
}

// install reads the manifest.
func (f *migrationFlags) install() ([]byte, error) {
	text, err := readFile(f.calico)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Read(text)
	if err != nil {
		return nil, places(f.calico, err)
	}
	packed, err := manifest.Pack(text)
	if err != nil {
		return nil, errs.Invalid("%s: %s", f.calico, err)
	}
	return packed, f.complete(m)
}

// complete takes from the manifest what the flags leave open, and refuses what
// they say otherwise.
func (f *migrationFlags) complete(m *manifest.Manifest) error {
	t := &f.target
	switch {
	case t.Encapsulation != preflight.VXLAN:
		return usagef("--encapsulation is %s; a migration from Canal brings up vxlan", t.Encapsulation)
	case t.Version != "" && t.Version != m.Version():
		return usagef("--calico-version is %s, and %s has %s; leave the flag out", t.Version, f.calico, m.Version())
	case t.MTU != 0 && m.MTU() != 0 && t.MTU != m.MTU():
		return usagef("--mtu is %d, and veth_mtu in %s is %d; leave the flag out", t.MTU, f.calico, m.MTU())
	}
	t.Version = m.Version()
	t.Typha = t.Typha || m.Typha()
	if m.MTU() != 0 {
		t.MTU = m.MTU()
	}
	if len(t.Images) == 0 {
		t.Images = m.NodeImages()
	}
	f.options.Manifest = m.SHA256()
	return nil
}

// maxFile bounds a file that is read whole, in bytes; what is larger is refused by
// who reads it.
const maxFile = 8<<20 + 1

func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, maxFile))
}

// places gives what is wrong in a manifest its file.
func places(file string, err error) error {
	var found manifest.Errors
	if !errors.As(err, &found) {
		return errs.Invalid("%s: %s", file, err)
	}
	out := make(config.Errors, len(found))
	for i, e := range found {
		out[i] = config.Error{File: file, Line: max(e.Line, 1), Column: 1, Message: e.Message}
	}
	return out
}

// again writes a command line with the flags that were given to c, as words that
// stay together. Flags of skip are left out.
func again(c *cobra.Command, skip ...string) (words []string) {
	left := map[string]bool{"output": true, "help": true}
	for _, s := range skip {
		left[s] = true
	}
	c.Flags().Visit(func(f *pflag.Flag) {
		if left[f.Name] {
			return
		}
		values := []string{f.Value.String()}
		if list, is := f.Value.(pflag.SliceValue); is {
			values = list.GetSlice()
		}
		for _, v := range values {
			switch {
			case f.Value.Type() == "bool" && v == "true":
				words = append(words, "--"+f.Name)
			case f.Value.Type() == "bool":
				words = append(words, "--"+f.Name+"="+v)
			default:
				words = append(words, "--"+f.Name+" "+quote(v))
			}
		}
	})
	return words
}

var unquoted = regexp.MustCompile(`^[A-Za-z0-9_./:=,@%+-]+$`)

// quote writes a word as shells read it.
func quote(word string) string {
	if unquoted.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// broken writes a command over several lines, which shells take for one.
func broken(w io.Writer, words []string, width int) {
	line := "  " + words[0]
	for _, word := range words[1:] {
		if len(line)+1+len(word) > width-2 {
			_, _ = fmt.Fprintln(w, line+` \`)
			line = "    " + word
			continue
		}
		line += " " + word
	}
	_, _ = fmt.Fprintln(w, line)
}
