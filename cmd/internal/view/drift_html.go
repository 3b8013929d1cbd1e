package view

import (
	_ "embed"
	"html/template"
	"io"

	"portcullis.dev/portcullis/rancher/drift"
)

//go:embed drift.html
var driftPage string

// driftTemplate escapes everything that it is given: names and values come from clusters.
var driftTemplate = template.Must(template.New("drift").Funcs(template.FuncMap{
	"stamp": stamp, "short": Short, "written": Written,
	"ignored": func(f drift.Finding) bool { return f.Ignored != nil },
}).Parse(driftPage))

// HTML writes an audit as one page that needs nothing else.
func (d Drift) HTML(w io.Writer) error { return driftTemplate.Execute(w, d) }
