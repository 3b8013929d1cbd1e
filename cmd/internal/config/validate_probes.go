package config

import (
	"strings"

	"portcullis.dev/portcullis/probes"
)

// validateProbes lets the package that makes the connections say what it can
// make, and gives each of its complaints the place in the file.
func validateProbes(d *document, requirements []probes.Requirement, settings probes.Settings) {
	if len(requirements) == 0 {
		d.fail("spec.probes", "is required: a gate without probes would open on hope")
	}
	d.failEach("spec", probes.Validate(requirements))
	d.failEach("spec", settings.Validate())
	d.notLong("spec.probeSettings.settle", settings.Settle)
	d.notLong("spec.probeSettings.deadline", settings.Deadline)
	d.notLong("spec.probeSettings.interval", settings.Interval)
}

// failEach takes an error with lines of the form "path: message", relative to under.
func (d *document) failEach(under string, err error) {
	if err == nil {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		at, message, _ := strings.Cut(line, ": ")
		d.fail(join(under, at), "%s", message)
	}
}
