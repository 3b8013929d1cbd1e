package audit

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/rancher/drift"
)

// cluster is a real API server, with etcd behind it and nothing else.
type realCluster struct {
	t      testing.TB
	config *rest.Config
	client *http.Client
	pids   []int
}

const realToken = "a-token-of-this-test-alone"

// startReal starts the programs that the lab has built, where it has.
func startReal(t testing.TB) *realCluster {
	t.Helper()
	cache := cmp.Or(os.Getenv("PORTCULLIS_LAB_CACHE"), "/var/cache/portcullis-lab")
	etcd, kubernetes := built(t, cache, "etcd-*/etcd"), built(t, cache, "kubernetes-*/kubernetes")
	dir := t.TempDir()
	apiserver := filepath.Join(dir, "kube-apiserver") // the program goes by the name that it is called by
	check(t, os.Symlink(kubernetes, apiserver))
	c := &realCluster{t: t}
	client, peer, secure := port(t), port(t), port(t)
	c.start(dir, etcd, "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls=http://"+client, "--advertise-client-urls=http://"+client,
		"--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer, "--initial-cluster=default=http://"+peer)
	tokens, key := filepath.Join(dir, "tokens.csv"), filepath.Join(dir, "sa.key")
	check(t, os.WriteFile(tokens, []byte(realToken+",test,1,system:masters\n"), 0o600))
	check(t, os.WriteFile(key, newKey(t), 0o600))
	_, number, err := net.SplitHostPort(secure)
	check(t, err)
	c.start(dir, apiserver, "--etcd-servers=http://"+client, "--bind-address=127.0.0.1", "--secure-port="+number, "--cert-dir="+filepath.Join(dir, "certs"),
		"--token-auth-file="+tokens, "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount",
		"--service-account-issuer=https://test", "--service-account-key-file="+key, "--service-account-signing-key-file="+key)
	c.config = &rest.Config{Host: "https://" + secure, BearerToken: realToken, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	c.client, err = rest.HTTPClientFor(c.config)
	check(t, err)
	c.ready()
	return c
}

func built(t testing.TB, cache, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(cache, "components", pattern))
	check(t, err)
	if len(found) == 0 {
		t.Skipf("the lab has not built %s yet: make build-lab && bin/lab up", pattern)
	}
	return found[0]
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func port(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}

func newKey(t testing.TB) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

func (c *realCluster) start(dir, program string, args ...string) {
	c.t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(program)+".log"))
	check(c.t, err)
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(c.t, cmd.Start())
	c.pids = append(c.pids, cmd.Process.Pid)
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if c.t.Failed() {
			said, _ := os.ReadFile(log.Name())
			c.t.Logf("%s: %s", filepath.Base(program), said[max(0, len(said)-2000):])
		}
	})
}

func (c *realCluster) ready() {
	c.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		code, _, err := c.do(http.MethodGet, "/readyz", "", nil)
		if err == nil && code == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the API server is not ready: %d %v", code, err)
		}
	}
}

func (c *realCluster) do(method, path, contentType string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, c.config.Host+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", cmp.Or(contentType, "application/json"))
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	return resp.StatusCode, said, err
}

// must makes a request that is to succeed.
func (c *realCluster) must(method, path, contentType, body string) {
	c.t.Helper()
	code, said, err := c.do(method, path, contentType, []byte(body))
	if err != nil || code >= 300 {
		c.t.Fatalf("%s %s: %d %v %s", method, path, code, err, said)
	}
}

// apply creates a YAML document, as Helm does.
func (c *realCluster) apply(path, doc string) {
	c.t.Helper()
	data, err := yaml.ToJSON([]byte(doc))
	check(c.t, err)
	c.must(http.MethodPost, path+"?fieldManager=fleetagent", "", string(data))
}

// calico makes Calico's own custom resource definitions, of the module that is required here.
func (c *realCluster) calico() {
	c.t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/projectcalico/calico").Output()
	check(c.t, err)
	for _, resource := range []string{"globalnetworkpolicies", "networkpolicies", "globalnetworksets", "networksets", "felixconfigurations"} {
		crd, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "libcalico-go/config/crd/crd.projectcalico.org_"+resource+".yaml"))
		check(c.t, err)
		c.apply("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", string(crd))
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		missing := 0
		for _, resource := range []string{"globalnetworkpolicies", "networkpolicies", "globalnetworksets", "networksets", "felixconfigurations"} {
			if code, _, err := c.do(http.MethodGet, calicoPath+resource, "", nil); err != nil || code != http.StatusOK {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatal("Calico's types are not served")
		}
	}
}

