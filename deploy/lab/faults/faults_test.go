package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/deploy/lab/internal/image"
	"portcullis.dev/portcullis/deploy/lab/internal/netw"
	"portcullis.dev/portcullis/deploy/lab/internal/nsrun"
)

// The cluster runs the genuine thing: flannel's devices, Calico's plugin with
// addresses from the node's own range, and a Felix that enforces.
func TestCanal(t *testing.T) {
	t.Logf("all nodes connected after %s", connected(t, time.Minute).Round(time.Millisecond))
	for i, n := range nodes {
		conf, _ := inNode(t, n, "cat /etc/cni/net.d/*.conflist && ls /etc/cni/net.d")
		for _, want := range []string{`"type": "host-local"`, `"type": "calico"`, "10-canal.conflist"} {
			if !strings.Contains(conf, want) {
				t.Errorf("%s: no %s in its CNI configuration %s", n, want, conf)
			}
		}
		links, _ := inNode(t, n, "ip -d link show flannel.1; ip route")
		for j := range nodes {
			if want := fmt.Sprintf("10.45.%d.0/24 via 10.45.%d.0 dev flannel.1", podNet(t, j), podNet(t, j)); i != j && !strings.Contains(links, want) {
				t.Errorf("%s: no %s in\n%s", n, want, links)
			}
		}
		have, _ := inNode(t, n, "ctr -n k8s.io images ls -q")
		for _, ref := range []string{image.CalicoNode, image.CalicoCNI, image.CalicoControllers, image.FlannelMigration, image.Flannel} {
			if !strings.Contains(have, ref+"\n") {
				t.Errorf("%s has no image %s", n, ref)
			}
		}
	}
	enforced(t)
}

