package probes

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// good is a valid requirement that tests change.
func good() Requirement {
	return Requirement{
		Name: "web reaches api", Expect: Allow,
		From: From{Namespace: "web"},
		To:   To{Namespace: "api", Selector: "app == 'api'", Port: 8080},
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Requirement)
		want   string
	}{
		{"pods", func(*Requirement) {}, ""},
		{"service", func(r *Requirement) { r.To = To{Namespace: "api", Service: "api", Port: 80} }, ""},
		{"address", func(r *Requirement) { r.To = To{Address: "10.0.0.1", Port: 80, Protocol: UDP} }, ""},
		{"IPv6 address", func(r *Requirement) { r.To = To{Address: "fd00::1", Port: 80} }, ""},
		{"name", func(r *Requirement) { r.To = To{Address: "example.com", Port: 443} }, ""},
		{"DNS", func(r *Requirement) { r.To = To{DNS: "kubernetes.default.svc.cluster.local"} }, ""},
		{"HTTP", func(r *Requirement) { r.To.HTTPPath = "/healthz" }, ""},
		{"all but some", func(r *Requirement) { r.From = From{Namespaces: Namespaces{All: true}, Except: []string{"web"}} }, ""},

		{"no name", func(r *Requirement) { r.Name = " " }, "probes[0].name: is missing"},
		{"name of two lines", func(r *Requirement) { r.Name = "a\nb" }, "probes[0].name: must be one line"},
		{"expect", func(r *Requirement) { r.Expect = "maybe" }, `probes[0].expect: "maybe" is neither allow nor deny`},
		{"sample", func(r *Requirement) { r.Sample = -1 }, "probes[0].sample"},
		{"no namespace", func(r *Requirement) { r.From = From{} }, "probes[0].from: has no namespace"},
		{"both namespaces", func(r *Requirement) { r.From.Namespaces.All = true }, "probes[0].from: has both"},
		{"bad namespace", func(r *Requirement) { r.From.Namespace = "Web_1" }, `probes[0].from.namespace: "Web_1"`},
		{"bad namespace in a list", func(r *Requirement) { r.From = From{Namespaces: Namespaces{Names: []string{"a", "-"}}} }, "probes[0].from.namespaces[1]"},
		{"except without all", func(r *Requirement) { r.From.Except = []string{"x"} }, "probes[0].from.except: is only of use"},
		{"bad source selector", func(r *Requirement) { r.From.Selector = "app = web" }, "probes[0].from.selector"},
		{"bad selector", func(r *Requirement) { r.To.Selector = "app ==" }, "probes[0].to.selector"},
		{"two destinations", func(r *Requirement) { r.To.DNS = "x" }, "probes[0].to: must have exactly one of selector, service, address and dns, and has 2"},
		{"no destination", func(r *Requirement) { r.To = To{Namespace: "x", Port: 1} }, "and has 0"},
		{"no destination namespace", func(r *Requirement) { r.To.Namespace = "" }, "probes[0].to.namespace: is missing"},
		{"namespace of an address", func(r *Requirement) { r.To = To{Namespace: "x", Address: "1.1.1.1", Port: 1} }, "probes[0].to.namespace: goes only with"},
		{"no port", func(r *Requirement) { r.To.Port = 0 }, "probes[0].to.port: is missing"},
		{"port", func(r *Requirement) { r.To.Port = 65536 }, "probes[0].to.port: 65536"},
		{"protocol", func(r *Requirement) { r.To.Protocol = "sctp" }, `probes[0].to.protocol: "sctp"`},
		{"path of UDP", func(r *Requirement) { r.To.Protocol, r.To.HTTPPath = UDP, "/x" }, "probes[0].to.httpPath: goes only with protocol http"},
		{"path", func(r *Requirement) { r.To.HTTPPath = "x y" }, "probes[0].to.httpPath"},
		{"port of a DNS name", func(r *Requirement) { r.To = To{DNS: "x", Port: 53} }, "probes[0].to.dns: takes no port"},
		{"address of a DNS name", func(r *Requirement) { r.To = To{DNS: "1.1.1.1"} }, "is an address, not a name"},
		{"network", func(r *Requirement) { r.To = To{Address: "10.0.0.0/8", Port: 1} }, "is a network"},
		{"port in the address", func(r *Requirement) { r.To = To{Address: "10.0.0.1:80", Port: 80} }, "the port goes into to.port"},
		{"service name", func(r *Requirement) { r.To = To{Namespace: "x", Service: "a.b", Port: 1} }, "probes[0].to.service"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := good()
			tc.change(&r)
			err := Validate([]Requirement{r})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want …%s…", err, tc.want)
			}
		})
	}
	t.Run("all mistakes, each on its line", func(t *testing.T) {
		a, b := good(), good()
		a.To.Port = 0
		b.Expect = ""
		err := Validate([]Requirement{a, b})
		if err == nil || len(strings.Split(err.Error(), "\n")) != 3 || !strings.Contains(err.Error(), `probes[1].name: "web reaches api" is also the name of probes[0]`) {
			t.Errorf("%v", err)
		}
	})
}

func TestSettingsValidate(t *testing.T) {
	d := func(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
	for _, tc := range []struct {
		s    Settings
		want string
	}{
		{Settings{}, ""},
		{Settings{Timeout: d(time.Minute)}, "probeSettings.timeout"},
		{Settings{Settle: d(-1)}, "probeSettings.settle"},
		{Settings{Consecutive: -3}, "probeSettings.consecutive"},
		{Settings{Timeout: d(10 * time.Second), Deadline: d(5 * time.Second)}, "probeSettings.deadline"},
	} {
		err := tc.s.Validate()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v", tc.s, err)
		}
	}
}
