package doctor

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	authorizationv1 "k8s.io/api/authorization/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/cmd/internal/daemon"
	"portcullis.dev/portcullis/deploy/rbac"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

var now = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// fakeTemporal answers what doctor asks.
type fakeTemporal struct {
	client.Client
	version    string
	keep       time.Duration
	attributes map[string]enumspb.IndexedValueType
	polled     time.Time
	err        error
}

func (f *fakeTemporal) WorkflowService() workflowservice.WorkflowServiceClient {
	return service{of: f}
}
func (f *fakeTemporal) OperatorService() operatorservice.OperatorServiceClient {
	return operator{of: f}
}
func (f *fakeTemporal) Close() {}

// service and operator are its raw interfaces.
type service struct {
	workflowservice.WorkflowServiceClient
	of *fakeTemporal
}

type operator struct {
	operatorservice.OperatorServiceClient
	of *fakeTemporal
}

func (f service) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest, ...grpc.CallOption) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{ServerVersion: f.of.version}, nil
}

func (f service) DescribeNamespace(context.Context, *workflowservice.DescribeNamespaceRequest, ...grpc.CallOption) (*workflowservice.DescribeNamespaceResponse, error) {
	return &workflowservice.DescribeNamespaceResponse{Config: &namespacepb.NamespaceConfig{WorkflowExecutionRetentionTtl: durationpb.New(f.of.keep)}}, f.of.err
}

func (f operator) ListSearchAttributes(context.Context, *operatorservice.ListSearchAttributesRequest, ...grpc.CallOption) (*operatorservice.ListSearchAttributesResponse, error) {
	return &operatorservice.ListSearchAttributesResponse{CustomAttributes: f.of.attributes}, f.of.err
}

func (f *fakeTemporal) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	name := contract.AttrState.GetName()
	if strings.Contains(r.GetQuery(), name) {
		if _, there := f.attributes[name]; !there {
			return nil, serviceerror.NewInvalidArgument("unknown")
		}
	}
	return &workflowservice.ListWorkflowExecutionsResponse{}, nil
}

func (f *fakeTemporal) DescribeTaskQueue(context.Context, string, enumspb.TaskQueueType) (*workflowservice.DescribeTaskQueueResponse, error) {
	return &workflowservice.DescribeTaskQueueResponse{Pollers: []*taskqueuepb.PollerInfo{{Identity: "portcullis/v1@a:1", LastAccessTime: timestamppb.New(f.polled)}}}, f.err
}

// fakeRancher is Rancher with a management cluster and two more.
type fakeRancher struct {
	mu      sync.Mutex
	answers map[string]any
	// refused are the permissions that are not granted, as rbac writes them.
	refused []string
	// requests are what was asked, by method and path, and asked the permissions, by cluster.
	requests []string
	asked    map[string][]string
}

const token = "token-abc12:s3cret-of-the-token"

