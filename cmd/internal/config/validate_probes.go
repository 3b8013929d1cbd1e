package config

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"portcullis.dev/portcullis/probes"
)

func validateProbes(d *document, requirements []probes.Requirement) {
	const at = "spec.probes"
	if len(requirements) == 0 {
		d.fail(at, "is required: a gate without probes would open on hope")
	}
	names := unique{}
	for i := range requirements {
		r, here := &requirements[i], index(at, i)
		if d.required(join(here, "name"), r.Name) {
			names.check(d, join(here, "name"), r.Name)
		}
		validateFrom(d, join(here, "from"), &r.From)
		validateTo(d, join(here, "to"), &r.To)
		if d.required(join(here, "expect"), string(r.Expect)) {
			d.oneOf(join(here, "expect"), string(r.Expect), string(probes.Allow), string(probes.Deny))
		}
		d.notNegative(join(here, "sample"), r.Sample)
	}
}

func validateFrom(d *document, at string, f *probes.From) {
	named, many := f.Namespace != "", !f.Namespaces.IsZero()
	switch {
	case named && many:
		d.fail(at, "has both namespace and namespaces; keep one")
	case !named && !many:
		d.fail(at, "needs namespace, or namespaces: all or a list")
	}
	if named {
		d.label(join(at, "namespace"), f.Namespace)
	}
	d.labels(join(at, "namespaces"), f.Namespaces.Names)
	d.labels(join(at, "except"), f.Except)
	if len(f.Except) > 0 && !f.Namespaces.All {
		d.fail(join(at, "except"), "goes with namespaces: all")
	}
}

func (d *document) labels(at string, names []string) {
	seen := unique{}
	for i, n := range names {
		if d.label(index(at, i), n) {
			seen.check(d, index(at, i), n)
		}
	}
}

func validateTo(d *document, at string, t *probes.To) {
	var forms []string
	for _, f := range []struct{ name, value string }{
		{"selector", t.Selector}, {"service", t.Service}, {"address", t.Address}, {"dns", t.DNS},
	} {
		if f.value != "" {
			forms = append(forms, f.name)
		}
	}
	switch len(forms) {
	case 0:
		d.fail(at, "needs one of selector, service, address or dns")
		return
	case 1:
	default:
		d.fail(at, "has %s; keep one", strings.Join(forms, " and "))
		return
	}
	switch forms[0] {
	case "selector", "service":
		d.label(join(at, "namespace"), t.Namespace)
	default:
		if t.Namespace != "" {
			d.fail(join(at, "namespace"), "has no meaning beside %s", forms[0])
		}
	}
	if t.Service != "" {
		d.named(join(at, "service"), t.Service, validation.IsDNS1035Label(t.Service), "the name of a Service")
	}
	validatePort(d, at, t)
	validateProtocol(d, at, t)
}

func validatePort(d *document, at string, t *probes.To) {
	here := join(at, "port")
	switch {
	case t.DNS != "" && t.Port != 0:
		d.fail(here, "has no meaning beside dns")
	case t.DNS != "":
	case t.Port == 0 && !d.has(here):
		d.fail(here, "is required")
	case t.Port < 1 || t.Port > 65535:
		d.fail(here, "is %d; a port is from 1 to 65535", t.Port)
	}
}

func validateProtocol(d *document, at string, t *probes.To) {
	here := join(at, "protocol")
	d.oneOf(here, string(t.Protocol), string(probes.TCP), string(probes.UDP), string(probes.DNS), string(probes.HTTP))
	switch {
	case t.DNS != "" && t.Protocol != "" && t.Protocol != probes.DNS:
		d.fail(here, "is %q beside dns; leave it out", t.Protocol)
	case t.DNS == "" && t.Protocol == probes.DNS:
		d.fail(here, "is dns, which goes with the field dns: the name to ask for")
	}
	switch path := join(at, "httpPath"); {
	case t.HTTPPath == "":
	case !strings.HasPrefix(t.HTTPPath, "/"):
		d.fail(path, "%q does not begin with /", t.HTTPPath)
	case t.Protocol != "" && t.Protocol != probes.HTTP, t.DNS != "":
		d.fail(path, "goes with protocol http")
	}
}

func validateTimings(d *document, s *probes.Settings) {
	const at = "spec.probeSettings"
	d.notBelowZero(join(at, "timeout"), s.Timeout)
	d.notBelowZero(join(at, "settle"), s.Settle)
	d.notNegative(join(at, "consecutive"), s.Consecutive)
	d.notBelowZero(join(at, "deadline"), s.Deadline)
	d.notBelowZero(join(at, "interval"), s.Interval)
}
