package substrate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"portcullis.dev/portcullis/deploy/lab/internal/cgroup"
	"portcullis.dev/portcullis/deploy/lab/internal/image"
	"portcullis.dev/portcullis/deploy/lab/internal/netw"
	"portcullis.dev/portcullis/deploy/lab/internal/nsrun"
	"portcullis.dev/portcullis/deploy/lab/internal/state"
	"portcullis.dev/portcullis/deploy/lab/internal/topology"
)

// own are the folders that each node has for itself, by the name of their place
// in the node's directory. Most machines lack some of them.
var own = map[string]string{
	"etc-cni":        "/etc/cni",
	"opt-cni":        "/opt/cni",
	"opt-containerd": "/opt/containerd",
	"lib-calico":     "/var/lib/calico",
	"lib-cni":        "/var/lib/cni",
	"lib-containerd": "/var/lib/containerd",
	"lib-kubelet":    "/var/lib/kubelet",
	"lib-portcullis": "/var/lib/portcullis",
	"log":            "/var/log",
}

// modulesDir is mounted into Calico's pods; containerd would make it.
const modulesDir = "/lib/modules"

func holderName(node string) string { return node + "-holder" }

// upNodeNet gives a node its network. The API server's address is on the first node.
func upNodeNet(c topology.PlannedCluster, i int) error {
	n := c.NodeList[i]
	addrs := []string{n.Address}
	if i == 0 {
		addrs = append(addrs, c.APIAddress)
	}
	return netw.EnsureNode(n.Name, topology.Gateway, topology.PrefixLen, addrs...)
}

// upHolder makes a node's mount, host name and process namespaces. Its first
// process holds them; when it ends, everything in the node ends with it.
func (l *Lab) upHolder(n topology.Node) error {
	if err := cgroup.Ensure(scope(l.StateDir), n.Name); err != nil {
		return err
	}
	name := holderName(n.Name)
	if l.store.Get().Processes[name].Alive() {
		return nil
	}
	for place, target := range own {
		if err := os.MkdirAll(l.nodeDir(n.Name, place), 0o755); err != nil {
			return err
		}
		if err := l.store.MakeDir(target); err != nil {
			return err
		}
	}
	if err := l.store.MakeDir(modulesDir); err != nil {
		return err
	}
	r := state.Record{Command: []string{l.bin("lab"), "node-init", n.Name, l.nodeDir(n.Name)}, NetNS: n.Name}
	cmd, err := l.daemon(name, r.Command)
	if err != nil {
		return err
	}
	report, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer report.Close()
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID
	err = nsrun.Start(nsrun.Target{NetNS: netw.NSPath(n.Name)}, cmd)
	w.Close()
	if err != nil {
		return fmt.Errorf("namespaces of %s: %w", n.Name, err)
	}
	if err := l.register(name, r, cmd); err != nil {
		return err
	}
	// The first process reports once, and closes its end by becoming tini.
	text, err := io.ReadAll(report)
	if err == nil && string(text) != nodeReady {
		err = errors.New(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return fmt.Errorf("node %s: %w (see %s)", n.Name, err, l.path("log", name+".log"))
	}
	return nil
}

// upRuntime starts containerd in a node, on a store that has the cluster images.
func (l *Lab) upRuntime(ctx context.Context, n topology.Node, b Built) error {
	root := l.nodeDir(n.Name, "lib-containerd")
	filled := l.nodeDir(n.Name, "store-filled")
	if _, err := os.Stat(filled); errors.Is(err, fs.ErrNotExist) {
		if err := image.CloneStore(b.Store, root); err != nil {
			return fmt.Errorf("images of %s: %w", n.Name, err)
		}
		if err := os.WriteFile(filled, nil, 0o644); err != nil {
			return err
		}
	}
	if err := l.writeNodeConfig(n); err != nil {
		return err
	}
	if err := l.ensure(n.Name+"-containerd", state.Record{Node: n.Name, Command: []string{"/usr/bin/containerd", "--config", l.nodeDir(n.Name, "containerd.toml")}}); err != nil {
		return err
	}
	return image.WaitContainerd(ctx, func() error {
		return errors.Join(l.died(n.Name+"-containerd"), l.inNode(ctx, n.Name, nil, "ctr", "version"))
	})
}

// importOwn loads the repository's own images into a node that does not have them.
func (l *Lab) importOwn(ctx context.Context, n topology.Node, o Own) error {
	var have bytes.Buffer
	if err := l.inNodeTo(ctx, n.Name, &have, nil, "ctr", "-n", image.Namespace, "images", "ls", "-q"); err != nil {
		return err
	}
	names := strings.Fields(have.String())
	for i, ref := range []string{o.Portcullis, o.Workload} {
		if slices.Contains(names, ref) {
			continue
		}
		f, err := os.Open(o.Archives[i])
		if err != nil {
			return err
		}
		err = l.inNode(ctx, n.Name, f, "ctr", "-n", image.Namespace, "images", "import", "-")
		f.Close()
		if err != nil {
			return fmt.Errorf("import %s: %w", ref, err)
		}
	}
	return nil
}

// upKubelet starts kubelet and kube-proxy in a node.
func (l *Lab) upKubelet(c topology.PlannedCluster, n topology.Node) error {
	return errors.Join(
		l.ensure(n.Name+"-kubelet", state.Record{Node: n.Name, Command: []string{
			l.bin("kubelet"), "--config=" + l.nodeDir(n.Name, "kubelet.yaml"), "--kubeconfig=" + l.pki(c.Name, "node-"+n.Name+".kubeconfig"),
			"--root-dir=/var/lib/kubelet", "--hostname-override=" + n.Name, "--node-ip=" + n.Address,
		}}),
		l.ensure(n.Name+"-proxy", state.Record{Node: n.Name, Command: []string{
			l.bin("kube-proxy"), "--config=" + l.nodeDir(n.Name, "proxy.yaml"),
		}}),
	)
}

// writeNodeConfig writes the settings of a node's programs.
func (l *Lab) writeNodeConfig(n topology.Node) error {
	c, _ := l.plan.Cluster(n.Cluster)
	kubelet, err := yaml.Marshal(l.kubeletConfig(c, n))
	if err != nil {
		return err
	}
	proxy, err := yaml.Marshal(l.proxyConfig(c, n))
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"containerd.toml": []byte(containerdConfig),
		"kubelet.yaml":    kubelet,
		"proxy.yaml":      proxy,
		// Pods with the node's DNS get a server that answers nothing: there is no outside.
		"resolv.conf": []byte("nameserver 192.0.2.53\n"),
	}
	if c.CNI == topology.Bridge {
		conf, err := json.MarshalIndent(bridgeConfig(n), "", " ")
		if err != nil {
			return err
		}
		files["etc-cni/net.d/10-bridge.conflist"] = conf
		if err := l.installBridgePlugins(n); err != nil {
			return err
		}
	}
	for name, content := range files {
		file := l.nodeDir(n.Name, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := writeChanged(file, content); err != nil {
			return err
		}
	}
	return nil
}

// writeChanged leaves a file alone that is right already: kube-proxy ends itself
// when somebody writes its configuration.
func writeChanged(file string, content []byte) error {
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, content) {
		return nil
	}
	return os.WriteFile(file, content, 0o644)
}

