package migrate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
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
