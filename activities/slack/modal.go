package slack

import (
	"fmt"
	"strings"

	slackgo "github.com/slack-go/slack"
)

// MostWhy is how long a reason may be.
const MostWhy = 500

func plainText(s string) *slackgo.TextBlockObject {
	return slackgo.NewTextBlockObject(slackgo.PlainTextType, s, false, false)
}

// RejectModal asks why.
func RejectModal(t Target) slackgo.ModalViewRequest {
	input := slackgo.NewPlainTextInputBlockElement(plainText("It stands in the rollout's log."), InputWhy)
	input.Multiline, input.MinLength, input.MaxLength = true, 3, MostWhy
	return slackgo.ModalViewRequest{
		Type: slackgo.VTModal, CallbackID: CallbackReject, PrivateMetadata: t.Encode(),
		Title: plainText("Reject"), Submit: plainText("Reject"), Close: plainText("Cancel"),
		Blocks: slackgo.Blocks{BlockSet: []slackgo.Block{
			section(rejecting(t)),
			slackgo.NewInputBlock(BlockWhy, plainText("Why?"), nil, input),
		}},
	}
}

func rejecting(t Target) string {
	if t.Kind == KindCorrection {
		return fmt.Sprintf("Rejecting leaves the drift of *%s* as it is.", Free(t.Pipeline))
	}
	return fmt.Sprintf("Rejecting *%s* ends the rollout of *%s*. What it wrote in this environment is rolled back.", Free(t.Environment), Free(t.Pipeline))
}

// byHand is how the same is approved on the command line.
func byHand(t Target, g Gate) string {
	if t.Kind == KindCorrection {
		return "portcullis drift correct approve " + t.Pipeline + " --evidence " + short(g.Evidence)
	}
	return "portcullis rollout approve " + t.Pipeline + " --environment " + g.Environment + " --evidence " + short(g.Evidence)
}

// DetailsModal tells of a gate what does not fit into its message.
func DetailsModal(v View, t Target) slackgo.ModalViewRequest {
	blocks := []slackgo.Block{section(subject(v))}
	if g := v.Gate; g != nil && g.Environment == t.Environment {
		blocks = append(blocks, section(approvals(*g)))
		if v.Kind == "" {
			blocks = append(blocks, section("*Changes in "+Free(g.Environment)+":* "+InWords(g.Changes)))
		}
		for _, k := range []struct {
			word string
			of   Objects
		}{{"Added", g.Changes.Added}, {"Changed", g.Changes.Changed}, {"Removed", g.Changes.Removed}} {
			if k.of.Count > 0 {
				blocks = append(blocks, section("*"+k.word+"*\n"+listed(k.of)))
			}
		}
		blocks = append(blocks, section("On the command line:\n"+code(byHand(t, *g))))
	} else {
		blocks = append(blocks, section("This gate no longer waits."))
	}
	blocks = append(blocks, section(environments(v)))
	return slackgo.ModalViewRequest{
		Type: slackgo.VTModal, CallbackID: CallbackDetails, PrivateMetadata: t.Encode(),
		Title: plainText("Details"), Close: plainText("Close"),
		Blocks: slackgo.Blocks{BlockSet: blocks},
	}
}

func listed(o Objects) string {
	lines := make([]string, 0, len(o.Names)+1)
	for _, n := range o.Names {
		lines = append(lines, "• "+Free(n))
	}
	if more := o.Count - len(o.Names); more > 0 {
		lines = append(lines, fmt.Sprintf("• and %d more", more))
	}
	return strings.Join(lines, "\n")
}
