package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	fleet "github.com/rancher/fleet/pkg/apis/fleet.cattle.io/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/source"
	"portcullis.dev/portcullis/deploy/rbac"
	"portcullis.dev/portcullis/rancher"
)

const (
	// local is Rancher's ID of the management cluster.
	local = "local"
	// largest bounds what is read of one answer; Fleet's description of its types is
	// one to two megabytes.
	largest = 32 << 20
)

// management is Rancher, and through it the management cluster.
type management struct {
	*doctor
	client *rancher.Client
	http   *http.Client
}

func (d *doctor) rancher(ctx context.Context) {
	m := &management{doctor: d}
	rest := []string{RancherToken, RancherVersion, ManagementRights, ManagementMigrationRights, FleetAPI, FleetClusters, GitReach, ClusterReach}
	if !d.check(ctx, RancherReach, d.Config.Rancher.URL, m.reach) {
		d.skip(ctx, "Rancher cannot be used", rest...)
		return
	}
	d.check(ctx, RancherToken, "", m.token)
	d.check(ctx, RancherVersion, "", m.version)
	m.managementRights(ctx, ManagementRights, rbac.Rollout, Fail)
	m.managementRights(ctx, ManagementMigrationRights, rbac.Migration, Warn)
	if !d.check(ctx, FleetAPI, "", m.fleetAPI) {
		d.skip(ctx, "Fleet is not as it must be", FleetClusters, GitReach, ClusterReach)
		return
	}
	var clusters []rancher.Cluster
	listed := d.check(ctx, FleetClusters, m.client.Workspace(), func(ctx context.Context) (f finding) { clusters, f = m.clusters(ctx); return f })
	m.git(ctx)
	if !listed {
		d.skip(ctx, "the clusters cannot be listed", ClusterReach)
		return
	}
	m.downstream(ctx, clusters)
}

func (m *management) managementRights(ctx context.Context, id string, c rbac.Capability, lacking Status) {
	m.check(ctx, id, local, func(ctx context.Context) finding {
		kube, err := typedClient(m.client, local)
		if err != nil {
			return failed(errs.FromRancher(err))
		}
		return m.rights(ctx, kube, local, "management/"+string(c)+".yaml", rbac.OnManagement(c, m.client.Workspace()), lacking)
	})
}

func (m *management) reach(ctx context.Context) finding {
	cfg := m.Config.Rancher
	client, err := rancher.New(rancher.Config{
		URL: cfg.URL, TokenFile: cfg.TokenFile, CAFile: cfg.CAFile, Workspace: cfg.Workspace, UserAgent: "portcullis-doctor/" + m.Version,
	})
	if err != nil {
		return failed(errs.FromRancher(err))
	}
	base, err := client.REST(local)
	if err == nil {
		m.client = client
		m.http, err = rest.HTTPClientFor(base)
	}
	if err == nil {
		err = client.Check(ctx)
	}
	switch {
	case apierrors.IsForbidden(err):
		// The token is good; what it lacks is told by its permissions.
		return doubt("see "+ManagementRights, "it answers and takes the token, which may not read Rancher's setting server-url")
	case err != nil:
		return failed(errs.FromRancher(err))
	}
	return fine("it answers and takes the token")
}

// get reads a path of Rancher itself, or of the management cluster below /k8s.
// Found is false where there is no such thing, or it may not be seen.
func (m *management) get(ctx context.Context, path string, into any) (found bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.client.URL()+path, nil)
	if err != nil {
		return false, err
	}
	request.Header.Set("Accept", "application/json")
	response, err := m.http.Do(request)
	if err != nil {
		return false, errs.FromRancher(rancher.Wrap(ctx, err, "reading "+path, m.client.URL(), m.Config.Rancher.TokenFile, m.Config.Rancher.CAFile))
	}
	defer func() { _ = response.Body.Close() }()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusForbidden, http.StatusUnauthorized:
		return false, nil
	default:
		return false, errs.Unavailable("reading %s at %s: it answers %s", path, m.client.URL(), response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, largest)).Decode(into); err != nil {
		return false, errs.Failed("reading %s at %s: the answer is not what it should be", path, m.client.URL())
	}
	return true, nil
}

