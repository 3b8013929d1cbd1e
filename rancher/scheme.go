package rancher

import (
	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"

	"github.com/rancher/wrangler/v3/pkg/genericcondition"
)

var (
	fleetGroupVersion      = schema.GroupVersion{Group: "fleet.cattle.io", Version: "v1alpha1"}
	managementGroupVersion = schema.GroupVersion{Group: "management.cattle.io", Version: "v3"}

	knownTypes = runtime.NewScheme()
	codecs     = serializer.NewCodecFactory(knownTypes)
)

func init() {
	utilruntime.Must(corev1.AddToScheme(knownTypes))
	utilruntime.Must(batchv1.AddToScheme(knownTypes))
	knownTypes.AddKnownTypes(fleetGroupVersion,
		&fleet.GitRepo{}, &fleet.GitRepoList{},
		&fleet.Bundle{}, &fleet.BundleList{},
		&fleet.Cluster{}, &fleet.ClusterList{},
		&fleet.ClusterGroup{}, &fleet.ClusterGroupList{},
		&BundleDeployment{}, &BundleDeploymentList{},
	)
	metav1.AddToGroupVersion(knownTypes, fleetGroupVersion)
	knownTypes.AddKnownTypeWithName(managementGroupVersion.WithKind("Cluster"), &ManagementCluster{})
	knownTypes.AddKnownTypeWithName(managementGroupVersion.WithKind("ClusterList"), &ManagementClusterList{})
	metav1.AddToGroupVersion(knownTypes, managementGroupVersion)
}

func groupClient(base *rest.Config, gv schema.GroupVersion) (rest.Interface, error) {
	cfg := rest.CopyConfig(base)
	cfg.GroupVersion = &gv
	cfg.APIPath = "/apis"
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	cfg.ContentType = runtime.ContentTypeJSON
	cfg.NegotiatedSerializer = codecs.WithoutConversion()
	return rest.RESTClientFor(cfg)
}

// BundleDeployment is Fleet's, with the fields of later Fleet versions that
// decide whether something is live, so that one type reads all of them.
type BundleDeployment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BundleDeploymentSpec         `json:"spec,omitempty"`
	Status fleet.BundleDeploymentStatus `json:"status,omitempty"`
}

// BundleDeploymentSpec adds to Fleet's.
type BundleDeploymentSpec struct {
	fleet.BundleDeploymentSpec `json:",inline"`
	// OffSchedule is true while a Fleet Schedule (0.14 and later) keeps the
	// agent from deploying.
	OffSchedule bool `json:"offSchedule,omitempty"`
}

// BundleDeploymentList is a list of BundleDeployments.
type BundleDeploymentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BundleDeployment `json:"items"`
}

// DeepCopyObject copies b wholly.
func (b *BundleDeployment) DeepCopyObject() runtime.Object {
	if b == nil {
		return nil
	}
	out := b.copy()
	return &out
}

func (b *BundleDeployment) copy() BundleDeployment {
	out := BundleDeployment{TypeMeta: b.TypeMeta}
	b.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	b.Spec.BundleDeploymentSpec.DeepCopyInto(&out.Spec.BundleDeploymentSpec)
	out.Spec.OffSchedule = b.Spec.OffSchedule
	b.Status.DeepCopyInto(&out.Status)
	return out
}

// DeepCopyObject copies l wholly.
func (l *BundleDeploymentList) DeepCopyObject() runtime.Object {
	if l == nil {
		return nil
	}
	out := &BundleDeploymentList{TypeMeta: l.TypeMeta, Items: make([]BundleDeployment, len(l.Items))}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		out.Items[i] = l.Items[i].copy()
	}
	return out
}

// ManagementCluster is the little of Rancher's management.cattle.io/v3 Cluster
// that Portcullis reads.
type ManagementCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ManagementClusterSpec   `json:"spec,omitempty"`
	Status ManagementClusterStatus `json:"status,omitempty"`
}

// ManagementClusterSpec holds the name that people see.
type ManagementClusterSpec struct {
	DisplayName string `json:"displayName,omitempty"`
}

// ManagementClusterStatus holds the conditions, among them Connected and Ready.
type ManagementClusterStatus struct {
	Conditions []genericcondition.GenericCondition `json:"conditions,omitempty"`
}

// ManagementClusterList is a list of ManagementClusters.
type ManagementClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ManagementCluster `json:"items"`
}

// DeepCopyObject copies c wholly.
func (c *ManagementCluster) DeepCopyObject() runtime.Object {
	if c == nil {
		return nil
	}
	out := c.copy()
	return &out
}

func (c *ManagementCluster) copy() ManagementCluster {
	out := ManagementCluster{TypeMeta: c.TypeMeta, Spec: c.Spec}
	c.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Status.Conditions = append([]genericcondition.GenericCondition(nil), c.Status.Conditions...)
	return out
}

// DeepCopyObject copies l wholly.
func (l *ManagementClusterList) DeepCopyObject() runtime.Object {
	if l == nil {
		return nil
	}
	out := &ManagementClusterList{TypeMeta: l.TypeMeta, Items: make([]ManagementCluster, len(l.Items))}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		out.Items[i] = l.Items[i].copy()
	}
	return out
}
