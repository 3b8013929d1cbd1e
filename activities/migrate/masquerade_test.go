package migrate

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestMasquerades(t *testing.T) {
	in := func(name string) *corev1.EnvVarSource {
		ref := &corev1.ConfigMapKeySelector{Key: "masquerade"}
		ref.Name = name
		return &corev1.EnvVarSource{ConfigMapKeyRef: ref}
	}
	r := &run{cluster: &cluster{kube: fake.NewClientset(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "canal-config"}, Data: map[string]string{"masquerade": "true"},
	})}}
	for name, c := range map[string]struct {
		container corev1.Container
		want      bool
	}{
		"as in canal.yaml":       {corev1.Container{Command: []string{"/opt/bin/flanneld", "--ip-masq", "--kube-subnet-mgr"}}, true},
		"one dash":               {corev1.Container{Args: []string{"-ip-masq=true"}}, true},
		"off":                    {corev1.Container{Args: []string{"--ip-masq=false"}}, false},
		"the last one counts":    {corev1.Container{Args: []string{"--ip-masq", "--ip-masq=0"}}, false},
		"no flag":                {corev1.Container{Command: []string{"flanneld", "ip-masq"}}, false},
		"a variable":             {corev1.Container{Env: []corev1.EnvVar{{Name: masqueradeEnv, Value: "true"}}}, true},
		"a variable that is off": {corev1.Container{Env: []corev1.EnvVar{{Name: masqueradeEnv, Value: "false"}}}, false},
		"a flag beats it":        {corev1.Container{Args: []string{"--ip-masq=false"}, Env: []corev1.EnvVar{{Name: masqueradeEnv, Value: "true"}}}, false},
		"of a ConfigMap":         {corev1.Container{Env: []corev1.EnvVar{{Name: masqueradeEnv, ValueFrom: in("canal-config")}}}, true},
		"of one that is gone":    {corev1.Container{Env: []corev1.EnvVar{{Name: masqueradeEnv, ValueFrom: in("other")}}}, false},
	} {
		canal := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system"}}
		canal.Spec.Template.Spec.Containers = []corev1.Container{{Name: "calico-node"}, c.container}
		got, err := r.masquerades(t.Context(), canal)
		if err != nil || got != c.want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
}