func kube(path string) string { return "/k8s/clusters/" + local + path }

// token asks Rancher for what it knows of the token. Its name is what stands
// before the colon; the secret after it goes nowhere but into the header.
func (m *management) token(ctx context.Context) finding {
	remedy := "make a new API token for the same user, and put it into " + m.Config.Rancher.TokenFile
	data, err := os.ReadFile(m.Config.Rancher.TokenFile)
	if err != nil {
		return broken("make the file readable", "the token file cannot be read")
	}
	name, _, whole := strings.Cut(strings.TrimSpace(string(data)), ":")
	if !whole || strings.ContainsAny(name, "/?# \t\n") {
		return skip("the token has no name in it, by which Rancher could be asked about it")
	}
	var token struct {
		ExpiresAt string `json:"expiresAt"`
		Expired   bool   `json:"expired"`
		UserID    string `json:"userId"`
	}
	found, err := m.get(ctx, "/v3/tokens/"+name, &token)
	switch {
	case err != nil:
		return failed(err)
	case !found:
		return skip("Rancher does not tell about the token")
	case token.Expired:
		return broken(remedy, "it has expired")
	case token.ExpiresAt == "":
		return fine("it never expires")
	}
	until, err := time.Parse(time.RFC3339, token.ExpiresAt)
	if err != nil {
		return skip("Rancher tells an end of the token that is no time")
	}
	return expiry(m.Now(), until, remedy, "it is valid until "+until.UTC().Format(time.RFC3339))
}

func (m *management) version(ctx context.Context) finding {
	var setting struct {
		Value string `json:"value"`
	}
	found, err := m.get(ctx, kube("/apis/management.cattle.io/v3/settings/server-version"), &setting)
	if err != nil {
		return failed(err)
	}
	if !found || setting.Value == "" {
		return skip("Rancher does not tell its version to this token")
	}
	return fine("%s", setting.Value)
}

// schema is as much of an OpenAPI schema as is followed.
type schema struct {
	Properties map[string]schema `json:"properties"`
	Kinds      []struct {
		Kind string `json:"kind"`
	} `json:"x-kubernetes-group-version-kind"`
	// Open is set where any field is kept.
	Open bool `json:"x-kubernetes-preserve-unknown-fields"`
}

// fleetAPI looks for the fields and not for a version: those are what is relied
// on, and distributions number Fleet differently.
func (m *management) fleetAPI(ctx context.Context) finding {
	var document struct {
		Components struct {
			Schemas map[string]schema `json:"schemas"`
		} `json:"components"`
	}
	found, err := m.get(ctx, kube("/openapi/v3/apis/fleet.cattle.io/v1alpha1"), &document)
	if err != nil {
		return failed(err)
	}
	if !found {
		return broken("install Fleet, which comes with Rancher", "the management cluster does not serve fleet.cattle.io/v1alpha1")
	}
	missing := missingFields(document.Components.Schemas)
	if len(missing) > 0 {
		return broken("update Rancher, and Fleet with it", "this Fleet does not know %s", strings.Join(missing, ", "))
	}
	return fine("its types have all fields that a rollout relies on")
}

