package verify

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// agentName names the DaemonSet, its container and its ServiceAccount.
	agentName = "portcullis-node"
	// fieldManager owns the fields that are applied.
	fieldManager = "portcullis"
	managedLabel = "app.kubernetes.io/managed-by"
)

var agentLabels = map[string]string{"app.kubernetes.io/name": agentName}

// idleCommand is what the agent's container does between sessions: nothing.
var idleCommand = []string{"portcullis", "node", "idle"}

// apply makes the agent what it must be, and touches nothing else.
func (a *Activities) apply(ctx context.Context, kube kubernetes.Interface) error {
	options := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	if err := ApplyNamespace(ctx, kube, a.config.Namespace); err != nil {
		return err
	}
	if _, err := kube.CoreV1().ServiceAccounts(a.config.Namespace).Apply(ctx, a.serviceAccount(), options); err != nil {
		return err
	}
	_, err := kube.AppsV1().DaemonSets(a.config.Namespace).Apply(ctx, a.daemonSet(), options)
	return err
}

// ApplyNamespace makes the agent's namespace, or leaves one that somebody else made
// as it is: it is then theirs to allow privileged pods in it, and stays when the agent goes.
func ApplyNamespace(ctx context.Context, kube kubernetes.Interface, name string) error {
	ns, err := kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil && !IsOurs(ns):
		return nil
	case err != nil && !apierrors.IsNotFound(err):
		return err
	}
	_, err = kube.CoreV1().Namespaces().Apply(ctx, coreac.Namespace(name).WithLabels(map[string]string{
		managedLabel: fieldManager,
		// The agent is in the node's namespaces: Pod Security must let it be.
		"pod-security.kubernetes.io/enforce": "privileged",
		"pod-security.kubernetes.io/audit":   "privileged",
		"pod-security.kubernetes.io/warn":    "privileged",
	}), metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// IsOurs tells whether ApplyNamespace made a namespace.
func IsOurs(ns *corev1.Namespace) bool { return ns.Labels[managedLabel] == fieldManager }

func objectLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": agentName, managedLabel: fieldManager}
}

// serviceAccount has no rights, and its token is not mounted.
func (a *Activities) serviceAccount() *coreac.ServiceAccountApplyConfiguration {
	return coreac.ServiceAccount(agentName, a.config.Namespace).WithLabels(objectLabels()).WithAutomountServiceAccountToken(false)
}

func (a *Activities) daemonSet() *appsac.DaemonSetApplyConfiguration {
	return appsac.DaemonSet(agentName, a.config.Namespace).WithLabels(objectLabels()).WithSpec(
		appsac.DaemonSetSpec().
			WithSelector(metaac.LabelSelector().WithMatchLabels(agentLabels)).
			WithUpdateStrategy(appsac.DaemonSetUpdateStrategy().WithType("RollingUpdate").WithRollingUpdate(
				// An idle agent holds nothing that could be lost.
				appsac.RollingUpdateDaemonSet().WithMaxUnavailable(intstr.FromString("100%")))).
			WithTemplate(coreac.PodTemplateSpec().
				WithLabels(objectLabels()).
				WithAnnotations(map[string]string{
					// AppArmor's default profile forbids to look at other pods' processes. The annotation is
					// understood by every version; the field is not.
					"container.apparmor.security.beta.kubernetes.io/" + agentName: "unconfined",
				}).
				WithSpec(a.podSpec())))
}

func (a *Activities) podSpec() *coreac.PodSpecApplyConfiguration {
	spec := coreac.PodSpec().
		WithServiceAccountName(agentName).
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithHostNetwork(true).
		WithHostPID(true).
		WithPriorityClassName("system-node-critical").
		WithTerminationGracePeriodSeconds(2).
		WithTolerations(coreac.Toleration().WithOperator(corev1.TolerationOpExists)).
		WithNodeSelector(map[string]string{"kubernetes.io/os": "linux"}).
		WithContainers(a.container())
	for _, name := range a.config.ImagePullSecrets {
		spec.WithImagePullSecrets(coreac.LocalObjectReference().WithName(name))
	}
	return spec
}

// container is allowed what entering a pod's network namespace needs: SYS_PTRACE
// to open another process's namespace and files, SYS_ADMIN to enter it, NET_RAW
// for the witness. A preflight adds NET_ADMIN, to try an IP set in a namespace of
// its own and to list nftables; SYS_CHROOT, to ask the node's iptables for its
// version; and NET_BIND_SERVICE, to answer on BGP's port where that is asked for.
// No folder of the node is mounted. It is root because capabilities of a container
// do not reach other users.
func (a *Activities) container() *coreac.ContainerApplyConfiguration {
	c := coreac.Container().
		WithName(agentName).
		WithImage(a.config.Image).
		WithCommand(idleCommand...).
		WithSecurityContext(coreac.SecurityContext().
			WithRunAsUser(0).
			WithRunAsGroup(0).
			WithRunAsNonRoot(false).
			WithPrivileged(false).
			WithAllowPrivilegeEscalation(false).
			WithReadOnlyRootFilesystem(true).
			WithCapabilities(coreac.Capabilities().WithDrop("ALL").WithAdd("SYS_ADMIN", "SYS_PTRACE", "NET_RAW", "NET_ADMIN", "SYS_CHROOT", "NET_BIND_SERVICE")).
			// On SELinux, a container may otherwise not look at another's processes.
			WithSELinuxOptions(coreac.SELinuxOptions().WithType("spc_t")).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithResources(coreac.ResourceRequirements().
			WithRequests(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")}).
			WithLimits(corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")}))
	if a.config.PullPolicy != "" {
		c.WithImagePullPolicy(corev1.PullPolicy(a.config.PullPolicy))
	}
	return c
}
