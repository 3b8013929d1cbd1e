package migration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// job is Calico's controller.
	job = "flannel-migration"
	// jobLimit bounds it, and faultLimit what it may take to give up on a node: it
	// waits five minutes for calico-node.
	jobLimit   = 15 * time.Minute
	faultLimit = 9 * time.Minute
)

// canalToken lets Canal's own pods ask for their token while Calico's role has the
// name of Canal's. Without it, every Canal pod that starts again during the
// controller's migration fails; what it is compared with is to work.
const canalToken = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: bench-canal-token}
rules:
- {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [canal], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: bench-canal-token}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bench-canal-token}
subjects:
- {kind: ServiceAccount, name: canal, namespace: kube-system}
`

// startController does what Calico's documentation says: first Calico's manifest,
// whose DaemonSet waits for a label, and then the job.
func (s *stage) startController(b *testing.B) {
	b.Helper()
	s.apply(b, "token.yaml", canalToken)
	read := func(name string) string {
		file, err := s.CalicoManifest(b.Context(), "flannel-migration/"+name)
		must(b, err)
		text, err := os.ReadFile(file)
		must(b, err)
		return string(text)
	}
	s.apply(b, "calico.yaml", read("calico.yaml"))
	s.apply(b, "job.yaml", controllerJob(b, read("migration-job.yaml")))
}

const prefer = `      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}
`

// controllerJob is the job for Canal, which is in another namespace than flannel, on
// the last node if possible: the controller moves its own node last, and goes to
// another one then.
func controllerJob(b *testing.B, manifest string) string {
	b.Helper()
	for _, change := range [][2]string{
		{"          env:\n", "          env:\n            - {name: FLANNEL_DAEMONSET_NAMESPACE, value: kube-system}\n"},
		{"      serviceAccountName:", fmt.Sprintf(prefer, nodes[len(nodes)-1]) + "      serviceAccountName:"},
	} {
		if strings.Count(manifest, change[0]) != 1 {
			b.Fatalf("the job has another shape: %q is in it %d times", change[0], strings.Count(manifest, change[0]))
		}
		manifest = strings.Replace(manifest, change[0], change[1], 1)
	}
	return manifest
}

// untilController waits for the job's end, or for enough failures of it.
func (s *stage) untilController(b *testing.B, limit time.Duration, failures int32) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	for {
		j, err := s.kube.BatchV1().Jobs("kube-system").Get(ctx, job, metav1.GetOptions{})
		if err == nil {
			for _, c := range j.Status.Conditions {
				if c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) {
					return "job " + string(c.Type)
				}
			}
			if failures > 0 && s.failures(ctx)+j.Status.Failed >= failures {
				return "job failed, and is tried again"
			}
		}
		select {
		case <-ctx.Done():
			return "job still running after " + limit.String()
		case <-time.After(2 * time.Second):
		}
	}
}

func (s *stage) controllerPods(ctx context.Context) []corev1.Pod {
	list, err := s.kube.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=flannel-migration-controller"})
	if err != nil {
		return nil
	}
	return list.Items
}

func (s *stage) failures(ctx context.Context) (n int32) {
	for _, p := range s.controllerPods(ctx) {
		for _, c := range p.Status.ContainerStatuses {
			n += c.RestartCount
		}
	}
	return n
}

// controllerSaid are the controller's warnings and errors, of the run before this one
// as well; and its last words.
func (s *stage) controllerSaid(b *testing.B) (out []string) {
	b.Helper()
	for _, p := range s.controllerPods(b.Context()) {
		for _, previous := range []string{"--previous=true", "--previous=false"} {
			text, err := s.Kubectl(b.Context(), cluster, "-n", "kube-system", "logs", p.Name, previous)
			if err != nil {
				continue
			}
			lines := strings.Split(text, "\n")
			for i, line := range lines {
				if strings.Contains(line, "[ERROR]") || strings.Contains(line, "[FATAL]") || i == len(lines)-1 {
					out = append(out, line[:min(len(line), 300)])
				}
			}
		}
	}
	return out
}

// BenchmarkController is Calico's own migration controller, as BenchmarkMigration is
// Portcullis.
func BenchmarkController(b *testing.B) {
	s := fresh(b, false)
	r := s.record(b)
	r.watch.Mark("controller starts")
	s.startController(b)
	result := s.untilController(b, jobLimit, 0)
	r.watch.Mark("controller: %s", result)
	f, report := r.finish(map[string]span{})
	f.Result, f.Noticed = result, s.controllerSaid(b)
	tell(b, "Calico's flannel-migration controller", f, report)
}
