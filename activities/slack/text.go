package slack

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// Slack's own bounds of texts, in characters.
const (
	mostHeader  = 150
	mostSection = 3000
	mostValue   = 2000
	// mostFree is how much of a text of people's is repeated.
	mostFree = 300
)

// marks would format the text around them. Slack knows no way to escape them, so
// that look-alikes stand for them.
var marks = strings.NewReplacer("*", "∗", "`", "ˋ", "~", "∼", "_", "ˍ", "&", "&amp;", "<", "&lt;", ">", "&gt;")

// Escape makes a text mean only itself in Slack's mrkdwn: no link, no mention of
// a person or channel, no formatting, one line.
func Escape(s string) string { return marks.Replace(oneLine(s)) }

// Free is Escape on what a person wrote: cleaned, and cut to a line's length.
func Free(s string) string { return Escape(cut(Clean(ahead(s)), mostFree)) }

// ahead is more than is shown of a text, without a word that would be cut in two:
// half a key is not known for one, and an endless text is not searched.
func ahead(s string) string {
	const most = 4 * mostFree
	if len(s) <= most {
		return s
	}
	s = s[:most]
	return s[:max(strings.LastIndexFunc(s, unicode.IsSpace), 0)]
}

// oneLine folds white space, and drops what is not seen or turns the direction of writing.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "�")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// cut shortens by characters.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most-1]) + "…"
}

// kept out of what people write: addresses inside of networks, and what looks like a key.
var unclean = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [^-]*-----.*?(-----END [^-]*-----|$)`), "[key]"},
	{regexp.MustCompile(`xox[a-z]-[\w-]+|xapp-[\w-]+|xoxe\.[\w.-]+`), "[token]"},
	{regexp.MustCompile(`(token|kubeconfig-[\w-]+)-[\w-]*:[a-z0-9]+`), "[token]"},
	{regexp.MustCompile(`eyJ[\w-]+\.[\w.-]+`), "[token]"},
	{regexp.MustCompile(`(gh[pousr]_|github_pat_|glpat-|AKIA|ASIA)[\w-]{8,}`), "[token]"},
	{regexp.MustCompile(`(?i)authorization\s*[:=]\s*([a-z]+\s+)?\S+|bearer\s+\S{16,}`), "[secret]"},
	{regexp.MustCompile(`(?i)(password|passwd|secret|token|api[-_]?key)(\s*[:=]\s*)\S+`), "$1=[secret]"},
	{regexp.MustCompile(`(\w+://)[^/\s@]+@`), "$1"},
	{regexp.MustCompile(`[A-Za-z0-9+/_-]{48,}={0,2}`), "[hidden]"},
	{regexp.MustCompile(`\d{1,3}(\.\d{1,3}){3}(/\d{1,2})?(:\d+)?`), "[address]"},
	{regexp.MustCompile(`(?i)\[?[0-9a-f]{0,4}(:[0-9a-f]{0,4}){2,7}(%\w+)?\]?(/\d{1,3})?`), "[address]"},
	{regexp.MustCompile(`(?i)[a-z0-9]([a-z0-9.-]*[a-z0-9])?\.(svc|local|internal|lan|intranet|corp|compute|localdomain)\b(\.[a-z0-9.-]+)?`), "[host]"},
	{regexp.MustCompile(`\b(ip|node|worker|master|cp)-\d[\w.-]*`), "[host]"},
}

// Clean takes addresses, names of hosts inside and whatever looks like a key out
// of a text that a person wrote.
func Clean(s string) string {
	s = strings.ToValidUTF8(s, "�")
	for _, u := range unclean {
		s = u.what.ReplaceAllString(s, u.with)
	}
	return s
}

// code shows a hash or a name that cannot hold a mark.
func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(Escape(s), "`", "") + "`"
}

// short is as much of a hash as people compare, and nothing of what is none.
func short(hash string) string {
	if !hexadecimal.MatchString(hash) {
		return "unknown"
	}
	return hash[:min(len(hash), 12)]
}

var hexadecimal = regexp.MustCompile(`^[0-9a-f]+$`)

// link is a link in mrkdwn, or nothing where the address is none.
func link(address, text string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return ""
	}
	return "<" + strings.NewReplacer("<", "%3C", ">", "%3E", "|", "%7C", "&", "&amp;").Replace(u.String()) + "|" + Escape(text) + ">"
}

// date shows a time in the reader's own zone.
func date(t time.Time) string {
	return fmt.Sprintf("<!date^%d^{date_short_pretty} {time}|%s>", t.Unix(), t.UTC().Format("2006-01-02 15:04 UTC"))
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// named lists names, and counts those that are not.
func named(names []string, of, most int) string {
	shown := names[:min(len(names), most)]
	out := make([]string, len(shown))
	for i, n := range shown {
		out[i] = Free(n)
	}
	s := strings.Join(out, ", ")
	if more := of - len(shown); more > 0 && s != "" {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// by says who, how and why.
func by(s Said) string {
	out := Free(s.By)
	if s.Via != "" {
		out += " by " + via(s.Via)
	}
	if s.Why != "" {
		out += " (" + Free(s.Why) + ")"
	}
	return out
}

func via(v string) string {
	switch v {
	case "cli":
		return "the command line"
	case "slack":
		return "Slack"
	case "temporal":
		return "Temporal"
	}
	return Free(v)
}
