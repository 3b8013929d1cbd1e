package cli

import (
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"portcullis.dev/portcullis/probes/preflight"
	"portcullis.dev/portcullis/workflows/contract"
)

// The parts of JUnit's XML that CI systems read.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Name    string       `xml:"name,attr"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Time      string      `xml:"time,attr"`
		Timestamp string      `xml:"timestamp,attr,omitempty"`
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string     `xml:"name,attr"`
		Class   string     `xml:"classname,attr"`
		Failure *junitText `xml:"failure"`
		Error   *junitText `xml:"error"`
		Out     string     `xml:"system-out,omitempty"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// preflightJUnit writes a suite for each cluster and a case for each check and
// node. What failed is a failure, what is not known an error; a warning passes,
// and says so in its output.
func preflightJUnit(w io.Writer, result contract.PreflightResult) error {
	all := junitSuites{Name: "portcullis preflight"}
	for _, name := range slices.Sorted(maps.Keys(result.Clusters)) {
		all.Suites = append(all.Suites, suiteOf(name, result.Clusters[name]))
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func suiteOf(name string, c contract.ClusterPreflight) junitSuite {
	s := junitSuite{Name: name, Time: "0"}
	if c.Report == nil {
		s.add(junitCase{Name: "preflight", Class: name, Error: &junitText{Message: printable(c.Error), Type: c.ErrorType}})
		return s
	}
	s.Time = fmt.Sprintf("%.3f", c.Report.Took.Seconds())
	if !c.Report.StartedAt.IsZero() {
		s.Timestamp = c.Report.StartedAt.UTC().Format("2006-01-02T15:04:05")
	}
	for i := range c.Report.Results {
		res := &c.Report.Results[i]
		if len(res.Nodes) == 0 {
			s.add(caseOf(name, res))
		}
		for _, node := range res.Nodes {
			s.add(caseOf(name+"."+node, res))
		}
	}
	return s
}

func (s *junitSuite) add(c junitCase) {
	s.Cases = append(s.Cases, c)
	s.Tests++
	if c.Failure != nil {
		s.Failures++
	}
	if c.Error != nil {
		s.Errors++
	}
}

func caseOf(class string, res *preflight.Result) junitCase {
	c := junitCase{Name: res.ID, Class: class}
	text := &junitText{Message: printable(res.Measured), Type: string(res.Severity), Text: printableLines(res)}
	switch res.Status {
	case preflight.Fail:
		c.Failure = text
	case preflight.Unsure:
		c.Error = text
	case preflight.Warn:
		c.Out = "warning: " + text.Message + "\n" + text.Text
	default:
		c.Out = text.Message
	}
	return c
}

func printableLines(res *preflight.Result) string {
	lines := append([]string{"want: " + res.Threshold + " (" + res.Source + ")", "do: " + res.Remedy, "see: " + res.Doc}, res.More...)
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}
