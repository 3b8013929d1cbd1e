package story

import (
	"fmt"
	"strings"

	"portcullis.dev/portcullis/workflows/contract"
)

// Correction is a correction's current details, in Markdown.
func Correction(s contract.CorrectionStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### Drift of %s: %s\n\n", s.Pipeline, s.State)
	if s.Reason != "" {
		fmt.Fprintf(&b, "%s\n\n", cell(s.Reason))
	}
	if s.Left > 0 {
		fmt.Fprintf(&b, "%s that Fleet cannot put right: it does not have these objects. They stay as they are.\n\n", Count(s.Left, "finding"))
	}
	if g := s.Gate; g != nil {
		fmt.Fprintf(&b, "### Gate\n\nWaits for %s of evidence %s\n\n```\nportcullis drift correct approve %s --evidence %s\nportcullis drift correct reject %s --why REASON\n```\n\n",
			Count(g.Required, "approval"), code(g.Evidence.Hash), s.Pipeline, short(g.Evidence.Hash), s.Pipeline)
		for _, v := range g.Votes {
			fmt.Fprintf(&b, "- approved by %s\n", cell(By(v.By, v.Why)))
		}
	}
	if len(s.Units) > 0 {
		b.WriteString("| environment | GitRepo | findings | clusters | state | |\n|---|---|---|---|---|---|\n")
		for _, u := range s.Units {
			fmt.Fprintf(&b, "| %s | %s | %d on %d | %d | %s | %s |\n", cell(u.Environment), cell(u.GitRepo), u.Fix.Findings, len(u.Fix.Clusters), u.Clusters, u.State, cell(u.Reason))
		}
		b.WriteString("\n")
	}
	lines(&b, s.Log)
	return b.String()
}