// documents are policies as people write them: what has a default is left out in some.
func documents(n int) (docs []string, paths []string) {
	network := []string{
		"{podSelector: {}}",
		"{podSelector: {}, ingress: []}",
		"{podSelector: {matchLabels: {app: a}}, ingress: [{}]}",
		"{podSelector: {}, egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53}]}]}",
		"{podSelector: {}, policyTypes: [Egress], egress: []}",
		"{podSelector: {matchExpressions: [{key: a, operator: In, values: [one, two]}]}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: http}, {port: 1000, endPort: 2000}]}]}",
		"{podSelector: {}, ingress: [{from: [], ports: []}], policyTypes: []}",
		"{podSelector: {}, ingress: [{from: [{podSelector: {}}, {namespaceSelector: {matchLabels: {}}}]}], egress: [{ports: [{}]}]}",
	}
	calico := []string{
		"{}",
		"{order: 100, selector: app == 'a', ingress: [{action: Allow, protocol: TCP, source: {nets: [10.1.2.3/16, 192.0.2.1]}, destination: {ports: [80, '443', '1000:2000', http]}}]}",
		"{order: 2000.5, namespaceSelector: has(projectcalico.org/name), types: [Ingress, Egress], ingress: [{action: Deny}], egress: [{action: Deny, source: {}, destination: {}}]}",
		"{doNotTrack: false, applyOnForward: false, egress: [{action: Allow, protocol: 17, destination: {selector: k8s-app == \"kube-dns\", ports: [53]}}]}",
		"{selector: all(), types: [], ingress: [{action: Allow, icmp: {type: 8}, protocol: ICMP}, {action: Log}, {action: Pass, notProtocol: udp}]}",
	}
	for i := range n {
		if i%2 == 0 {
			docs = append(docs, fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p%d, namespace: shop, labels: {app: np}}\nspec: %s\n", i, network[i/2%len(network)]))
			paths = append(paths, "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies")
		} else {
			docs = append(docs, fmt.Sprintf("apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy\nmetadata: {name: default.p%d}\nspec: %s\n", i, calico[i/2%len(calico)]))
			paths = append(paths, gnpPath)
		}
	}
	docs = append(docs, "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkSet\nmetadata: {name: external, labels: {zone: external}}\nspec: {nets: [10.0.0.0/8]}\n")
	paths = append(paths, calicoPath+"globalnetworksets")
	return docs, paths
}

// roll makes n policies, and the release that has them.
func (c *realCluster) roll(n int) {
	c.t.Helper()
	c.calico()
	for _, namespace := range []string{"shop", "np"} {
		c.must(http.MethodPost, "/api/v1/namespaces", "", fmt.Sprintf(`{"metadata":{"name":%q}}`, namespace))
	}
	docs, paths := documents(n)
	for i := range docs {
		c.apply(paths[i], docs[i])
	}
	c.must(http.MethodPost, "/api/v1/namespaces/np/secrets", "", helm(c.t, "np", "policies", "---\n"+strings.Join(docs, "---\n")))
}

// real is a world whose clusters are all the real one.
func (c *realCluster) world(n int) *world {
	w := newWorld(c.t, nil)
	for i := range n {
		name := fmt.Sprintf("c-%04d", i)
		w.clusters = append(w.clusters, rancher.Cluster{ID: name, Name: name, Connected: true, Labels: map[string]string{"env": "prod"}})
	}
	return w
}

// behind is a world of which REST leads to the real API server.
type behind struct {
	*world
	real *realCluster
}

func (b behind) REST(string) (*rest.Config, error) { return rest.CopyConfig(b.real.config), nil }

