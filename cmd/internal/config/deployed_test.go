package config

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// The file that docker-compose.yml's daemon begins with, also with what it has only
// as comments.
func TestTheFileOfCompose(t *testing.T) {
	const file = "../../../deploy/compose/server.yaml"
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	optional := regexp.MustCompile(`(?m)^( *)# ((?:caFile|slack): )`)
	require.Len(t, optional.FindAll(b, -1), 2)
	for _, text := range [][]byte{b, optional.ReplaceAll(b, []byte("$1$2"))} {
		s, err := ParseServer("/etc/portcullis/server.yaml", text)
		require.NoError(t, err)
		require.NoError(t, s.Complete(file))
		require.Equal(t, "temporal:7233", s.Temporal.Address)
		require.Equal(t, "/etc/portcullis/rancher-token", s.Rancher.TokenFile)
	}
}

// What deploy/kubernetes has is as Kubernetes takes it, under the strictest of the
// Pod Security Standards, and the daemon in it finds its files.
func TestTheManifestOfKubernetes(t *testing.T) {
	b, err := os.ReadFile("../../../deploy/kubernetes/portcullis.yaml")
	require.NoError(t, err)
	var (
		namespace  corev1.Namespace
		config     corev1.ConfigMap
		deployment appsv1.Deployment
	)
	documents := strings.Split(string(b), "\n---\n")
	for i, into := range []any{&namespace, &config, &deployment} {
		require.NoError(t, yaml.UnmarshalStrict([]byte(documents[i]), into))
	}
	require.Len(t, documents, 3)
	require.Equal(t, "restricted", namespace.Labels["pod-security.kubernetes.io/enforce"])

	pod := deployment.Spec.Template
	require.Equal(t, deployment.Spec.Selector.MatchLabels, pod.Labels)
	require.True(t, *pod.Spec.SecurityContext.RunAsNonRoot)
	require.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, pod.Spec.SecurityContext.SeccompProfile.Type)
	c := pod.Spec.Containers[0]
	require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
	require.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
	require.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop)

	mounts := map[string]string{}
	for _, m := range c.VolumeMounts {
		mounts[m.Name] = m.MountPath
	}
	require.Len(t, pod.Spec.Volumes, len(mounts))
	require.Equal(t, mounts["config"]+"/server.yaml", c.Env[0].Value)
	s, err := ParseServer(c.Env[0].Value, []byte(config.Data["server.yaml"]))
	require.NoError(t, err)
	require.NoError(t, s.Complete(c.Env[0].Value))
	require.Equal(t, mounts["secrets"]+"/rancher-token", s.Rancher.TokenFile)
	require.Equal(t, c.Image, s.Agent.Image, "daemon and agents are of one version")
	require.True(t, strings.HasSuffix(s.Metrics.Listen, ":9464") && c.Ports[0].ContainerPort == 9464)
}
