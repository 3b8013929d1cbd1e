package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/workflows/contract"
)

func (a *app) pipelineCommand() *cobra.Command {
	validate := &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check pipeline files, without talking to anything",
		Args:  cobra.MinimumNArgs(1),
		RunE:  a.run(func(_ context.Context, files []string) error { return a.validate(files) }),
	}
	return group(&cobra.Command{Use: "pipeline", Short: "Check pipeline files"}, validate)
}

// checked is one file's verdict, for machines.
type checked struct {
	File     string `json:"file"`
	Valid    bool   `json:"valid"`
	Pipeline string `json:"pipeline,omitempty"`
	// Errors is empty and Reason set where the file could not be read at all.
	Errors config.Errors `json:"errors,omitempty"`
	Reason string        `json:"reason,omitempty"`
}

func (a *app) validate(files []string) error {
	results := make([]checked, 0, len(files))
	var all error
	for _, file := range files {
		p, err := config.LoadPipeline(file)
		c := checked{File: file, Valid: err == nil, Pipeline: p.Metadata.Name}
		if err != nil && !errors.As(err, &c.Errors) {
			c.Reason = err.Error()
		}
		all = merge(all, err)
		results = append(results, c)
	}
	err := a.print(map[string]any{"files": results}, func(w io.Writer) error {
		for _, r := range results {
			if r.Valid {
				if _, err := fmt.Fprintf(w, "%s: pipeline %s is valid\n", r.File, r.Pipeline); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return errors.Join(all, err)
}

// merge keeps what is wrong in several files in one list.
func merge(all, err error) error {
	var before, more config.Errors
	if errors.As(all, &before) && errors.As(err, &more) {
		return append(before, more...)
	}
	if all == nil {
		return err
	}
	return errors.Join(all, err)
}

// loadPipeline reads the file that a verb cannot do without.
func loadPipeline(file string) (contract.Pipeline, error) {
	if file == "" {
		return contract.Pipeline{}, usagef("name the pipeline file with --file")
	}
	return config.LoadPipeline(file)
}