// missingFields are those of fields that the schemas lack.
func missingFields(schemas map[string]schema) (missing []string) {
	byKind := map[string]schema{}
	for _, s := range schemas {
		for _, k := range s.Kinds {
			byKind[k.Kind] = s
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(fields)) {
		s, there := byKind[kind]
		if !there {
			missing = append(missing, kind)
			continue
		}
		for _, path := range fields[kind] {
			if !s.has(strings.Split(path, ".")) {
				missing = append(missing, kind+" "+path)
			}
		}
	}
	return missing
}

func (s schema) has(path []string) bool {
	if len(path) == 0 || s.Open {
		return true
	}
	next, there := s.Properties[path[0]]
	return there && next.has(path[1:])
}

// clusters reads the inventory as the daemon does, but from the API server itself.
func (m *management) clusters(ctx context.Context) ([]rancher.Cluster, finding) {
	var inFleet fleet.ClusterList
	var inRancher rancher.ManagementClusterList
	for path, into := range map[string]any{
		"/apis/fleet.cattle.io/v1alpha1/namespaces/" + m.client.Workspace() + "/clusters": &inFleet,
		"/apis/management.cattle.io/v3/clusters":                                          &inRancher,
	} {
		found, err := m.get(ctx, kube(path), into)
		if err != nil {
			return nil, failed(err)
		}
		if !found {
			return nil, broken("grant it, as "+ManagementRights+" says", "the clusters cannot be listed: %s is refused", path)
		}
	}
	clusters := rancher.Join(pointers(inFleet.Items), pointers(inRancher.Items))
	var away []string
	for _, c := range clusters {
		if !c.Connected {
			away = append(away, c.Name)
		}
	}
	switch {
	case len(clusters) == 0:
		return nil, doubt("see that rancher.workspace is right, and move clusters into it", "there is no cluster in the workspace")
	case len(away) > 0:
		return clusters, doubt("see why in Rancher; rollouts wait for them", "%s, of which %d are not connected: %s", plural(len(clusters), "cluster", "clusters"), len(away), some(away))
	}
	return clusters, fine("%s, all connected", plural(len(clusters), "cluster", "clusters"))
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// some names a few of many.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// git looks at each repository once: of the given pipelines, and of what
// Portcullis delivers already.
func (m *management) git(ctx context.Context) {
	sources := map[string]rancher.Source{}
	for _, p := range m.Pipelines {
		sources[sourceKey(p.Spec.Source)] = p.Spec.Source
	}
	delivered := m.delivered(ctx)
	for _, repo := range delivered {
		known := slices.ContainsFunc(slices.Collect(maps.Values(sources)), func(s rancher.Source) bool { return s.Repo == repo.Repo })
		if !known {
			sources[sourceKey(repo)] = repo
		}
	}
	if len(sources) == 0 {
		m.skip(ctx, "no pipeline is given (--file), and none is seen that is delivered yet", GitReach)
		return
	}
	activities := source.New(source.Config{CAFile: m.Config.Git.CAFile}, m.client)
	for _, key := range slices.Sorted(maps.Keys(sources)) {
		src := sources[key]
		m.check(ctx, GitReach, rancher.RedactURL(src.Repo), func(ctx context.Context) finding {
			commit, err := source.Reach(ctx, activities, src, m.client.Workspace())
			switch {
			case err != nil && src.Branch == "" && errs.TypeOf(err) == errs.TypeNotFound:
				return fine("it answers")
			case err != nil:
				return failed(err)
			}
			return fine("it answers; %s is at %.12s", src.Branch, commit)
		})
	}
}

// delivered are the repositories of the GitRepos that Portcullis keeps.
func (m *management) delivered(ctx context.Context) []rancher.Source {
	var list fleet.GitRepoList
	path := "/apis/fleet.cattle.io/v1alpha1/namespaces/" + m.client.Workspace() + "/gitrepos?labelSelector=" + rancher.LabelPipeline
	if found, err := m.get(ctx, kube(path), &list); err != nil || !found {
		return nil
	}
	var out []rancher.Source
	for _, r := range list.Items {
		// A pinned GitRepo has no branch; which one it is on is the pipeline's to know.
		out = append(out, rancher.Source{Repo: r.Spec.Repo, Branch: r.Spec.Branch, ClientSecretName: r.Spec.ClientSecretName})
	}
	return out
}

func typedClient(c *rancher.Client, cluster string) (kubernetes.Interface, error) {
	config, err := c.REST(cluster)
	if err != nil {
		return nil, err
	}
	config.WarningHandler = rest.NoWarnings{}
	config.ContentType = runtime.ContentTypeJSON
	return kubernetes.NewForConfig(config)
}
