package migrate

import (
	"context"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// masqueradeEnv is flanneld's variable for its flag ip-masq, which the flag beats.
const masqueradeEnv = "FLANNELD_IP_MASQ"

// masquerades says whether flanneld gives what pods send out of their network the
// node's address, so that Calico does the same.
func (r *run) masquerades(ctx context.Context, canal *appsv1.DaemonSet) (bool, error) {
	for _, c := range canal.Spec.Template.Spec.Containers {
		if set, given := masqueradeFlag(slices.Concat(c.Command, c.Args)); given {
			return set, nil
		}
		for _, e := range c.Env {
			if e.Name != masqueradeEnv {
				continue
			}
			value, err := r.valueOf(ctx, canal.Namespace, e)
			if err != nil {
				return false, err
			}
			set, err := strconv.ParseBool(value)
			return err == nil && set, nil
		}
	}
	return false, nil
}

// masqueradeFlag reads the flag ip-masq, with one dash or two; the last one counts.
func masqueradeFlag(words []string) (set, given bool) {
	for _, word := range words {
		flag, value, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-"), "=")
		if flag != "ip-masq" || !strings.HasPrefix(word, "-") {
			continue
		}
		set, given = true, true
		if hasValue {
			parsed, err := strconv.ParseBool(value)
			set = err == nil && parsed
		}
	}
	return set, given
}

// valueOf reads a variable that is given, or is in a ConfigMap; empty where it is neither.
func (r *run) valueOf(ctx context.Context, namespace string, e corev1.EnvVar) (string, error) {
	if e.ValueFrom == nil || e.ValueFrom.ConfigMapKeyRef == nil {
		return e.Value, nil
	}
	ref := e.ValueFrom.ConfigMapKeyRef
	cm, err := r.kube.CoreV1().ConfigMaps(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return cm.Data[ref.Key], nil
}
