package drift

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"

	"portcullis.dev/portcullis/rancher"
)

// Delivered is what Fleet knows of one cluster of a unit.
type Delivered struct {
	// Releases are those that Fleet's agent reports, by BundleDeployment.
	Releases map[string]ReleaseRef
	// Findings say where the verified revision is not what Fleet has applied.
	Findings []Finding
	// Views are what Fleet reports as modified or not ready.
	Views   []FleetView
	Unknown []string
}

// Deliveries judges every cluster of a unit by Fleet's objects. Whether objects are ready and
// unmodified is passed over here, because they are looked at themselves.
func Deliveries(s rancher.Snapshot, u Unit) map[string]*Delivered {
	names := make([]string, len(u.Clusters))
	for i, c := range u.Clusters {
		names[i] = c.Name
	}
	want := rancher.Want{Commit: u.Revision, Generation: u.Generation, Complete: true, Clusters: names}
	report := rancher.Live(content(s), want)
	out := make(map[string]*Delivered, len(names))
	for _, st := range report.Clusters {
		d := &Delivered{Releases: map[string]ReleaseRef{}}
		if !st.Live {
			d.Findings = append(d.Findings, Finding{
				Category: Delivery, Detail: clip(st.Reason, maxReason),
				Key: Key{APIVersion: "fleet.cattle.io/v1alpha1", Kind: "GitRepo", Name: u.GitRepo},
			})
		}
		out[st.Cluster] = d
	}
	for _, b := range s.Deployments {
		if d := out[b.Labels[fleet.ClusterLabel]]; d != nil {
			d.take(b)
		}
	}
	for _, d := range out {
		slices.SortFunc(d.Views, func(a, b FleetView) int { return strings.Compare(a.Bundle, b.Bundle) })
	}
	return out
}

func (d *Delivered) take(b *rancher.BundleDeployment) {
	ref, err := ParseReleaseRef(b.Status.Release)
	switch {
	case b.Status.Release == "":
		d.Unknown = append(d.Unknown, fmt.Sprintf("Fleet reports no Helm release of %s, so that it is not known what was rendered", b.Name))
	case err != nil:
		d.Unknown = append(d.Unknown, fmt.Sprintf("%s: %v", b.Name, err))
	default:
		d.Releases[b.Name] = ref
	}
	v := FleetView{Bundle: b.Name}
	for _, m := range b.Status.ModifiedStatus {
		v.Modified = append(v.Modified, clip(m.String(), maxReason))
	}
	for _, n := range b.Status.NonReadyStatus {
		v.NotReady = append(v.NotReady, clip(n.String(), maxReason))
	}
	if len(v.Modified)+len(v.NotReady) > 0 {
		d.Views = append(d.Views, v)
	}
}

// content is the snapshot as if everything that was applied were ready and unmodified.
func content(s rancher.Snapshot) rancher.Snapshot {
	deployments := make([]*rancher.BundleDeployment, len(s.Deployments))
	for i, b := range s.Deployments {
		c := *b
		c.Status.Ready, c.Status.NonModified, c.Status.IncompleteState = true, true, false
		c.Status.NonReadyStatus, c.Status.ModifiedStatus = nil, nil
		deployments[i] = &c
	}
	s.Deployments = deployments
	return s
}

// Check compares a release that was read with the one that Fleet installed. It returns what is
// not right with it; the release's Secret has the status.
func (r *Release) Check(ref ReleaseRef, bundle, status string) *Finding {
	f := &Finding{
		Category: Tampered, Bundle: bundle,
		Key: Key{APIVersion: "v1", Kind: "Secret", Namespace: ref.Namespace, Name: ref.Secret()},
	}
	switch {
	case r.Name != ref.Name || r.Namespace != ref.Namespace || r.Version != ref.Version:
		f.Detail = fmt.Sprintf("it holds release %s/%s:%d and not %s", r.Namespace, r.Name, r.Version, ref)
	case r.Bundle() != "" && r.Bundle() != bundle:
		f.Detail = fmt.Sprintf("release %s was installed for %s and not for %s", ref, r.Bundle(), bundle)
	case status != "" && status != "deployed" || r.Info.Status != "deployed":
		f.Detail = fmt.Sprintf("release %s is %s: someone other than Fleet's agent used Helm on it", ref, orNone(status, r.Info.Status))
	default:
		return nil
	}
	return f
}

func orNone(values ...string) string {
	for _, v := range values {
		if v != "" && v != "deployed" {
			return v
		}
	}
	return "not deployed"
}

// SameReleases says whether Fleet reports the same releases.
func (d *Delivered) SameReleases(other *Delivered) bool {
	return maps.Equal(d.Releases, other.Releases)
}