func (l *Lab) installBridgePlugins(n topology.Node) error {
	dir := l.nodeDir(n.Name, "opt-cni", "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, p := range []string{"bridge", "host-local", "loopback", "portmap"} {
		to := filepath.Join(dir, p)
		if _, err := os.Stat(to); err == nil {
			continue
		}
		if err := linkOrCopy(filepath.Join(image.CNIPluginDir, p), to); err != nil {
			return err
		}
	}
	return nil
}

const containerdConfig = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + image.Pause + `"
  # The lab may run without the right to lower a process's OOM score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    disable_snapshot_annotations = true
`

func (l *Lab) kubeletConfig(c topology.PlannedCluster, n topology.Node) object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"cgroupDriver": "cgroupfs", "cgroupRoot": "/" + cgroup.Name(scope(l.StateDir), n.Name), "failSwapOn": false,
		"authentication": object{
			"anonymous": object{"enabled": false}, "webhook": object{"enabled": true}, "x509": object{"clientCAFile": l.pki(c.Name, "ca.crt")},
		},
		"authorization": object{"mode": "Webhook"},
		"tlsCertFile":   l.pki(c.Name, "node-"+n.Name+".crt"), "tlsPrivateKeyFile": l.pki(c.Name, "node-"+n.Name+".key"),
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"clusterDNS":               []string{topology.ServiceDNS}, "clusterDomain": "cluster.local",
		"resolvConf": l.nodeDir(n.Name, "resolv.conf"),
		// Images cannot be pulled again, so they are never collected, and a full
		// disk of the machine evicts nobody.
		"imageGCHighThresholdPercent": 100,
		"evictionHard":                object{"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "50Mi"},
		// All nodes share one disk, which cadvisor does not find behind a bind mount.
		"localStorageCapacityIsolation": false,
		"syncFrequency":                 "30s",
		"containerLogMaxSize":           "10Mi", "maxPods": 250,
	}
}

func (l *Lab) proxyConfig(c topology.PlannedCluster, n topology.Node) object {
	return object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode": "iptables", "clusterCIDR": c.PodCIDR, "hostnameOverride": n.Name,
		"clientConnection": object{"kubeconfig": l.pki(c.Name, "proxy.kubeconfig")},
		// These belong to the machine, and a node may not change them.
		"conntrack": object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
		"iptables":  object{"syncPeriod": "5m"},
	}
}

func bridgeConfig(n topology.Node) object {
	return object{
		"cniVersion": "0.4.0", "name": "bridge",
		"plugins": []object{
			{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
				"ipam": object{"type": "host-local", "ranges": [][]object{{{"subnet": n.PodCIDR}}}, "routes": []object{{"dst": "0.0.0.0/0"}}},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}
}

// inNode runs a command in a node and gives what it printed as the error.
func (l *Lab) inNode(ctx context.Context, node string, stdin io.Reader, argv ...string) error {
	return l.inNodeTo(ctx, node, io.Discard, stdin, argv...)
}

func (l *Lab) inNodeTo(ctx context.Context, node string, stdout io.Writer, stdin io.Reader, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = l.environment(), "/"
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &stderr
	if err := nsrun.Start(nsrun.Target{PID: l.store.Get().Processes[holderName(node)].PID}, cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s in %s: %w: %s", strings.Join(argv, " "), node, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// bridgeRoutes lets the nodes of a bridge cluster reach each other's pods.
func bridgeRoutes(c topology.PlannedCluster) error {
	if c.CNI != topology.Bridge {
		return nil
	}
	for _, from := range c.NodeList {
		there, err := hasNetwork(from.Name)
		if err != nil {
			return err
		}
		if !there {
			continue // it is off, and gets its routes when it boots
		}
		for _, to := range c.NodeList {
			if from.Name == to.Name {
				continue
			}
			if err := netw.AddRoute(from.Name, to.PodCIDR, to.Address); err != nil {
				return err
			}
		}
	}
	return nil
}

// stopGrace is what a process of the lab gets to end by itself.
const stopGrace = 3 * time.Second
