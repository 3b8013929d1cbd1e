package probes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/projectcalico/calico/libcalico-go/lib/selector"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Bounds of Settings.
const (
	MinTimeout     = 50 * time.Millisecond
	MaxTimeout     = 30 * time.Second
	maxConsecutive = 100
	maxNameLength  = 120
)

// Validate checks a pipeline's requirements. The error has one line for each
// mistake, which begins with its place: probes[2].to.port.
func Validate(reqs []Requirement) error {
	var errs []error
	names := map[string]int{}
	for i, r := range reqs {
		at := func(field, format string, args ...any) {
			errs = append(errs, fmt.Errorf("probes[%d]%s: %s", i, field, fmt.Sprintf(format, args...)))
		}
		r.validate(at)
		if first, ok := names[r.Name]; ok && r.Name != "" {
			at(".name", "%q is also the name of probes[%d]", r.Name, first)
		} else {
			names[r.Name] = i
		}
	}
	return errors.Join(errs...)
}

// report notes a mistake in a field.
type report func(field, format string, args ...any)

func (r Requirement) validate(at report) {
	switch {
	case strings.TrimSpace(r.Name) == "":
		at(".name", "is missing")
	case len(r.Name) > maxNameLength || strings.ContainsAny(r.Name, "\r\n\t"):
		at(".name", "must be one line of at most %d characters", maxNameLength)
	}
	if r.Expect != Allow && r.Expect != Deny {
		at(".expect", "%q is neither allow nor deny", r.Expect)
	}
	if r.Sample < 0 {
		at(".sample", "%d is below zero", r.Sample)
	}
	r.From.validate(at)
	r.To.validate(at)
}

func (f From) validate(at report) {
	switch {
	case f.Namespace != "" && !f.Namespaces.IsZero():
		at(".from", "has both namespace and namespaces; give one")
	case f.Namespace == "" && f.Namespaces.IsZero():
		at(".from", `has no namespace; give namespace, or namespaces as a list or "all"`)
	}
	if f.Namespace != "" {
		validNamespace(at, ".from.namespace", f.Namespace)
	}
	for i, n := range f.Namespaces.Names {
		validNamespace(at, fmt.Sprintf(".from.namespaces[%d]", i), n)
	}
	for i, n := range f.Except {
		validNamespace(at, fmt.Sprintf(".from.except[%d]", i), n)
	}
	if len(f.Except) > 0 && !f.Namespaces.All {
		at(".from.except", "is only of use with namespaces: all")
	}
	validSelector(at, ".from.selector", f.Selector)
}

// form is the way in which a destination is given.
type form int

const (
	formNone form = iota
	formPods
	formService
	formAddress
	formDNS
)

func (t To) forms() []form {
	var got []form
	for _, f := range []struct {
		value string
		form  form
	}{{t.Selector, formPods}, {t.Service, formService}, {t.Address, formAddress}, {t.DNS, formDNS}} {
		if f.value != "" {
			got = append(got, f.form)
		}
	}
	return got
}

// form is the destination's form, which is valid.
func (t To) form() form {
	if got := t.forms(); len(got) == 1 {
		return got[0]
	}
	return formNone
}

// protocol is Protocol with its default.
func (t To) protocol() Protocol {
	switch {
	case t.DNS != "":
		return DNS
	case t.Protocol != "":
		return t.Protocol
	case t.HTTPPath != "":
		return HTTP
	}
	return TCP
}

func (t To) validate(at report) {
	forms := t.forms()
	if len(forms) != 1 {
		at(".to", "must have exactly one of selector, service, address and dns, and has %d (the selector all() means all pods of the namespace)", len(forms))
		return
	}
	switch forms[0] {
	case formPods, formService:
		if t.Namespace == "" {
			at(".to.namespace", "is missing")
		} else {
			validNamespace(at, ".to.namespace", t.Namespace)
		}
		validSelector(at, ".to.selector", t.Selector)
		if msgs := validation.IsDNS1035Label(t.Service); t.Service != "" && len(msgs) > 0 {
			at(".to.service", "%q is not the name of a service", t.Service)
		}
	default:
		if t.Namespace != "" {
			at(".to.namespace", "goes only with selector or service")
		}
		validHost(at, ".to.address", t.Address, t.Port)
		validHost(at, ".to.dns", t.DNS, 0)
	}
	t.validateProtocol(at)
}

