package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"golang.org/x/term"

	"portcullis.dev/portcullis/cmd/internal/view"
)

// print writes v as JSON, or calls text.
func (a *app) print(v any, text func(io.Writer) error) error {
	if a.output == "json" {
		e := json.NewEncoder(a.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	return text(a.Stdout)
}

// table writes rows in columns.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			end := "\t"
			if i == len(row)-1 {
				end = "\n"
			}
			if _, err := fmt.Fprint(t, cell, end); err != nil {
				return err
			}
		}
	}
	return t.Flush()
}

// terminal is the size of standard output where that is one.
func (a *app) terminal() (width, height int, is bool) {
	f, ok := a.Stdout.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	return width, height, err == nil && width > 20 && height > 5
}

// paint colours on a terminal, unless the person asked for none.
func (a *app) paint() view.Paint {
	_, _, is := a.terminal()
	if a.LookupEnv != nil {
		if v, _ := a.LookupEnv("NO_COLOR"); v != "" {
			return false
		}
		if v, _ := a.LookupEnv("TERM"); v == "dumb" {
			return false
		}
	}
	return view.Paint(is)
}