// podNet is the third number of the addresses of a node's pods.
func podNet(t *testing.T, node int) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscanf(mustKubectl(t, "get", "node", nodes[node], "-o", "jsonpath={.spec.podCIDR}"), "10.45.%d.0/24", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// enforced sees that payments reach each database, and checkout none.
func enforced(t *testing.T) {
	t.Helper()
	var from [2]pod
	for i, ns := range []string{"payments", "checkout"} {
		p, err := pods(t.Context(), ns, "app")
		if err != nil || len(p) == 0 {
			t.Fatalf("pods of %s: %v, %v", ns, p, err)
		}
		from[i] = p[0]
	}
	dbs, err := pods(t.Context(), "data", "app=db")
	if err != nil || len(dbs) != len(nodes) {
		t.Fatalf("databases: %v, %v", dbs, err)
	}
	for _, db := range dbs {
		if err := dial(t.Context(), from[0], db.ip+":5432"); err != nil {
			t.Errorf("payments to the database on %s, which is allowed: %v", db.node, err)
		}
		if err := dial(t.Context(), from[1], db.ip+":5432"); err == nil || !strings.Contains(err.Error(), "exit code 1") {
			t.Errorf("checkout to the database on %s, which is denied: %v", db.node, err)
		}
	}
}

func TestBlock(t *testing.T) {
	inject(t, "block", "canal-2", "proto=udp", "port=8472")
	got, err := pairs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for p, ok := range got {
		crosses := strings.Contains(p, "canal-2") && p != "canal-2>canal-2"
		if ok == crosses {
			t.Errorf("%s is connected: %t", p, ok)
		}
	}
	clearAll(t)
	connected(t, 30*time.Second)
}

func TestBlockOneWayBetweenTwo(t *testing.T) {
	kubelet := func(from, to string) bool { return canDial(from, to+":10250") }
	inject(t, "block", "canal-2", "port=10250", "peer=canal-3", "direction=in")
	if kubelet("canal-3", "10.99.0.32") {
		t.Error("canal-3 reaches the kubelet of canal-2")
	}
	if !kubelet("canal-2", "10.99.0.33") || !kubelet("canal-1", "10.99.0.32") {
		t.Error("more is blocked than was asked for")
	}
	clearAll(t)
	if !kubelet("canal-3", "10.99.0.32") {
		t.Error("it is still blocked")
	}
}

func canDial(node, address string) bool {
	var conn net.Conn
	err := nsrun.Do(nsrun.Target{NetNS: netw.NSPath(node)}, func() error {
		var err error
		conn, err = (&net.Dialer{Timeout: time.Second}).Dial("tcp4", address)
		return err
	})
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func TestMTU(t *testing.T) {
	for _, where := range []string{"node", "path"} {
		inject(t, "mtu", "canal-2", "value=1400", "where="+where)
		if !passes(t, 1372) || passes(t, 1472) {
			t.Errorf("%s: 1372 bytes pass: %t, 1472 bytes: %t", where, passes(t, 1372), passes(t, 1472))
		}
	}
	clearAll(t)
	if !passes(t, 1472) {
		t.Error("full size still does not pass")
	}
}

// passes sends a datagram of a size from canal-1 to canal-2 that may not be cut.
func passes(t *testing.T, size int) bool {
	t.Helper()
	var to, from net.PacketConn
	open := func(node, address string, conn *net.PacketConn) {
		err := nsrun.Do(nsrun.Target{NetNS: netw.NSPath(node)}, func() error {
			var err error
			*conn, err = net.ListenPacket("udp4", address)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	open("canal-2", "10.99.0.32:0", &to)
	defer to.Close()
	open("canal-1", "10.99.0.31:0", &from)
	defer from.Close()
	raw, err := from.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := from.WriteTo(make([]byte, size), to.LocalAddr()); err != nil {
		return false
	}
	_ = to.SetReadDeadline(time.Now().Add(time.Second))
	n, _, err := to.ReadFrom(make([]byte, 2*size))
	return err == nil && n == size
}

func TestModule(t *testing.T) {
	shown := func() string {
		out, _ := inNode(t, "canal-1", "ls -d /sys/module/vxlan /sys/module/ip_set 2>/dev/null; zcat /proc/config.gz 2>/dev/null | grep -E '^CONFIG_(VXLAN|IP_SET)='; grep -hwE 'vxlan|ip_set' /proc/modules 2>/dev/null")
		return out
	}
	before := shown()
	if !strings.Contains(before, "vxlan") && !strings.Contains(before, "VXLAN") {
		t.Skipf("this machine shows no module: %q", before)
	}
	inject(t, "module", "canal-1", "name=vxlan")
	if got := shown(); strings.Contains(strings.ToLower(got), "vxlan") || !strings.Contains(strings.ToLower(got), "ip_set") {
		t.Errorf("with vxlan hidden, canal-1 shows %q", got)
	}
	inject(t, "module", "canal-1", "name=ip_set")
	if got := shown(); got != "" {
		t.Errorf("with both hidden, canal-1 shows %q", got)
	}
	clearAll(t)
	if got := shown(); got != before {
		t.Errorf("afterwards canal-1 shows %q, before %q", got, before)
	}
	connected(t, 30*time.Second)
}

func TestPort(t *testing.T) {
	take := func() error {
		return nsrun.Do(nsrun.Target{NetNS: netw.NSPath("canal-3")}, func() error {
			c, err := net.ListenPacket("udp4", ":4789")
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	if err := take(); err != nil {
		t.Fatal(err)
	}
	inject(t, "port", "canal-3")
	if err := take(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want that it is in use", err)
	}
	clearAll(t)
	if err := take(); err != nil {
		t.Error(err)
	}
	// Kubelet has this one.
	if out, err := command(t.Context(), "lab", "fault", "inject", "port", "canal-3", "proto=tcp", "port=10250"); err == nil {
		t.Errorf("a port that is taken already: %s", out)
	}
	clearAll(t)
}

func TestBudget(t *testing.T) {
	inject(t, "budget", cluster)
	drain := func(limit string) error {
		_, err := kubectl(t.Context(), "drain", "canal-3", "--ignore-daemonsets", "--pod-selector=app=checkout-api", "--timeout="+limit)
		return err
	}
	t.Cleanup(func() { _, _ = kubectl(context.WithoutCancel(t.Context()), "uncordon", "canal-3") })
	if err := drain("8s"); err == nil {
		t.Error("the node was drained")
	}
	clearAll(t)
	if err := drain("40s"); err != nil {
		t.Error(err)
	}
}

func TestCNIReadOnly(t *testing.T) {
	agent := func() pod {
		p, err := pods(t.Context(), "kube-system", "k8s-app=canal")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range p {
			if a.node == "canal-3" {
				return a
			}
		}
		t.Fatalf("no agent on canal-3 in %v", p)
		return pod{}
	}
	writable := func() (node, inPod, bin bool) {
		_, node = inNode(t, "canal-3", "touch /etc/cni/net.d/x && rm /etc/cni/net.d/x")
		_, bin = inNode(t, "canal-3", "touch /opt/cni/bin/x && rm /opt/cni/bin/x")
		_, err := kubectl(t.Context(), "-n", "kube-system", "exec", agent().name, "-c", "calico-node", "--",
			"sh", "-c", "touch /host/etc/cni/net.d/x && rm /host/etc/cni/net.d/x")
		return node, err == nil, bin
	}
	check := func(wantConf, wantBin bool) {
		t.Helper()
		if node, inPod, bin := writable(); node != wantConf || inPod != wantConf || bin != wantBin {
			t.Errorf("writable: configuration on the node %t, in a pod that runs %t, programs %t", node, inPod, bin)
		}
	}
	check(true, true)
	inject(t, "cni-readonly", "canal-3")
	check(false, true)
	inject(t, "cni-readonly", "canal-3", "dir=bin")
	check(false, false)
	// What starts now finds it so, too.
	mustKubectl(t, "-n", "kube-system", "delete", "pod", agent().name)
	until(t, time.Minute, "the agent fails to install", func(ctx context.Context) error {
		out, err := kubectl(ctx, "-n", "kube-system", "logs", agent().name, "-c", "install-cni")
		if err == nil && !strings.Contains(out, "no writeable directory") {
			err = fmt.Errorf("it says %s", lastLine(out))
		}
		return err
	})
	clearAll(t)
	agentsReady(t, 90*time.Second)
	check(true, true)
	connected(t, time.Minute)
}

func agentsReady(t *testing.T, limit time.Duration) {
	t.Helper()
	until(t, limit, "Canal's agents are ready", func(ctx context.Context) error {
		out, err := kubectl(ctx, "-n", "kube-system", "get", "daemonset", "canal", "-o", "jsonpath={.status.numberReady} {.status.updatedNumberScheduled} {.status.desiredNumberScheduled}")
		if want := fmt.Sprintf("%d %d %d", len(nodes), len(nodes), len(nodes)); err == nil && out != want {
			err = fmt.Errorf("ready, updated and wanted: %s", out)
		}
		return err
	})
}

const tryCalico = `apiVersion: v1
kind: Pod
metadata: {name: try-calico, namespace: kube-system}
spec:
  nodeName: canal-2
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: ` + image.CalicoNode + `
    env: [{name: CALICO_NETWORKING_BACKEND, value: vxlan}]
`

// startCalico starts Calico's image as a network of its own and waits for what it says.
func startCalico(t *testing.T, jsonpath, want string) {
	t.Helper()
	if _, err := kubectlIn(t.Context(), tryCalico, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_, _ = kubectl(context.WithoutCancel(t.Context()), "-n", "kube-system", "delete", "pod", "try-calico", "--wait")
	}()
	until(t, time.Minute, want, func(ctx context.Context) error {
		out, err := kubectl(ctx, "-n", "kube-system", "get", "pod", "try-calico", "-o", "jsonpath={.status."+jsonpath+"}")
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	if strings.HasPrefix(want, "Err") {
		return
	}
	out, err := kubectl(t.Context(), "-n", "kube-system", "logs", "try-calico")
	if err != nil || !strings.Contains(out, "the lab lets Calico") {
		t.Errorf("it logs %q, %v", out, err)
	}
}

func TestCalico(t *testing.T) {
	inject(t, "calico", "canal-2", "how=crash")
	startCalico(t, "phase", "Failed")
	// Canal comes up all the same.
	all, err := pods(t.Context(), "kube-system", "k8s-app=canal")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.node == "canal-2" {
			mustKubectl(t, "-n", "kube-system", "delete", "pod", p.name)
		}
	}
	agentsReady(t, 90*time.Second)
	inject(t, "calico", "canal-2", "how=hang")
	startCalico(t, "phase", "Running")
	inject(t, "calico", "canal-2", "how=no-image")
	startCalico(t, "containerStatuses[0].state.waiting.reason", "Err")
	clearAll(t)
	out, _ := inNode(t, "canal-2", "ctr -n k8s.io images ls")
	if !strings.Contains(out, image.CalicoNode) || strings.Contains(out, "lab-kept") {
		t.Errorf("images afterwards:\n%s", out)
	}
	connected(t, time.Minute)
}

func bootID(t *testing.T, node string) string {
	t.Helper()
	return mustKubectl(t, "get", "node", node, "-o", "jsonpath={.status.nodeInfo.bootID}")
}

// reboots sees a node lose what is in memory, and come back connected.
func reboots(t *testing.T, node string) {
	t.Helper()
	before := bootID(t, node)
	lab(t, "fault", "inject", "power", node)
	if _, err := os.Stat(netw.NSPath(node)); err == nil {
		t.Error("a node that is off has a network namespace")
	}
	if canDial(nodes[(indexOf(node)+1)%3], fmt.Sprintf("10.99.0.%d:10250", 31+indexOf(node))) {
		t.Error("a node that is off answers")
	}
	begun := time.Now()
	lab(t, "fault", "clear", "power")
	lost, _ := inNode(t, node, "ip -br link show type vxlan; ip -br link show type veth | grep cali; cat /run/flannel/subnet.env 2>/dev/null")
	if lost != "" {
		t.Errorf("still there after the boot: %s", lost)
	}
	on := time.Since(begun)
	until(t, 3*time.Minute, "the node says that it has booted", func(context.Context) error {
		if bootID(t, node) == before {
			return errors.New("it has the old boot ID")
		}
		return nil
	})
	connected(t, 3*time.Minute)
	t.Logf("%s was on after %s and connected after %s", node, on.Round(100*time.Millisecond), time.Since(begun).Round(100*time.Millisecond))
	agentsReady(t, 2*time.Minute)
	until(t, 2*time.Minute, "the lab is well", func(ctx context.Context) error {
		_, err := command(ctx, "lab", "status")
		return err
	})
	enforced(t)
}

func indexOf(node string) int {
	for i, n := range nodes {
		if n == node {
			return i
		}
	}
	return -1
}

func TestRebootOfWorker(t *testing.T) { reboots(t, "canal-2") }

// The first node has the API server.
func TestRebootOfControlPlane(t *testing.T) {
	before := bootID(t, "canal-1")
	begun := time.Now()
	lab(t, "node", "reboot", "canal-1")
	t.Logf("rebooted after %s", time.Since(begun).Round(100*time.Millisecond))
	until(t, 3*time.Minute, "the node says that it has booted", func(ctx context.Context) error {
		id, err := kubectl(ctx, "get", "node", "canal-1", "-o", "jsonpath={.status.nodeInfo.bootID}")
		if err == nil && id == before {
			err = errors.New("it has the old boot ID")
		}
		return err
	})
	connected(t, 3*time.Minute)
	t.Logf("connected after %s", time.Since(begun).Round(100*time.Millisecond))
	until(t, 2*time.Minute, "the lab is well", func(ctx context.Context) error {
		_, err := command(ctx, "lab", "status")
		return err
	})
	enforced(t)
}

// What is wrong with a node is wrong after its boot, too.
func TestFaultsOutlastBoot(t *testing.T) {
	inject(t, "mtu", "canal-3", "value=1400")
	inject(t, "cni-readonly", "canal-3", "dir=bin")
	inject(t, "port", "canal-3", "proto=tcp", "port=5473")
	lab(t, "node", "reboot", "canal-3")
	if out, _ := inNode(t, "canal-3", "ip link show eth0"); !strings.Contains(out, "mtu 1400") {
		t.Errorf("its uplink: %s", out)
	}
	if _, ok := inNode(t, "canal-3", "touch /opt/cni/bin/x"); ok {
		t.Error("its CNI programs can be written")
	}
	if !canDial("canal-2", "10.99.0.33:5473") {
		t.Error("nobody listens where a port is taken")
	}
	clearAll(t)
	if out, _ := inNode(t, "canal-3", "ip link show eth0"); !strings.Contains(out, "mtu 1500") {
		t.Errorf("its uplink afterwards: %s", out)
	}
	connected(t, 3*time.Minute)
}
