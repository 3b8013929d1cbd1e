package migrate

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"portcullis.dev/portcullis/probes/migration"
)

// What crashes for good is not waited for until the step's time is over; what may
// come up yet is.
func TestPodCrashes(t *testing.T) {
	status := func(restarts int32, reason string) corev1.ContainerStatus {
		s := corev1.ContainerStatus{Name: "calico-node", RestartCount: restarts}
		s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Message: "no datastore"}
		if reason != "" {
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason}
		}
		return s
	}
	bare := status(4, "CrashLoopBackOff")
	bare.LastTerminationState.Terminated = nil
	for _, c := range []struct {
		name string
		pod  corev1.PodStatus
		want string
	}{
		{"no containers yet", corev1.PodStatus{}, ""},
		{"it runs", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{status(9, "")}}, ""},
		{"it is pulled", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{status(9, "ImagePullBackOff")}}, ""},
		{"a few crashes", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{status(3, "CrashLoopBackOff")}}, ""},
		{"many", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{status(4, "CrashLoopBackOff")}},
			"calico-node ended 5 times, the last time with 1 no datastore"},
		{"an installer", corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{status(7, "CrashLoopBackOff")}},
			"calico-node ended 8 times, the last time with 1 no datastore"},
		{"nothing is known of the last time", corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{bare}}, "calico-node ended 5 times"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := podCrashes(&corev1.Pod{Status: c.pod}); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// What chose between the two leaves no trace where it is taken back, whatever was
// required before.
func TestAnywhere(t *testing.T) {
	linux := corev1.NodeSelectorRequirement{Key: "kubernetes.io/os", Operator: corev1.NodeSelectorOpIn, Values: []string{"linux"}}
	required := func(terms ...corev1.NodeSelectorTerm) *corev1.Affinity {
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
	}
	preferred := &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
		{Weight: 1, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{linux}}},
	}}}
	for name, before := range map[string]*corev1.Affinity{
		"nothing":      nil,
		"a rule":       required(corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{linux}}),
		"alternatives": required(corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{linux}}, corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{linux}}),
		"a preference": preferred,
		"other pods":   {PodAntiAffinity: &corev1.PodAntiAffinity{}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &corev1.PodSpec{Affinity: before.DeepCopy()}
			anywhere(spec)
			if !reflect.DeepEqual(spec.Affinity, before) {
				t.Errorf("untouched it becomes %+v", spec.Affinity)
			}
			onlyWhere(spec, corev1.NodeSelectorOpNotIn, cniCanal)
			onlyWhere(spec, corev1.NodeSelectorOpIn, cniCalico)
			if reflect.DeepEqual(spec.Affinity, before) {
				t.Error("onlyWhere changed nothing")
			}
			anywhere(spec)
			if got, _ := patchOf(map[string]any{"a": spec.Affinity}); before != nil || spec.Affinity != nil {
				want, _ := patchOf(map[string]any{"a": before})
				if string(got) != string(want) {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		})
	}
}

// A step that moves a node waits for the network of its pods, for two minutes at most.
func TestPodsAreWaitedFor(t *testing.T) {
	off := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}}}
	now := metav1.Now()
	for _, c := range []struct {
		name string
		pod  corev1.Pod
		want bool
	}{
		{"no sandbox", corev1.Pod{Status: off}, true},
		{"an older kubelet", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}, false},
		{"on the node's network", corev1.Pod{Spec: corev1.PodSpec{HostNetwork: true}, Status: off}, false},
		{"it goes", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: off}, false},
		{"it has ended", corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded, Conditions: off.Conditions}}, false},
	} {
		if got := podUnconnected(&c.pod); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
	for _, comes := range []time.Duration{30 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			all := course(2)
			i := slices.IndexFunc(all, func(d deed) bool { return d.step == migration.Swap })
			w := newWorld(t, 2)
			mustDo(t, w, all[:i]...)
			pod := &corev1.Pod{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "booted"},
				Spec: corev1.PodSpec{NodeName: all[i].node, Containers: []corev1.Container{{Name: "app"}}}, Status: off,
			}
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pod)
			if err != nil {
				t.Fatal(err)
			}
			w.put(&unstructured.Unstructured{Object: content})
			come := time.AfterFunc(comes, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				unstructured.RemoveNestedField(w.objects[kindOf("v1", "Pod").key("default", "booted")].Object, "status", "conditions")
			})
			defer come.Stop()
			begun := time.Now()
			in := at(t, all[i].step, all[i].node)
			in.Timeout = 5 * time.Minute
			result, err := w.activities(t).Do(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			late := strings.Contains(strings.Join(result.Evidence, "\n"), "1 pods still have no network, such as default/booted")
			if took := time.Since(begun); late != (comes > connectedWithin) || took < min(comes, connectedWithin) || took > min(comes, connectedWithin)+10*time.Second {
				t.Errorf("comes after %s: took %s, %q", comes, took, result.Evidence)
			}
		})
	}
}
