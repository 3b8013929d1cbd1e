package migrate

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubectl/pkg/drain"

	"portcullis.dev/portcullis/activities/errs"
)

// evictEvery is the time between two attempts to evict a pod that its budget does not let go.
const evictEvery = 5 * time.Second

// drainer evicts pods as kubectl does, by the same code.
func (r *run) drainer(ctx context.Context) *drain.Helper {
	return &drain.Helper{
		Ctx: ctx, Client: r.kube,
		// The plan named the pods that nothing makes again, and those with data on the node.
		Force: true, DeleteEmptyDirData: true, IgnoreAllDaemonSets: true,
		GracePeriodSeconds: -1,
		Timeout:            max(time.Until(r.deadline), time.Second),
		// Without it, a budget that is in the way is asked again without a pause.
		EvictErrorRetryDelay: evictEvery,
		// Many goroutines write to these.
		Out: io.Discard, ErrOut: io.Discard,
	}
}

// evict cordons the node and moves its pods away. Budgets are honoured: a pod that
// may not go yet is tried again until the deadline.
func (r *run) evict(ctx context.Context) error {
	n, _, err := r.here(ctx)
	if err != nil {
		return err
	}
	if !n.Spec.Unschedulable {
		// Said first: whoever uncordons must know that it was us.
		if err := r.patchNode(ctx, n.Name, nil, map[string]any{annotationCordoned: r.in.Migration}); err != nil {
			return err
		}
	}
	helper := r.drainer(ctx)
	if err := drain.RunCordonOrUncordon(helper, n, true); err != nil {
		return err
	}
	list, problems := helper.GetPodsForDeletion(n.Name)
	if len(problems) > 0 {
		// With what is forced, that can only be an answer of the API server.
		return fmt.Errorf("node %s cannot be drained: %w", n.Name, problems[0])
	}
	pods := list.Pods()
	before, err := r.crowds(ctx, pods)
	if err != nil {
		return err
	}
	helper.OnPodDeletionOrEvictionFinished = func(pod *corev1.Pod, _ bool, err error) {
		if err == nil {
			r.changed("pod %s/%s left %s", pod.Namespace, pod.Name, n.Name)
		}
	}
	r.note("evicting", 0, len(pods), fmt.Sprintf("%d pods to leave %s", len(pods), n.Name))
	begun := r.now()
	err = helper.DeleteOrEvictPods(pods)
	r.waited += r.now().Sub(begun)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return r.undrained(n.Name, err)
	}
	r.proved("node %s is cordoned, and %d pods were evicted", n.Name, len(pods))
	return r.replaced(ctx, n.Name, pods, before)
}

// replacedWithin is how long the pods that take the place of evicted ones are waited for.
// They may need just this node, so that the way goes on without them.
const replacedWithin = time.Minute

// crowds counts the ready pods of every controller that has one of pods.
func (r *run) crowds(ctx context.Context, pods []corev1.Pod) (map[types.UID]int, error) {
	out, namespaces := map[types.UID]int{}, map[string]bool{}
	for i := range pods {
		if c := metav1.GetControllerOf(&pods[i]); c != nil {
			out[c.UID], namespaces[pods[i].Namespace] = 0, true
		}
	}
	for namespace := range namespaces {
		list, err := r.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			c := metav1.GetControllerOf(&list.Items[i])
			if c == nil || !podReady(&list.Items[i]) {
				continue
			}
			if n, ours := out[c.UID]; ours {
				out[c.UID] = n + 1
			}
		}
	}
	return out, nil
}

// replaced waits until the controllers have as many ready pods again as they had: a node
// that is not whole yet when the next thing happens to it makes one disturbance out of two.
func (r *run) replaced(ctx context.Context, node string, pods []corev1.Pod, before map[types.UID]int) error {
	missing := 0
	err := r.awaitAtMost(ctx, replacedWithin, "evicted pods start elsewhere", func(ctx context.Context) (string, error) {
		now, err := r.crowds(ctx, pods)
		if err != nil {
			return "", err
		}
		missing = 0
		for owner, had := range before {
			missing += max(had-now[owner], 0)
		}
		if missing == 0 {
			return "", nil
		}
		return fmt.Sprintf("%d pods that left %s are not ready elsewhere", missing, node), nil
	})
	if err == nil && missing > 0 {
		r.changed("%d pods that left %s were not ready elsewhere within %s", missing, node, replacedWithin)
	}
	return err
}

// inURL is what the HTTP client puts before its errors.
var inURL = regexp.MustCompile(`[A-Z][a-z]+ "https?://[^"]*": `)

// undrained says why pods did not leave a node. Of the API server's answers, kubectl's code
// leaves the text alone.
func (r *run) undrained(node string, err error) error {
	text := oneLine(inURL.ReplaceAllString(err.Error(), ""))
	switch {
	case !r.now().Before(r.deadline):
		return errs.Deadline("node %s could not be drained within %s: %s", node, r.deadline.Sub(r.started).Round(time.Second), text)
	case strings.Contains(text, "is forbidden"), strings.Contains(text, "denied the request"):
		return errs.Denied("node %s could not be drained: %s", node, text)
	}
	return errs.Unavailable("node %s could not be drained yet: %s", node, text)
}

// uncordon opens the node again, where a migration closed it.
func (r *run) uncordon(ctx context.Context) error {
	n, _, err := r.here(ctx)
	if errs.TypeOf(err) == errs.TypeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if n.Annotations[annotationCordoned] == "" {
		return nil
	}
	if err := drain.RunCordonOrUncordon(r.drainer(ctx), n, false); err != nil {
		return err
	}
	return r.patchNode(ctx, n.Name, nil, map[string]any{annotationCordoned: nil})
}