func (f *fakeRancher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	if r.Header.Get("Authorization") != "Bearer "+token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews") {
		var review authorizationv1.SelfSubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		a := review.Spec.ResourceAttributes
		asked := rbac.Permission{Group: a.Group, Resource: a.Resource, Subresource: a.Subresource, Namespace: a.Namespace, Name: a.Name, Verb: a.Verb}.String()
		cluster, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/k8s/clusters/"), "/")
		f.asked[cluster] = append(f.asked[cluster], asked)
		review.Status.Allowed = !slices.Contains(f.refused, asked)
		review.APIVersion, review.Kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(review)
		return
	}
	answer, ok := f.answers[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if code, is := answer.(int); is {
		w.WriteHeader(code)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

type object = map[string]any

// openAPI describes types with the fields that are relied on, but for those that are left out.
func openAPI(without ...string) object {
	schemas := object{}
	for kind, paths := range fields {
		root := object{}
		for _, path := range paths {
			if slices.Contains(without, kind+" "+path) {
				continue
			}
			at := root
			for step := range strings.SplitSeq(path, ".") {
				properties, _ := at["properties"].(object)
				if properties == nil {
					properties = object{}
					at["properties"] = properties
				}
				next, _ := properties[step].(object)
				if next == nil {
					next = object{}
					properties[step] = next
				}
				at = next
			}
		}
		root["x-kubernetes-group-version-kind"] = []object{{"group": "fleet.cattle.io", "kind": kind, "version": "v1alpha1"}}
		schemas["io.cattle.fleet.v1alpha1."+kind] = root
	}
	return object{"components": object{"schemas": schemas}}
}

func wellRancher() *fakeRancher {
	cluster := func(id, name string) object {
		return object{
			"metadata": object{"name": name, "labels": object{rancher.LabelManagementCluster: id}},
			"status":   object{"agent": object{"lastSeen": now.Add(-time.Minute).Format(time.RFC3339)}},
		}
	}
	managed := func(id, connected string) object {
		return object{"metadata": object{"name": id}, "status": object{"conditions": []object{{"type": "Connected", "status": connected, "message": "the tunnel is down"}}}}
	}
	const k8s = "/k8s/clusters/local/apis/"
	return &fakeRancher{asked: map[string][]string{}, answers: map[string]any{
		k8s + "management.cattle.io/v3/settings/server-url":                object{},
		k8s + "management.cattle.io/v3/settings/server-version":            object{"value": "v2.12.1"},
		"/v3/tokens/token-abc12":                                           object{"expiresAt": now.Add(90 * 24 * time.Hour).Format(time.RFC3339), "userId": "u-1"},
		"/k8s/clusters/local/openapi/v3/apis/fleet.cattle.io/v1alpha1":     openAPI(),
		k8s + "fleet.cattle.io/v1alpha1/namespaces/fleet-default/clusters": object{"items": []object{cluster("c-m-1", "dev"), cluster("c-m-2", "prod")}},
		k8s + "management.cattle.io/v3/clusters":                           object{"items": []object{managed("c-m-1", "True"), managed("c-m-2", "True")}},
		k8s + "fleet.cattle.io/v1alpha1/namespaces/fleet-default/gitrepos": object{"items": []object{}},
		"/k8s/clusters/c-m-1/version":                                      object{},
		"/k8s/clusters/c-m-2/version":                                      object{},
	}}
}

// setting is a daemon's file with everything behind it.
type setting struct {
	Options
	temporal *fakeTemporal
	rancher  *fakeRancher
	url      string
	git      string
}

func newSetting(t *testing.T) *setting {
	t.Helper()
	s := &setting{rancher: wellRancher(), temporal: &fakeTemporal{
		version: "1.31.2", keep: 30 * 24 * time.Hour, attributes: daemon.SearchAttributes(), polled: now,
	}}
	server := httptest.NewTLSServer(s.rancher)
	t.Cleanup(server.Close)
	s.url = server.URL
	git := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		hash := strings.Repeat("ab", 20)
		line := func(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }
		_, _ = fmt.Fprint(w, line("# service=git-upload-pack\n"), "0000", line(hash+" HEAD\x00agent=git/x\n"), line(hash+" refs/heads/main\n"), "0000")
	}))
	t.Cleanup(git.Close)
	s.git = git.URL + "/policies"
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, data, 0o600))
		return file
	}
	cfg := config.Server{
		Rancher: config.Rancher{URL: server.URL, TokenFile: write("token", []byte(token+"\n")),
			CAFile: write("ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))},
		Agent: config.Agent{Image: "registry.example.com/portcullis:v1"}, Metrics: config.Metrics{Listen: "127.0.0.1:9464"},
	}
	config.SetServerDefaults(&cfg)
	pipeline := contract.Pipeline{}
	pipeline.Spec.Source = rancher.Source{Repo: s.git, Branch: "main"}
	s.Options = Options{
		File: "server.yaml", Config: cfg, Version: "test", Pipelines: []contract.Pipeline{pipeline},
		Dial: func(context.Context, client.Options) (client.Client, error) { return s.temporal, nil },
		Now:  func() time.Time { return now },
	}
	return s
}

// found is each check's result, by ID and, where there are several, the target.
func found(r Report) map[string]Result {
	out := map[string]Result{}
	for _, c := range r.Checks {
		out[c.ID] = c
		out[c.ID+" "+c.Target] = c
	}
	return out
}

func TestAllIsWell(t *testing.T) {
	s := newSetting(t)
	s.All = true
	r := Run(t.Context(), s.Options)
	for _, c := range r.Checks {
		if c.ID == SlackToken {
			require.Equal(t, Skipped, c.Status)
			continue
		}
		require.Equal(t, OK, c.Status, "%+v", c)
		require.Empty(t, c.Remedy)
	}
	require.Equal(t, OK, r.Status)
	got := found(r)
	for _, known := range Catalog {
		require.Contains(t, got, known.ID)
	}
	require.Contains(t, got, ClusterAgents+" prod")
	require.Contains(t, got[GitReach].Detail, "main is at abababababab")
	// In the order of the catalogue.
	require.True(t, slices.IsSortedFunc(r.Checks, func(a, b Result) int {
		at := func(id string) int { return slices.IndexFunc(Catalog, func(c Check) bool { return c.ID == id }) }
		return at(a.ID) - at(b.ID)
	}))
}

// It looks and asks; nothing is written, and no secret is told.
func TestNothingIsChangedAndNoSecretTold(t *testing.T) {
	s := newSetting(t)
	s.All = true
	s.rancher.answers["/v3/tokens/token-abc12"] = object{"expired": true}
	r := Run(t.Context(), s.Options)
	for _, request := range s.rancher.requests {
		if !strings.HasPrefix(request, "GET ") {
			require.Regexp(t, `^POST /k8s/clusters/[a-z0-9-]+/apis/authorization.k8s.io/v1/selfsubjectaccessreviews$`, request)
		}
	}
	told, err := json.Marshal(r)
	require.NoError(t, err)
	require.NotContains(t, string(told), "s3cret")
}

func TestOneClusterIsLookedAtUnlessMoreAreNamed(t *testing.T) {
	s := newSetting(t)
	got := found(Run(t.Context(), s.Options))
	require.Contains(t, got, ClusterRights+" dev")
	require.NotContains(t, got, ClusterRights+" prod")

	s.Clusters = []string{"c-m-2", "nowhere"}
	got = found(Run(t.Context(), s.Options))
	require.Contains(t, got, ClusterRights+" prod")
	require.NotContains(t, got, ClusterRights+" dev")
	require.Equal(t, Fail, got[ClusterReach+" nowhere"].Status)
}

func TestWhatIsWrongIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*setting)
		id     string
		status Status
		detail string
		remedy string
	}{
		"file":          {func(s *setting) { s.Config.Agent.Image = "" }, ServerFile, Fail, "agent.image", "complete the file"},
		"no listener":   {func(s *setting) { s.Config.Metrics.Listen = "" }, ServerFile, Warn, "no metrics.listen", "set metrics.listen"},
		"Temporal's CA": {func(s *setting) { s.Config.Temporal.TLS.CAFile = "/nowhere/ca.crt" }, TemporalTLS, Fail, "/nowhere/ca.crt", "correct it"},
		"Temporal is down": {func(s *setting) {
			s.Dial = func(context.Context, client.Options) (client.Client, error) {
				return nil, serviceerror.NewUnavailable("refused")
			}
		}, TemporalReach, Fail, "does not answer", "reaches it"},
		"Temporal denies": {func(s *setting) {
			s.Dial = func(context.Context, client.Options) (client.Client, error) {
				return nil, serviceerror.NewPermissionDenied("no", "")
			}
		}, TemporalReach, Fail, "refuses the credentials", "credentials"},
		"Temporal is old":  {func(s *setting) { s.temporal.version = "1.22.4" }, TemporalReach, Fail, "1.22.4", "1.25"},
		"retention":        {func(s *setting) { s.temporal.keep = 24 * time.Hour }, TemporalNamespace, Warn, "24h", "--retention"},
		"attributes":       {func(s *setting) { s.temporal.attributes = nil }, TemporalSearchAttributes, Warn, "PortcullisState", "temporal operator search-attribute create"},
		"attributes' list": {func(s *setting) { s.temporal.attributes = nil }, TemporalList, Warn, "PortcullisState", "temporal operator search-attribute create"},
		"attribute's type": {func(s *setting) {
			s.temporal.attributes = map[string]enumspb.IndexedValueType{contract.AttrState.GetName(): enumspb.INDEXED_VALUE_TYPE_INT}
		}, TemporalSearchAttributes, Fail, "another type", "remove"},
		"no daemon":        {func(s *setting) { s.temporal.polled = now.Add(-time.Hour) }, TemporalDaemons, Warn, "no daemon", "portcullis server"},
		"may not be asked": {func(s *setting) { s.temporal.err = serviceerror.NewPermissionDenied("no", "") }, TemporalNamespace, Skipped, "may not describe", ""},
		"token file":       {func(s *setting) { s.Config.Rancher.TokenFile = "/nowhere/token" }, RancherReach, Fail, "/nowhere/token", "credentials"},
		"CA":               {func(s *setting) { s.Config.Rancher.CAFile = "" }, RancherReach, Fail, "does not verify", "certificates"},
		"Rancher is down":  {func(s *setting) { s.Config.Rancher.URL = "https://127.0.0.1:1" }, RancherReach, Fail, "does not answer", "reaches it"},
		"no Rancher": {func(s *setting) {
			delete(s.rancher.answers, "/k8s/clusters/local/apis/management.cattle.io/v3/settings/server-url")
		}, RancherReach, Fail, "it is not Rancher", "name is right"},
		"no rights on a cluster": {func(s *setting) {
			for _, p := range rbac.OnCluster(rbac.Drift, rbac.AgentNamespace) {
				s.rancher.refused = append(s.rancher.refused, p.String())
			}
		}, ClusterDriftRights, Warn, fmt.Sprintf("none of the %d that are needed is granted", len(rbac.OnCluster(rbac.Drift, rbac.AgentNamespace))), "deploy/rbac/cluster/drift.yaml"},
		// A token that may not read anything is a good one: what it lacks is told.
		"no rights": {func(s *setting) {
			s.rancher.answers["/k8s/clusters/local/apis/management.cattle.io/v3/settings/server-url"] = http.StatusForbidden
			s.rancher.refused = []string{"get settings.management.cattle.io server-url"}
		}, ManagementRights, Fail, "1 is missing: get settings.management.cattle.io server-url", "deploy/rbac/management/rollout.yaml"},
		"no right to see Rancher": {func(s *setting) {
			s.rancher.answers["/k8s/clusters/local/apis/management.cattle.io/v3/settings/server-url"] = http.StatusForbidden
		}, RancherReach, Warn, "takes the token, which may not read Rancher's setting server-url", ManagementRights},
		"no right to list clusters": {func(s *setting) {
			s.rancher.answers["/k8s/clusters/local/apis/management.cattle.io/v3/clusters"] = http.StatusForbidden
		}, ClusterReach, Skipped, "the clusters cannot be listed", ""},
		"token expires": {func(s *setting) {
			s.rancher.answers["/v3/tokens/token-abc12"] = object{"expiresAt": now.Add(50 * time.Hour).Format(time.RFC3339)}
		}, RancherToken, Warn, "expires in 2 days", "new API token"},
		"token has expired": {func(s *setting) {
			s.rancher.answers["/v3/tokens/token-abc12"] = object{"expiresAt": now.Add(-time.Hour).Format(time.RFC3339)}
		}, RancherToken, Fail, "has expired", "new API token"},
		"token is for ever":  {func(s *setting) { s.rancher.answers["/v3/tokens/token-abc12"] = object{"expiresAt": ""} }, RancherToken, OK, "never expires", ""},
		"token is not shown": {func(s *setting) { delete(s.rancher.answers, "/v3/tokens/token-abc12") }, RancherToken, Skipped, "does not tell", ""},
		"version": {func(s *setting) {
			delete(s.rancher.answers, "/k8s/clusters/local/apis/management.cattle.io/v3/settings/server-version")
		}, RancherVersion, Skipped, "does not tell", ""},
		"management right": {func(s *setting) { s.rancher.refused = []string{"create gitrepos.fleet.cattle.io in fleet-default"} }, ManagementRights, Fail, "1 is missing: create gitrepos.fleet.cattle.io in fleet-default", "grant"},
		"migration's mark": {func(s *setting) { s.rancher.refused = []string{"patch clusters.fleet.cattle.io in fleet-default"} }, ManagementMigrationRights, Warn, "1 is missing: patch clusters.fleet.cattle.io in fleet-default", "deploy/rbac/management/migration.yaml"},
		"cluster rights":   {func(s *setting) { s.rancher.refused = []string{"create pods/exec in portcullis-system", "list pods"} }, ClusterRights, Fail, "2 are missing: create pods/exec in portcullis-system; list pods", "deploy/rbac/cluster/rollout.yaml on the cluster c-m-1"},
		"verbs on one":     {func(s *setting) { s.rancher.refused = []string{"watch pods", "list pods"} }, ClusterRights, Fail, "2 are missing: list, watch pods", "c-m-1"},
		"preflight right":  {func(s *setting) { s.rancher.refused = []string{"list ippools.crd.projectcalico.org"} }, ClusterPreflightRights, Warn, "ippools", "grant"},
		"migration right":  {func(s *setting) { s.rancher.refused = []string{"escalate clusterroles.rbac.authorization.k8s.io"} }, ClusterMigrationRights, Warn, "escalate", "grant"},
		"no Fleet": {func(s *setting) {
			delete(s.rancher.answers, "/k8s/clusters/local/openapi/v3/apis/fleet.cattle.io/v1alpha1")
		}, FleetAPI, Fail, "does not serve", "install Fleet"},
		"old Fleet": {func(s *setting) {
			s.rancher.answers["/k8s/clusters/local/openapi/v3/apis/fleet.cattle.io/v1alpha1"] = openAPI("GitRepo spec.forceSyncGeneration")
		}, FleetAPI, Fail, "does not know GitRepo spec.forceSyncGeneration", "update"},
		"no clusters": {func(s *setting) {
			s.rancher.answers["/k8s/clusters/local/apis/fleet.cattle.io/v1alpha1/namespaces/fleet-default/clusters"] = object{"items": []object{}}
		}, FleetClusters, Warn, "no cluster", "workspace"},
		"a cluster is away": {func(s *setting) {
			s.rancher.answers["/k8s/clusters/local/apis/management.cattle.io/v3/clusters"] = object{"items": []object{}}
		}, FleetClusters, Warn, "2 are not connected: dev, prod", "Rancher"},
		"cluster is away":     {func(s *setting) { delete(s.rancher.answers, "/k8s/clusters/c-m-1/version") }, ClusterReach, Fail, "c-m-1", ""},
		"Git branch":          {func(s *setting) { s.Pipelines[0].Spec.Source.Branch = "gone" }, GitReach, Fail, "no branch gone", "name is right"},
		"Git is down":         {func(s *setting) { s.Pipelines[0].Spec.Source.Repo = "http://127.0.0.1:1/x" }, GitReach, Fail, "127.0.0.1:1", "reaches it"},
		"no pipeline":         {func(s *setting) { s.Pipelines = nil }, GitReach, Skipped, "--file", ""},
		"Slack's token file":  {func(s *setting) { s.Config.Slack.BotTokenFile = "/nowhere/bot" }, SlackToken, Fail, "/nowhere/bot", "correct"},
		"Slack's wrong token": {func(s *setting) { s.Config.Slack.BotTokenFile = s.Config.Rancher.TokenFile }, SlackToken, Fail, "xoxb-", "correct"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t)
			c.spoil(s)
			r := Run(t.Context(), s.Options)
			got := found(r)[c.id]
			require.Equal(t, c.status, got.Status, "%+v", got)
			require.Contains(t, got.Detail, c.detail)
			require.Contains(t, got.Remedy, c.remedy)
			require.NotContains(t, got.Detail+got.Remedy, "\n")
			require.NotContains(t, got.Detail, "s3cret")
			if c.status == Fail {
				require.Equal(t, Fail, r.Status)
				require.NotEmpty(t, got.Remedy)
			}
		})
	}
}