// On a real API server nothing is told that nobody changed, whatever it fills in; and what
// somebody changed is told, with who.
func TestRealAPIServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an API server")
	}
	c := startReal(t)
	c.roll(40)
	w := c.world(1)
	a := New(w, behind{w, c})
	a.patience, a.beforeRecheck = time.Second, 10*time.Millisecond
	audit := func() drift.Cluster {
		t.Helper()
		b, err := a.Clusters(t.Context(), BatchInput{Unit: drift.Unit{
			Environment: "prod", GitRepo: "np-prod", Generation: 2, Revision: revision, Clusters: w.clusters,
		}})
		check(t, err)
		found, err := drift.Unpack(b.Data)
		check(t, err)
		return found[0]
	}
	if got := audit(); got.State != drift.Clean || got.Objects != 41 {
		t.Fatalf("%s %v\n%s", got.State, got.Unknown, strings.Join(says(got), "\n"))
	}
	const shop = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies"
	c.must(http.MethodPatch, shop+"/p0?fieldManager=kubectl-edit", "application/merge-patch+json", `{"spec":{"ingress":[{}]}}`)
	c.must(http.MethodDelete, gnpPath+"/default.p1", "", "")
	c.must(http.MethodPost, shop+"?fieldManager=kubectl-create", "", `{"metadata":{"name":"by-hand"},"spec":{"podSelector":{},"ingress":[{}]}}`)
	c.must(http.MethodPatch, gnpPath+"/default.p3?fieldManager=kubectl-edit", "application/merge-patch+json", `{"spec":{"order":1}}`)
	got := audit()
	want := []string{
		"missing GlobalNetworkPolicy default.p1",
		"changed GlobalNetworkPolicy default.p3; spec.order: 1 was added",
		"changed NetworkPolicy shop/p0; spec.ingress: [{}] was added",
		"extra NetworkPolicy shop/by-hand",
	}
	if p3 := says(got); len(p3) == 4 && !strings.Contains(p3[1], "was added") {
		want[1] = "changed GlobalNetworkPolicy default.p3; spec.order: 1, wished 100"
	}
	if !slices.Equal(says(got), want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(says(got), "\n"), strings.Join(want, "\n"))
	}
	for _, f := range got.Findings {
		by := map[string]string{"p0": "kubectl-edit", "default.p3": "kubectl-edit", "by-hand": "kubectl-create"}[f.Name]
		if by != "" && (f.By == nil || f.By.Manager != by || f.By.At.IsZero()) {
			t.Errorf("%s was written by %+v, want %s", f.Key, f.By, by)
		}
	}
	// Put back, nothing is told any more.
	docs, paths := documents(40)
	c.must(http.MethodDelete, shop+"/p0", "", "")
	c.must(http.MethodDelete, gnpPath+"/default.p3", "", "")
	c.must(http.MethodDelete, shop+"/by-hand", "", "")
	for _, i := range []int{0, 1, 3} {
		c.apply(paths[i], docs[i])
	}
	if got := audit(); got.State != drift.Clean {
		t.Errorf("%s\n%s", got.State, strings.Join(says(got), "\n"))
	}
}

// BenchmarkAudit audits a thousand clusters of 200 policies. All of them are one real API server,
// which works on the same processors: its time is in the figures.
func BenchmarkAudit(b *testing.B) {
	c := startReal(b)
	c.roll(200)
	const clusters, batch, atOnce = 1000, 25, 4
	w := c.world(clusters)
	a := New(w, behind{w, c})
	for b.Loop() {
		began, own, server := time.Now(), cpuTime(b, os.Getpid()), cpuTime(b, c.pids[1])
		requests := 0
		var mu sync.Mutex
		slots := make(chan struct{}, atOnce)
		var group sync.WaitGroup
		for part := range slices.Chunk(w.clusters, batch) {
			group.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				out, err := a.Clusters(b.Context(), BatchInput{Budget: 1 << 20 / (clusters / batch), Unit: drift.Unit{
					Environment: "prod", GitRepo: "np-prod", Generation: 2, Revision: revision, Clusters: part,
				}})
				mu.Lock()
				defer mu.Unlock()
				if err != nil || out.States[drift.Clean] != batch {
					found, _ := json.Marshal(out)
					b.Errorf("%v %s", err, found)
					return
				}
				requests = max(requests, out.Requests)
			})
		}
		group.Wait()
		b.ReportMetric(time.Since(began).Seconds(), "s")
		b.ReportMetric((cpuTime(b, os.Getpid()) - own).Seconds(), "s-own-cpu")
		b.ReportMetric((cpuTime(b, c.pids[1]) - server).Seconds(), "s-apiserver-cpu")
		b.ReportMetric(float64(requests), "requests/cluster")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(peak(b), "MiB-peak")
}

// cpuTime is what a process has used.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(t, err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	var user, system int64
	_, err = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	check(t, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// peak is the most memory that this process has had.
func peak(t testing.TB) float64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	check(t, err)
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kib float64
	_, err = fmt.Sscan(rest, &kib)
	check(t, err)
	return kib / 1024
}
