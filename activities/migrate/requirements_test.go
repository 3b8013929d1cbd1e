package migrate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
)

func service(namespace, name string, selector map[string]string, ports ...corev1.ServicePort) corev1.Service {
	return corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{Selector: selector, Ports: ports},
	}
}

func TestOffered(t *testing.T) {
	t.Parallel()
	web := map[string]string{"tier": "front", "app": "web"}
	port := func(port int32, to intstr.IntOrString, protocol corev1.Protocol) corev1.ServicePort {
		return corev1.ServicePort{Port: port, TargetPort: to, Protocol: protocol}
	}
	named := workload("web-0", "n0", "10.42.0.5")
	named.Labels = web
	named.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	external := service("a", "external", web, port(80, intstr.FromInt(80), ""))
	external.Spec.Type = corev1.ServiceTypeExternalName
	headless := service("a", "headless", web, port(80, intstr.FromInt32(80), ""))
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	for _, tc := range []struct {
		name     string
		services []corev1.Service
		want     []string
	}{
		{"nothing", nil, nil},
		{"a port of its own", []corev1.Service{service("a", "s", web, port(80, intstr.IntOrString{}, ""))}, []string{"a app == 'web' && tier == 'front' tcp 80"}},
		{"another of the pod's", []corev1.Service{service("a", "s", web, port(80, intstr.FromInt32(8080), corev1.ProtocolUDP))}, []string{"a app == 'web' && tier == 'front' udp 8080"}},
		{"by its name", []corev1.Service{service("default", "s", web, port(80, intstr.FromString("http"), "TCP"))}, []string{"default app == 'web' && tier == 'front' tcp 8080"}},
		{"a name that no pod has", []corev1.Service{service("default", "s", web, port(80, intstr.FromString("grpc"), "TCP"))}, nil},
		{"a name of another namespace's pods", []corev1.Service{service("a", "s", web, port(80, intstr.FromString("http"), "TCP"))}, nil},
		{"SCTP", []corev1.Service{service("a", "s", web, port(80, intstr.IntOrString{}, corev1.ProtocolSCTP))}, nil},
		{"no pods of its own", []corev1.Service{service("a", "s", nil, port(80, intstr.IntOrString{}, ""))}, nil},
		{"elsewhere", []corev1.Service{external}, nil},
		{"headless", []corev1.Service{headless}, []string{"a app == 'web' && tier == 'front' tcp 80"}},
		{"twice the same", []corev1.Service{service("a", "t", web, port(90, intstr.FromInt32(80), "")), service("a", "s", web, port(80, intstr.FromInt32(80), ""), port(81, intstr.FromInt32(80), "TCP"))},
			[]string{"a app == 'web' && tier == 'front' tcp 80"}},
		{"alike, and not the same", []corev1.Service{service("x", "s", map[string]string{"yapp": "1"}, port(80, intstr.FromInt32(80), "")), service("xy", "s", map[string]string{"app": "1"}, port(80, intstr.FromInt32(80), ""))},
			[]string{"x yapp == '1' tcp 80", "xy app == '1' tcp 80"}},
	} {
		got := offered(tc.services, []corev1.Pod{*named})
		dns := got[len(got)-1]
		if dns.To.DNS != "kubernetes.default.svc.cluster.local" {
			t.Errorf("%s: %+v", tc.name, dns)
		}
		var is []string
		for _, r := range got[:len(got)-1] {
			is = append(is, fmt.Sprintf("%s %s %s %d", r.To.Namespace, r.To.Selector, strings.ToLower(string(r.To.Protocol)), r.To.Port))
			if !r.Optional || r.Expect != probes.Allow || !r.From.Namespaces.All || r.Sample != sampleEach {
				t.Errorf("%s: %+v", tc.name, r)
			}
		}
		if strings.Join(is, "|") != strings.Join(tc.want, "|") {
			t.Errorf("%s: %q", tc.name, is)
		}
	}
}

// However many Services there are, a round stays short, and is the same each time.
func TestOfferedIsBounded(t *testing.T) {
	t.Parallel()
	var services []corev1.Service
	for i := range 200 {
		services = append(services, service("a", fmt.Sprintf("s%03d", 199-i), map[string]string{"n": fmt.Sprint(i)}, corev1.ServicePort{Port: 80}))
	}
	got := offered(services, nil)
	if len(got) != maxServices+1 || got[0].Name != "service a/s000 on "+string(probes.TCP)+" 80" {
		t.Errorf("%d %q", len(got), got[0].Name)
	}
}

func TestRequirements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		s := service("default", "web", map[string]string{"app": "web"}, corev1.ServicePort{Port: 80})
		w.put(raw(t, &s))
		given := []probes.Requirement{{Name: "given"}}
		in := RequirementsInput{Cluster: rancher.Cluster{ID: "c-1", Name: "dev"}, Given: given}
		got, err := w.activities(t).Requirements(t.Context(), in)
		if err != nil || len(got) != 3 || got[0].Name != "given" || !got[0].Optional || got[1].To.Port != 80 {
			t.Errorf("%+v %v", got, err)
		}
		if given[0].Optional {
			t.Error("what was given was changed")
		}
		for path, kind := range map[string]string{"/api/v1/services": errs.TypeDenied, "/api/v1/pods": errs.TypeUnavailable} {
			w.refuse = func(_, asked string) error {
				switch {
				case asked != path:
					return nil
				case kind == errs.TypeDenied:
					return apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", errors.New("no"))
				}
				return errors.New("connection refused")
			}
			if _, err := w.activities(t).Requirements(t.Context(), in); errs.TypeOf(err) != kind || !strings.Contains(err.Error(), "cluster dev") {
				t.Errorf("%s: %v", path, err)
			}
			if _, err := listNodes(t, w); err != nil {
				t.Error(err)
			}
		}
	})
}