// What stands on something that failed is skipped, and says so.
func TestWhatCannotBeLookedAtIsSkipped(t *testing.T) {
	s := newSetting(t)
	s.Config.Rancher.URL = "https://127.0.0.1:1"
	got := found(Run(t.Context(), s.Options))
	for _, id := range []string{RancherToken, ManagementRights, FleetClusters, ClusterReach} {
		require.Equal(t, Skipped, got[id].Status, id)
		require.Contains(t, got[id].Detail, "Rancher cannot be used")
	}
	require.Equal(t, OK, got[TemporalReach].Status, "Temporal has nothing to do with it")
}

// A server that never answers takes no more than the time that is given.
func TestTheTimeIsLimited(t *testing.T) {
	s := newSetting(t)
	s.Dial = func(ctx context.Context, _ client.Options) (client.Client, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.Now = time.Now
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	r := Run(ctx, s.Options)
	require.Less(t, time.Since(began), 5*time.Second)
	got := found(r)
	require.Equal(t, Skipped, got[TemporalReach].Status)
	require.Equal(t, Skipped, got[RancherReach].Status)
	require.NotEqual(t, Fail, r.Status, "nobody knows")
}

func TestScopes(t *testing.T) {
	for header, want := range map[string]Status{
		"chat:write,usergroups:read,users:read,files:write": OK,
		"files:write, usergroups:read, chat:write":          OK,
		"chat:write,files:write":                            Warn,
		"chat:write,usergroups:read":                        Warn,
		"chat:write":                                        Warn,
		"usergroups:read":                                   Fail,
		"chat:write.public":                                 Fail,
		"":                                                  Warn,
	} {
		f := scopes("gatekeeper", "Example", header)
		require.Equal(t, want, f.status, header)
		require.Equal(t, want == OK, f.remedy == "")
	}
}

func TestMinor(t *testing.T) {
	for version, want := range map[string]int{"1.31.2": 31, "1.25.0-rc.1": 25, "1.9": 9} {
		got, ok := minorOf(version)
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	for _, version := range []string{"", "2.0.0", "cloud", "1.x"} {
		_, ok := minorOf(version)
		require.False(t, ok, version)
	}
}

func TestLackTellsErrors(t *testing.T) {
	missing, err := lack(rbac.OnCluster(rbac.Rollout, "x"), func(n rbac.Permission) (bool, error) {
		if n.Resource == "nodes" {
			return false, errors.New("broken")
		}
		return true, nil
	})
	require.Error(t, err)
	require.Empty(t, missing)
}

// Each check has its section in the documentation, and nothing else has.
func TestEveryCheckIsDocumented(t *testing.T) {
	data, err := os.ReadFile("../../../docs/doctor.md")
	require.NoError(t, err)
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(string(data), -1) {
		documented[m[1]] = true
	}
	for _, c := range Catalog {
		require.True(t, documented[c.ID], "docs/doctor.md lacks %s", c.ID)
		delete(documented, c.ID)
	}
	require.Empty(t, documented, "docs/doctor.md has checks that are not made")
}

// Every permission of the manifests is asked for, where it is granted, and nothing else is.
func TestWhatTheManifestsGrantIsAsked(t *testing.T) {
	s := newSetting(t)
	s.Config.Agent.Namespace, s.Config.Rancher.Workspace = "agents", "ours"
	s.rancher.answers["/k8s/clusters/c-m-1/api/v1/namespaces/agents"] = object{"metadata": object{"name": "agents"}}
	for path, answer := range s.rancher.answers {
		s.rancher.answers[strings.ReplaceAll(path, "fleet-default", "ours")] = answer
	}
	Run(t.Context(), s.Options)
	want := map[string][]string{}
	for _, c := range rbac.Capabilities {
		for _, p := range rbac.OnManagement(c, "ours") {
			want["local"] = append(want["local"], p.String())
		}
		for _, p := range rbac.OnCluster(c, "agents") {
			want["c-m-1"] = append(want["c-m-1"], p.String())
		}
	}
	for cluster, permissions := range want {
		require.ElementsMatch(t, permissions, s.rancher.asked[cluster], cluster)
	}
	require.Len(t, s.rancher.asked, len(want))
}

// Who made the agents' namespace decides what is needed of it.
func TestNamespaceOfTheAgents(t *testing.T) {
	const create, change, remove = "create namespaces portcullis-system", "patch namespaces portcullis-system", "delete namespaces portcullis-system"
	for name, c := range map[string]struct {
		namespace any
		asked     []string
	}{
		"not there": {nil, []string{create, change}},
		"ours":      {object{"metadata": object{"labels": object{"app.kubernetes.io/managed-by": "portcullis"}}}, []string{change, remove}},
		"another's": {object{"metadata": object{}}, nil},
	} {
		s := newSetting(t)
		if c.namespace != nil {
			s.rancher.answers["/k8s/clusters/c-m-1/api/v1/namespaces/portcullis-system"] = c.namespace
		}
		s.rancher.refused = c.asked
		got := found(Run(t.Context(), s.Options))[ClusterRights]
		if c.asked == nil {
			require.Equal(t, OK, got.Status, name)
			continue
		}
		require.Equal(t, Fail, got.Status, name)
		require.Contains(t, got.Detail, "2 are missing: ", name)
		require.Contains(t, got.Remedy, "deploy/rbac/cluster/rollout.yaml", name)
	}
}

// Every failure's type has a remedy.
func TestRemedies(t *testing.T) {
	for _, kind := range []string{errs.TypeDenied, errs.TypeUntrusted, errs.TypeUnavailable, errs.TypeDeadline, errs.TypeNotFound, errs.TypeInvalid, ""} {
		require.NotEmpty(t, remedyFor(kind))
	}
}
