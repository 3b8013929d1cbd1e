package simcluster

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// nodesEach is how many nodes a cluster has.
const nodesEach = 3

// workload is a set of pods of one kind.
type workload struct {
	namespace, name string
	// pods are spread over the nodes.
	pods int
	// ports are what its pods listen on, and its service has.
	ports []int32
	// host says that the pods are in their node's network.
	host bool
}

// workloads are what runs in a cluster: what a small one of Rancher's has, and a
// shop's services.
var workloads = []workload{
	{namespace: "kube-system", name: "kube-proxy", pods: nodesEach, host: true},
	{namespace: "kube-system", name: "coredns", pods: 2, ports: []int32{53, 9153}},
	{namespace: "kube-system", name: "metrics-server", pods: 1, ports: []int32{10250}},
	{namespace: "calico-system", name: "calico-node", pods: nodesEach, host: true},
	{namespace: "calico-system", name: "calico-kube-controllers", pods: 1},
	{namespace: "cattle-system", name: "cattle-cluster-agent", pods: 2, ports: []int32{80, 443}},
	{namespace: "cattle-fleet-system", name: "fleet-agent", pods: 1},
	{namespace: "edge", name: "api-gateway", pods: 1, ports: []int32{8080, 9090}},
	{namespace: "checkout", name: "checkout-api", pods: 3, ports: []int32{8443, 9090}},
	{namespace: "payments", name: "payment-api", pods: 3, ports: []int32{8080, 9090}},
	{namespace: "data", name: "db", pods: 1, ports: []int32{5432, 9090}},
	{namespace: "monitoring", name: "metrics-scraper", pods: 1},
}

// born is when everything in a cluster was made.
var born = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

// world is what every cluster has, but for its node agents.
type world struct {
	nodes     []corev1.Node
	pods      []corev1.Pod
	services  []corev1.Service
	endpoints []discoveryv1.EndpointSlice
	// open are the addresses (IP:port) where somebody listens.
	open map[string]bool
}

func newWorld() *world {
	w := &world{open: map[string]bool{}}
	for i := range nodesEach {
		w.nodes = append(w.nodes, node(i))
	}
	for _, l := range workloads {
		w.add(l)
	}
	return w
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }
func nodeIP(i int) string   { return fmt.Sprintf("192.168.0.%d", i+11) }

func (w *world) add(l workload) {
	var made []corev1.Pod
	for i := range l.pods {
		ip := fmt.Sprintf("10.42.%d.%d", i%nodesEach, len(w.pods)+2)
		if l.host {
			ip = nodeIP(i % nodesEach)
		}
		made = append(made, pod(l.namespace, fmt.Sprintf("%s-7d4b9c6f5d-%05d", l.name, i), l.name, "registry.example/"+l.name+":1.0", i%nodesEach, ip, l.host))
		w.pods = append(w.pods, made[i])
		for _, port := range l.ports {
			w.open[fmt.Sprintf("%s:%d", ip, port)] = true
		}
	}
	if len(l.ports) > 0 {
		w.services = append(w.services, service(l, len(w.services)))
		w.endpoints = append(w.endpoints, endpoints(l, made))
	}
}

func meta(namespace, name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: labels, UID: uid(namespace + "/" + name),
		ResourceVersion: "1", CreationTimestamp: born,
	}
}