func (t To) validateProtocol(at report) {
	if t.DNS != "" {
		if t.Protocol != "" && t.Protocol != DNS || t.Port != 0 || t.HTTPPath != "" {
			at(".to.dns", "takes no port, path or other protocol: the question goes to the pod's own resolver")
		}
		if _, err := netip.ParseAddr(t.DNS); err == nil {
			at(".to.dns", "%q is an address, not a name", t.DNS)
		}
		return
	}
	if !slices.Contains([]Protocol{"", TCP, UDP, HTTP}, t.Protocol) {
		at(".to.protocol", "%q is not one of tcp, udp, http", t.Protocol)
	}
	if t.HTTPPath != "" && t.protocol() != HTTP {
		at(".to.httpPath", "goes only with protocol http")
	}
	if t.HTTPPath != "" && (t.HTTPPath[0] != '/' || strings.ContainsAny(t.HTTPPath, " \r\n\t")) {
		at(".to.httpPath", "%q is not a path", t.HTTPPath)
	}
	switch {
	case t.Port == 0:
		at(".to.port", "is missing")
	case t.Port < 0 || t.Port > 65535:
		at(".to.port", "%d is not between 1 and 65535", t.Port)
	}
}

func validNamespace(at report, field, name string) {
	if len(validation.IsDNS1123Label(name)) > 0 {
		at(field, "%q is not the name of a namespace", name)
	}
}

func validSelector(at report, field, s string) {
	if s == "" {
		return
	}
	if _, err := selector.Parse(s); err != nil {
		at(field, "%q is not a Calico selector: %v", s, err)
	}
}

func validHost(at report, field, host string, port int) {
	if host == "" {
		return
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		return
	}
	if _, err := netip.ParsePrefix(host); err == nil {
		at(field, "%q is a network; a probe needs one address of it", host)
		return
	}
	if len(validation.IsDNS1123Subdomain(strings.ToLower(strings.TrimSuffix(host, ".")))) > 0 {
		hint := ""
		if _, err := netip.ParseAddrPort(host); err == nil || strings.Contains(host, ":") && port == 0 {
			hint = "; the port goes into to.port"
		}
		at(field, "%q is neither an IP address nor a host name%s", host, hint)
	}
}

// WithDefaults fills in what is not set.
func (s Settings) WithDefaults() Settings {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&s.Timeout.Duration, DefaultTimeout)
	set(&s.Settle.Duration, DefaultSettle)
	set(&s.Deadline.Duration, DefaultDeadline)
	set(&s.Interval.Duration, DefaultInterval)
	if s.Consecutive == 0 {
		s.Consecutive = DefaultConsecutive
	}
	return s
}

// Validate checks the settings, defaults included. The error has one line for each mistake.
func (s Settings) Validate() error {
	var errs []error
	at := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("probeSettings.%s: %s", field, fmt.Sprintf(format, args...)))
	}
	for field, d := range map[string]time.Duration{"timeout": s.Timeout.Duration, "settle": s.Settle.Duration, "deadline": s.Deadline.Duration, "interval": s.Interval.Duration} {
		if d < 0 {
			at(field, "%s is below zero", d)
		}
	}
	d := s.WithDefaults()
	if t := d.Timeout.Duration; t >= 0 && (t < MinTimeout || t > MaxTimeout) {
		at("timeout", "%s is not between %s and %s", t, MinTimeout, MaxTimeout)
	}
	if d.Consecutive < 0 || d.Consecutive > maxConsecutive {
		at("consecutive", "%d is not between 1 and %d", d.Consecutive, maxConsecutive)
	}
	if d.Deadline.Duration >= 0 && d.Deadline.Duration < d.Timeout.Duration {
		at("deadline", "%s is shorter than one probe, whose timeout is %s", d.Deadline.Duration, d.Timeout.Duration)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}
