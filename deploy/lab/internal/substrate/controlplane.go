package substrate

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"portcullis.dev/portcullis/deploy/lab/internal/image"
	"portcullis.dev/portcullis/deploy/lab/internal/kube"
	"portcullis.dev/portcullis/deploy/lab/internal/pki"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

//go:embed manifests
var manifests embed.FS

const (
	etcdName = "etcd"
	// etcdPort is not etcd's own: the machine may run one.
	etcdPort     = 12379
	etcdPeerPort = 12380
	etcdPKI      = "etcd"
)

func etcdURL() string { return fmt.Sprintf("https://%s:%d", topology.Gateway, etcdPort) }

// upEtcd starts the one etcd of all clusters, each of which has a prefix and a
// client certificate of its own.
func (l *Lab) upEtcd(ctx context.Context) error {
	dir := l.path("pki", etcdPKI)
	ca, err := pki.Open(dir, "ca", "lab-etcd-ca")
	if err != nil {
		return err
	}
	reqs := []pki.Request{{Name: "server", CommonName: "etcd", Hosts: []string{topology.Gateway, "127.0.0.1"}}}
	for _, c := range l.plan.Clusters {
		reqs = append(reqs, pki.Request{Name: "client-" + c.Name, CommonName: "kube-apiserver-" + c.Name})
	}
	for _, r := range reqs {
		if err := ca.Issue(r); err != nil {
			return err
		}
	}
	peer := fmt.Sprintf("http://127.0.0.1:%d", etcdPeerPort)
	err = l.ensure(etcdName, state.Record{Command: []string{
		l.bin("etcd"), "--name=lab", "--data-dir=" + l.path("etcd"),
		"--listen-client-urls=" + etcdURL(), "--advertise-client-urls=" + etcdURL(),
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=lab=" + peer,
		"--client-cert-auth", "--trusted-ca-file=" + filepath.Join(dir, "ca.crt"),
		"--cert-file=" + filepath.Join(dir, "server.crt"), "--key-file=" + filepath.Join(dir, "server.key"),
		// A lab that loses power is made anew; one that is killed loses nothing by this.
		"--unsafe-no-fsync", "--auto-compaction-retention=10m", "--snapshot-count=10000", "--log-level=warn",
	}})
	if err != nil {
		return err
	}
	return poll(ctx, "etcd", time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", topology.Gateway, etcdPort))
		if err != nil {
			return errors.Join(err, l.died(etcdName))
		}
		return conn.Close()
	})
}

// died names the log of a process that has ended.
func (l *Lab) died(name string) error {
	if l.store.Get().Processes[name].Alive() {
		return nil
	}
	return fmt.Errorf("%s has ended, see %s", name, l.path("log", name+".log"))
}

// issue makes the certificates and kubeconfigs of a cluster.
func (l *Lab) issue(c topology.PlannedCluster) error {
	dir := l.path("pki", c.Name)
	ca, err := pki.Open(dir, "ca", c.Name+"-ca")
	if err != nil {
		return err
	}
	front, err := pki.Open(dir, "front-proxy-ca", c.Name+"-front-proxy-ca")
	if err != nil {
		return err
	}
	errs := []error{
		pki.SigningKey(dir, "sa"),
		front.Issue(pki.Request{Name: "front-proxy", CommonName: "front-proxy-client"}),
		ca.Issue(pki.Request{Name: "apiserver", CommonName: "kube-apiserver", Hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
			"127.0.0.1", c.APIAddress, topology.ServiceAPI,
		}}),
		ca.Issue(pki.Request{Name: "kubelet-client", CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}}),
	}
	local := fmt.Sprintf("https://127.0.0.1:%d", topology.APIPort)
	users := []struct {
		pki.Request
		server, file string
	}{
		{pki.Request{Name: "admin", CommonName: "admin", Organizations: []string{"system:masters"}}, c.APIServer(), Kubeconfig(l.StateDir, c.Name)},
		{pki.Request{Name: "controller-manager", CommonName: "system:kube-controller-manager"}, local, ""},
		{pki.Request{Name: "scheduler", CommonName: "system:kube-scheduler"}, local, ""},
		{pki.Request{Name: "proxy", CommonName: "system:kube-proxy"}, c.APIServer(), ""},
	}
	for _, n := range c.NodeList {
		r := pki.Request{Name: "node-" + n.Name, CommonName: "system:node:" + n.Name, Organizations: []string{"system:nodes"}, Hosts: []string{n.Name, n.Address}}
		users = append(users, struct {
			pki.Request
			server, file string
		}{r, c.APIServer(), ""})
	}
	for _, u := range users {
		if u.file == "" {
			u.file = l.pki(c.Name, u.Name+".kubeconfig")
		}
		errs = append(errs, ca.Issue(u.Request), kube.WriteKubeconfig(u.file, c.Name, u.Name, u.server, kube.Identity{
			CAFile: l.pki(c.Name, "ca.crt"), CertFile: l.pki(c.Name, u.Name+".crt"), KeyFile: l.pki(c.Name, u.Name+".key"),
		}))
	}
	return errors.Join(errs...)
}