// uid is a UID that depends on the name alone.
func uid(name string) types.UID {
	h := uint64(14695981039346656037) // FNV-1a
	for _, b := range []byte(name) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return types.UID(fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", h>>32, h>>16&0xffff, h&0xfff, h>>20&0xfff, h>>8&0xffffffffffff))
}

func node(i int) corev1.Node {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	n := corev1.Node{
		ObjectMeta: meta("", nodeName(i), map[string]string{
			corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", corev1.LabelHostname: nodeName(i),
		}),
		Spec: corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.42.%d.0/24", i), PodCIDRs: []string{fmt.Sprintf("10.42.%d.0/24", i)}},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity,
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP(i)}, {Type: corev1.NodeHostName, Address: nodeName(i)}},
			NodeInfo:  corev1.NodeSystemInfo{KubeletVersion: kubernetesVersion, OperatingSystem: "linux", Architecture: "amd64", ContainerRuntimeVersion: "containerd://1.7.0"},
		},
	}
	for _, c := range []struct {
		kind   corev1.NodeConditionType
		status corev1.ConditionStatus
		reason string
	}{
		{corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory"},
		{corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure"},
		{corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID"},
		{corev1.NodeReady, corev1.ConditionTrue, "KubeletReady"},
	} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: c.kind, Status: c.status, Reason: c.reason, LastHeartbeatTime: born, LastTransitionTime: born,
		})
	}
	return n
}

// pod is one that runs and is ready, as long as a real one's JSON is.
func pod(namespace, name, app, image string, on int, ip string, host bool) corev1.Pod {
	yes, seconds := true, int64(300)
	p := corev1.Pod{
		ObjectMeta: meta(namespace, name, map[string]string{"app": app, "app.kubernetes.io/name": app, "pod-template-hash": "7d4b9c6f5d"}),
		Spec: corev1.PodSpec{
			NodeName: nodeName(on), HostNetwork: host, ServiceAccountName: app, DNSPolicy: corev1.DNSClusterFirst,
			RestartPolicy: corev1.RestartPolicyAlways, SchedulerName: corev1.DefaultSchedulerName, EnableServiceLinks: &yes,
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Tolerations: []corev1.Toleration{
				{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
				{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds},
			},
			Containers: []corev1.Container{{
				Name: app, Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
				TerminationMessagePath: corev1.TerminationMessagePathDefault, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
				Env: []corev1.EnvVar{
					{Name: "LOG_LEVEL", Value: "info"}, {Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}}},
				},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
				},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Scheme: corev1.URISchemeHTTP}}, PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3},
				VolumeMounts:   []corev1.VolumeMount{{Name: "config", MountPath: "/etc/" + app, ReadOnly: true}},
			}},
			Volumes: []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: app}}}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, HostIP: nodeIP(on), HostIPs: []corev1.HostIP{{IP: nodeIP(on)}},
			PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, StartTime: &born, QOSClass: corev1.PodQOSBurstable,
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: app, Image: image, ImageID: image + "@sha256:" + strings.Repeat("0123456789abcdef", 4),
				ContainerID: "containerd://" + strings.Repeat("0123456789abcdef", 4), Ready: true, Started: &yes,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: born}},
			}},
		},
	}
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app + "-7d4b9c6f5d", UID: uid("owner/" + app), Controller: &yes, BlockOwnerDeletion: &yes}}
	for _, kind := range []corev1.PodConditionType{corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: born})
	}
	return p
}

func service(l workload, i int) corev1.Service {
	s := corev1.Service{
		ObjectMeta: meta(l.namespace, l.name, map[string]string{"app": l.name}),
		Spec:       corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.43.0.%d", i+10), Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"app": l.name}},
	}
	for _, port := range l.ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("port-%d", port), Port: port, Protocol: corev1.ProtocolTCP})
	}
	return s
}

func endpoints(l workload, pods []corev1.Pod) discoveryv1.EndpointSlice {
	e := discoveryv1.EndpointSlice{
		ObjectMeta:  meta(l.namespace, l.name+"-x7k2p", map[string]string{discoveryv1.LabelServiceName: l.name}),
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	tcp, ready := corev1.ProtocolTCP, true
	for _, port := range l.ports {
		name := fmt.Sprintf("port-%d", port)
		e.Ports = append(e.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: &tcp})
	}
	for i := range pods {
		p := &pods[i]
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIP}, NodeName: &p.Spec.NodeName, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		})
	}
	return e
}
