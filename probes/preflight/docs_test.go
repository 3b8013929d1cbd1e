package preflight

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated parts of docs/preflight.md anew")

const page = "../../docs/preflight.md"

// generated replaces what stands between two marks of the page.
func generated(t *testing.T, text, name, want string) string {
	t.Helper()
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no part %q", page, name)
	}
	return before + begin + want + end + after
}

// Every check has its section, and the table of how the mesh grows is what the schedule says.
func TestDocumented(t *testing.T) {
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	want := generated(t, text, "growth", growthTable())
	want = generated(t, want, "checks", checkSections())
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != want {
		t.Errorf("%s is not what the checks say: go test ./probes/preflight -run Documented -update", page)
	}
	for _, c := range Checks() {
		if !strings.Contains(text, "\n### "+c.ID+"\n") {
			t.Errorf("%s has no section", c.ID)
		}
	}
}

func growthTable() string {
	var b strings.Builder
	b.WriteString("| nodes | directions | rounds | sessions at once | sessions in all | TCP connections | datagrams |\n|---|---|---|---|---|---|---|\n")
	for _, n := range []int{2, 3, 10, 100, 101, 200, 500, 1000} {
		s := Grow(n, DefaultAtOnce, Paths(Target{}), 6)
		fmt.Fprintf(&b, "| %d | %d | %d | %d | %d | %d | %d |\n", n, s.Pairs, s.Rounds, s.AtOnce, s.Sessions, s.Connections, s.Datagrams)
	}
	return b.String()
}

func checkSections() string {
	var b strings.Builder
	for _, c := range Checks() {
		of := "of the cluster"
		if c.PerNode() {
			of = "on each node"
		}
		fmt.Fprintf(&b, "\n### %s\n\n**%s**, %s, %s.\n\n%s\n\n- Threshold: %s.\n- Source: %s.\n- Remedy: %s.\n", c.ID, c.Title, c.Severity, of, c.Why, c.Threshold, c.Source, c.Remedy)
	}
	return b.String() + "\n"
}