// upAPI starts a cluster's API server in the network namespace of its first
// node, so that it reaches pods and services as it does on a real one.
func (l *Lab) upAPI(ctx context.Context, c topology.PlannedCluster) error {
	p := func(f string) string { return l.pki(c.Name, f) }
	name := c.Name + "-apiserver"
	err := l.ensure(name, state.Record{NetNS: c.NodeList[0].Name, Command: []string{
		l.bin("kube-apiserver"),
		"--etcd-servers=" + etcdURL(), "--etcd-prefix=/" + c.Name, "--etcd-cafile=" + l.pki(etcdPKI, "ca.crt"),
		"--etcd-certfile=" + l.pki(etcdPKI, "client-"+c.Name+".crt"), "--etcd-keyfile=" + l.pki(etcdPKI, "client-"+c.Name+".key"),
		"--bind-address=0.0.0.0", "--advertise-address=" + c.APIAddress, fmt.Sprintf("--secure-port=%d", topology.APIPort),
		"--tls-cert-file=" + p("apiserver.crt"), "--tls-private-key-file=" + p("apiserver.key"), "--client-ca-file=" + p("ca.crt"),
		"--kubelet-client-certificate=" + p("kubelet-client.crt"), "--kubelet-client-key=" + p("kubelet-client.key"),
		"--kubelet-certificate-authority=" + p("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + p("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + p("front-proxy.crt"), "--proxy-client-key-file=" + p("front-proxy.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--anonymous-auth=true",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file=" + p("sa.pub"), "--service-account-signing-key-file=" + p("sa.key"),
		"--service-cluster-ip-range=" + topology.ServiceCIDR, "--allow-privileged=true", "--profiling=false",
	}})
	if err != nil {
		return err
	}
	client, err := l.client(c)
	if err != nil {
		return err
	}
	return poll(ctx, name, 2*time.Minute, 100*time.Millisecond, func(ctx context.Context) error {
		if err := l.died(name); err != nil {
			return err
		}
		return client.Ready(ctx)
	})
}

// upControllers starts the controller manager and the scheduler of a cluster.
func (l *Lab) upControllers(c topology.PlannedCluster) error {
	p := func(f string) string { return l.pki(c.Name, f) }
	kubeconfig := func(name string) []string {
		f := p(name + ".kubeconfig")
		return []string{"--kubeconfig=" + f, "--authentication-kubeconfig=" + f, "--authorization-kubeconfig=" + f, "--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"}
	}
	node := c.NodeList[0].Name
	return errors.Join(
		l.ensure(c.Name+"-controller-manager", state.Record{NetNS: node, Command: append([]string{
			l.bin("kube-controller-manager"),
			"--service-account-private-key-file=" + p("sa.key"), "--root-ca-file=" + p("ca.crt"), "--use-service-account-credentials=true",
			"--cluster-signing-cert-file=" + p("ca.crt"), "--cluster-signing-key-file=" + p("ca.key"),
			fmt.Sprintf("--allocate-node-cidrs=%t", c.CNI != topology.Bridge), "--cluster-cidr=" + c.PodCIDR, "--service-cluster-ip-range=" + topology.ServiceCIDR,
		}, kubeconfig("controller-manager")...)}),
		l.ensure(c.Name+"-scheduler", state.Record{NetNS: node, Command: append([]string{l.bin("kube-scheduler")}, kubeconfig("scheduler")...)}),
	)
}

// applyAddons puts in place what makes a cluster of control plane and nodes:
// rights for kube-proxy, the pod network and DNS.
func (l *Lab) applyAddons(ctx context.Context, c topology.PlannedCluster, b Built) error {
	var all bytes.Buffer
	for _, name := range []string{"kube-proxy-rbac.yaml", "coredns.yaml"} {
		t, err := template.ParseFS(manifests, "manifests/"+name)
		if err != nil {
			return err
		}
		if err := t.Execute(&all, map[string]string{"CoreDNSImage": image.CoreDNS, "ServiceDNS": topology.ServiceDNS}); err != nil {
			return err
		}
		all.WriteString("\n---\n")
	}
	moved, err := l.migrated(ctx, c)
	if err != nil {
		return err
	}
	if !moved {
		network, err := networkManifest(c, filepath.Join(b.Components["calico"], "manifests"))
		if err != nil {
			return err
		}
		all.Write(network)
	}
	return poll(ctx, "apply add-ons", time.Minute, time.Second, func(ctx context.Context) error {
		return kube.Apply(ctx, l.bin("kubectl"), Kubeconfig(l.StateDir, c.Name), all.Bytes())
	})
}

// migrated tells whether a cluster was made with Canal and has Calico since: with Canal
// beside that it would have two networks.
func (l *Lab) migrated(ctx context.Context, c topology.PlannedCluster) (moved bool, err error) {
	if c.CNI != topology.Canal {
		return false, nil
	}
	client, err := l.client(c)
	if err != nil {
		return false, err
	}
	return moved, poll(ctx, "the network of "+c.Name, time.Minute, time.Second, func(ctx context.Context) error {
		moved, err = client.DaemonSet(ctx, "kube-system", "calico-node")
		return err
	})
}

// networkManifest is what makes a cluster's pod network, from the manifests that
// come with Calico; nothing where the nodes' configuration is all of it.
func networkManifest(c topology.PlannedCluster, dir string) ([]byte, error) {
	var file string
	var adapt func(src []byte, podCIDR string) ([]byte, error)
	switch c.CNI {
	case topology.Calico:
		file, adapt = "calico-vxlan.yaml", calicoManifest
	case topology.Canal:
		file, adapt = "canal.yaml", canalManifest
	default:
		return nil, nil
	}
	src, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil, err
	}
	out, err := adapt(src, c.PodCIDR)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return out, nil
}
