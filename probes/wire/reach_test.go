//go:build linux

package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"portcullis.dev/portcullis/probes"
)

const short = 400 * time.Millisecond

// run runs a request and returns its results by ID.
func run(t testing.TB, r *runner, req *Request) map[string]Result {
	t.Helper()
	if err := req.validate(); err != nil {
		t.Fatal(err)
	}
	got := map[string]Result{}
	r.reach(context.Background(), req, func(res Result) { got[res.ID] = res })
	if len(got) != len(req.Probes) {
		t.Errorf("%d results for %d probes", len(got), len(req.Probes))
	}
	return got
}

// expect checks one probe's outcome and that its detail contains a word.
func expect(t *testing.T, got Result, want probes.Outcome, detail string) {
	t.Helper()
	if got.Outcome != want || !strings.Contains(got.Detail, detail) {
		t.Errorf("got %s (%s), want %s (…%s…)", got.Outcome, got.Detail, want, detail)
	}
}

func TestTCP(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod(""), w.pod("")
	for _, port := range []int{80, 81, 82, 83, 84} {
		w.listen(b, port, func(c net.Conn) { io.Copy(io.Discard, c) })
	}
	for _, tables := range []string{"iptables", "ip6tables"} {
		w.inside("router", tables+" -A FORWARD -p tcp --dport 81 -j DROP")
		w.inside("router", tables+" -A FORWARD -p tcp --dport 82 -j REJECT --reject-with tcp-reset")
	}
	w.inside("router", "iptables -A FORWARD -p tcp --dport 83 -j REJECT --reject-with icmp-port-unreachable; ip6tables -A FORWARD -p tcp --dport 83 -j REJECT --reject-with icmp6-port-unreachable")
	w.inside("router", "iptables -A FORWARD -p tcp --dport 84 -j REJECT --reject-with icmp-admin-prohibited; ip6tables -A FORWARD -p tcp --dport 84 -j REJECT --reject-with icmp6-adm-prohibited")
	w.inside("router", "ip route add unreachable 10.99.99.0/24")
	w.inside(a.name, "ip route add unreachable 10.88.0.0/16; iptables -A OUTPUT -p tcp --dport 85 -j DROP")

	for _, tc := range []struct {
		name   string
		ip     string
		port   int
		want   probes.Outcome
		detail string
	}{
		{"handshake", b.ip, 80, probes.Allowed, ""},
		{"handshake over IPv6", b.ip6, 80, probes.Allowed, ""},
		{"nobody listens", b.ip, 99, probes.Refused, ""},
		{"nobody listens, IPv6", b.ip6, 99, probes.Refused, ""},
		{"dropped", b.ip, 81, probes.Dropped, ""},
		{"dropped, IPv6", b.ip6, 81, probes.Dropped, ""},
		{"reset by a filter", b.ip, 82, probes.Refused, ""},
		{"ICMP port unreachable by a filter", b.ip, 83, probes.Error, "port unreachable from 10.77.1.1"},
		{"ICMP port unreachable by a filter, IPv6", b.ip6, 83, probes.Error, "port unreachable from fd77:1::1"},
		{"ICMP prohibited by a filter", b.ip, 84, probes.Error, "administratively prohibited from 10.77.1.1"},
		{"ICMP prohibited by a filter, IPv6", b.ip6, 84, probes.Error, "administratively prohibited from fd77:1::1"},
		{"no route in the pod", "10.88.0.1", 80, probes.Error, "no route to host"},
		{"no route on the way", "10.99.99.1", 80, probes.Error, "host unreachable from 10.77.1.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := w.runner()
			got := run(t, r, request(short, a, Probe{Protocol: probes.TCP, Host: tc.ip, Port: tc.port}))["0"]
			expect(t, got, tc.want, tc.detail)
			if got.Micros <= 0 {
				t.Error("no duration")
			}
		})
	}
}

// One lost packet is not a policy: what is not answered is tried again.
func TestTCPRetriesOnce(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod(""), w.pod("")
	w.listen(b, 80, func(net.Conn) {})
	w.inside("router", "iptables -A FORWARD -p tcp --syn -m statistic --mode nth --every 2 --packet 0 -j DROP")
	got := run(t, w.runner(), request(short, a, Probe{Protocol: probes.TCP, Host: b.ip, Port: 80}))["0"]
	expect(t, got, probes.Allowed, "")
	if d := got.Duration(); d < short/2 {
		t.Errorf("answered after %s: the first attempt was not lost", d)
	}
}

func TestUDP(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod(""), w.pod("")
	w.listenUDP(b, 80, func(in []byte) []byte { return in })
	w.listenUDP(b, 81, func([]byte) []byte { return nil })
	w.listenUDP(b, 82, func([]byte) []byte { return nil })
	w.listenUDP(b, 83, func([]byte) []byte { return []byte{} })
	w.inside("router", "iptables -A FORWARD -p udp --dport 82 -j DROP; iptables -A FORWARD -p udp --dport 84 -j REJECT; ip6tables -A FORWARD -p udp --dport 82 -j DROP")

	r := w.runner()
	watch := r.listen("0123456789abcdef", []Pod{b.Pod})
	t.Cleanup(watch.close)
	if len(watch.failed) > 0 {
		t.Fatal(watch.failed)
	}
	var ps []Probe
	for _, p := range []struct {
		id, ip string
		port   int
	}{
		{"answered", b.ip, 80}, {"answered6", b.ip6, 80}, {"mute", b.ip, 81}, {"mute6", b.ip6, 81}, {"dropped", b.ip, 82}, {"dropped6", b.ip6, 82},
		{"empty", b.ip, 83}, {"rejected", b.ip, 84}, {"closed", b.ip, 99}, {"closed6", b.ip6, 99},
	} {
		ps = append(ps, Probe{ID: p.id, Protocol: probes.UDP, Host: p.ip, Port: p.port})
	}
	got := run(t, r, request(short, a, ps...))
	seenIDs, failed := watch.collect(context.Background(), 1)
	if len(failed) > 0 {
		t.Fatal(failed)
	}
	seen := map[string]bool{}
	for _, id := range seenIDs {
		seen[id] = true
	}
	for id, want := range map[string]struct {
		outcome probes.Outcome
		silent  bool
		seen    bool
	}{
		"answered": {probes.Allowed, false, true}, "answered6": {probes.Allowed, false, true},
		"mute": {probes.Allowed, true, true}, "mute6": {probes.Allowed, true, true},
		"dropped": {probes.Dropped, true, false}, "dropped6": {probes.Dropped, true, false},
		"empty": {probes.Allowed, false, true}, "rejected": {probes.Error, false, false},
		"closed": {probes.Refused, false, true}, "closed6": {probes.Refused, false, true},
	} {
		res := got[id]
		if res.Silent != want.silent || seen[id] != want.seen {
			t.Errorf("%s: silent %v, seen %v (%s %s)", id, res.Silent, seen[id], res.Outcome, res.Detail)
		}
		if res.Silent && res.Outcome != probes.Error {
			t.Errorf("%s: a silent result must be an error until a witness was heard, not %s", id, res.Outcome)
		}
		sight := Unseen
		if seen[id] {
			sight = Seen
		}
		if settled := Settle(res, sight); settled.Outcome != want.outcome {
			t.Errorf("%s: %s (%s), want %s", id, settled.Outcome, settled.Detail, want.outcome)
		}
	}
	if again, _ := watch.collect(context.Background(), 1); len(again) > 0 {
		t.Errorf("collected twice: %v", again)
	}
}

func TestWitnessCountsOnlyItsSession(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod(""), w.pod("")
	r := w.runner()
	other := r.listen("ffffffffffffffff", []Pod{b.Pod})
	t.Cleanup(other.close)
	run(t, r, request(short, a, Probe{Protocol: probes.UDP, Host: b.ip, Port: 9}))
	if seen, _ := other.collect(context.Background(), 1); len(seen) > 0 {
		t.Errorf("saw %v of another session", seen)
	}
}

func TestWitnessSaysWhereItCannotListen(t *testing.T) {
	w := newWorld(t)
	b := w.pod("")
	host := Pod{UID: "00000000-0000-4000-8000-0000000000aa", Host: true}
	gone := Pod{UID: "00000000-0000-4000-8000-0000000000bb", IPs: []string{"10.0.0.1"}}
	watch := w.runner().listen("0123456789abcdef", []Pod{b.Pod, host, gone})
	t.Cleanup(watch.close)
	if watch.failed[host.UID] == "" || watch.failed[gone.UID] == "" || watch.failed[b.UID] != "" {
		t.Errorf("failed: %v", watch.failed)
	}
}

func TestHTTP(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod(""), w.pod("")
	w.in(b.name, func() error {
		l, err := net.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				rw.WriteHeader(http.StatusForbidden)
			}
		})}
		t.Cleanup(func() { srv.Close() })
		go srv.Serve(l)
		return nil
	})
	w.listen(b, 81, func(c net.Conn) { io.Copy(io.Discard, c) })
	w.listen(b, 82, func(c net.Conn) { io.WriteString(c, "220 mail ready\r\n") })
	w.listen(b, 85, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 \x1b[2J"+strings.Repeat("fine", 10000)+"\r\n\r\n") })
	w.listen(b, 86, func(c net.Conn) { io.WriteString(c, strings.Repeat("fine", 10000)+"\r\n\r\n") })
	w.inside("router", "iptables -A FORWARD -p tcp --dport 83 -j DROP")
	got := run(t, w.runner(), request(short, a,
		Probe{ID: "odd", Protocol: probes.HTTP, Host: b.ip, Port: 85},
		Probe{ID: "long", Protocol: probes.HTTP, Host: b.ip, Port: 86},
		Probe{ID: "ok", Protocol: probes.HTTP, Host: b.ip, Port: 80, Path: "/healthz"},
		Probe{ID: "forbidden", Protocol: probes.HTTP, Host: b.ip, Port: 80},
		Probe{ID: "mute", Protocol: probes.HTTP, Host: b.ip, Port: 81},
		Probe{ID: "mail", Protocol: probes.HTTP, Host: b.ip, Port: 82},
		Probe{ID: "dropped", Protocol: probes.HTTP, Host: b.ip, Port: 83},
		Probe{ID: "closed", Protocol: probes.HTTP, Host: b.ip, Port: 84}))
	expect(t, got["ok"], probes.Allowed, "HTTP 200 OK")
	expect(t, got["forbidden"], probes.Allowed, "HTTP 403 Forbidden")
	// Nothing that a pod says reaches a terminal as it is, or at length.
	expect(t, got["odd"], probes.Allowed, "HTTP 200 OK")
	expect(t, got["long"], probes.Error, "not an HTTP response")
	if n := len(got["long"].Detail); n > 400 {
		t.Errorf("a detail of %d bytes", n)
	}
	expect(t, got["mute"], probes.Error, "no HTTP response")
	expect(t, got["mail"], probes.Error, "not an HTTP response")
	expect(t, got["dropped"], probes.Dropped, "")
	expect(t, got["closed"], probes.Refused, "")
}

// answer makes a DNS server's answer.
func answer(in []byte, f func(name string, kind dnsmessage.Type, m *dnsmessage.Message)) []byte {
	var m dnsmessage.Message
	if m.Unpack(in) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response = true
	f(m.Questions[0].Name.String(), m.Questions[0].Type, &m)
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

func addA(m *dnsmessage.Message, ip string) {
	m.Answers = append(m.Answers, dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 5},
		Body:   &dnsmessage.AResource{A: addr(ip).As4()},
	})
}

func TestDNS(t *testing.T) {
	w := newWorld(t)
	server := w.pod("")
	conf := "nameserver " + server.ip + "\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
	a := w.pod(conf)
	silent := w.pod("nameserver 10.77.1.250\n")
	closed := w.pod("nameserver " + a.ip + "\n")
	none := w.pod("")
	second := w.pod("nameserver 10.77.1.250\nnameserver " + server.ip + "\n")
	target := w.pod("")
	w.listen(target, 80, func(net.Conn) {})
	w.inside("router", "iptables -A FORWARD -d 10.77.1.250 -j DROP")
	zone := func(name string, kind dnsmessage.Type, m *dnsmessage.Message) {
		switch name {
		case "kubernetes.default.svc.cluster.local.", "example.com.":
			if kind == dnsmessage.TypeA {
				addA(m, target.ip)
			}
		case "six.example.com.":
			if kind == dnsmessage.TypeAAAA {
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: kind, Class: dnsmessage.ClassINET},
					Body:   &dnsmessage.AAAAResource{AAAA: addr(target.ip6).As16()},
				})
			}
		case "broken.example.com.":
			m.RCode = dnsmessage.RCodeServerFailure
		case "big.example.com.":
			m.Truncated = true
		default:
			m.RCode = dnsmessage.RCodeNameError
		}
	}
	w.listenUDP(server, 53, func(in []byte) []byte {
		return answer(in, zone)
	})
	var overTCP atomic.Int32
	w.listen(server, 53, func(c net.Conn) {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		in := make([]byte, int(size[0])<<8|int(size[1]))
		io.ReadFull(c, in)
		overTCP.Add(1)
		out := answer(in, func(_ string, _ dnsmessage.Type, m *dnsmessage.Message) { addA(m, target.ip) })
		c.Write(append([]byte{byte(len(out) >> 8), byte(len(out))}, out...))
		io.Copy(io.Discard, c)
	})
	for _, tc := range []struct {
		title  string
		from   testPod
		probe  Probe
		want   probes.Outcome
		detail string
	}{
		{"through the search list", a, Probe{Protocol: probes.DNS, Host: "kubernetes.default"}, probes.Allowed, target.ip},
		{"full name", a, Probe{Protocol: probes.DNS, Host: "kubernetes.default.svc.cluster.local"}, probes.Allowed, target.ip},
		{"absolute name", a, Probe{Protocol: probes.DNS, Host: "example.com."}, probes.Allowed, target.ip},
		{"IPv6 only", a, Probe{Protocol: probes.DNS, Host: "six.example.com"}, probes.Allowed, target.ip6},
		{"no such name", a, Probe{Protocol: probes.DNS, Host: "nobody.example.com"}, probes.Unresolved, "NXDOMAIN"},
		{"server failure", a, Probe{Protocol: probes.DNS, Host: "broken.example.com."}, probes.Unresolved, "SERVFAIL"},
		{"cut answer", a, Probe{Protocol: probes.DNS, Host: "big.example.com."}, probes.Allowed, target.ip},
		{"silent resolver", silent, Probe{Protocol: probes.DNS, Host: "example.com"}, probes.Dropped, "no answer from the resolver 10.77.1.250"},
		{"nobody listens at the resolver", closed, Probe{Protocol: probes.DNS, Host: "example.com"}, probes.Refused, ""},
		{"no resolv.conf", none, Probe{Protocol: probes.DNS, Host: "example.com"}, probes.Error, "resolv.conf"},
		{"second server", second, Probe{Protocol: probes.DNS, Host: "example.com"}, probes.Allowed, target.ip},
		{"TCP to a name", a, Probe{Protocol: probes.TCP, Host: "example.com", Port: 80}, probes.Allowed, target.ip},
		{"TCP to a name, closed", a, Probe{Protocol: probes.TCP, Host: "example.com", Port: 99}, probes.Refused, target.ip},
		{"TCP to no such name", a, Probe{Protocol: probes.TCP, Host: "nobody.example.com", Port: 80}, probes.Unresolved, "NXDOMAIN"},
		{"TCP to a name, silent resolver", silent, Probe{Protocol: probes.TCP, Host: "example.com", Port: 80}, probes.Unresolved, "no answer"},
	} {
		t.Run(tc.title, func(t *testing.T) {
			got := run(t, w.runner(), request(short, tc.from, tc.probe))["0"]
			expect(t, got, tc.want, tc.detail)
		})
	}
	if overTCP.Load() == 0 {
		t.Error("the cut answer was not asked for over TCP")
	}
}

func TestPlacesThatCannotBeUsed(t *testing.T) {
	w := newWorld(t)
	a := w.pod("")
	t.Run("no such pod", func(t *testing.T) {
		gone := a
		gone.UID = "00000000-0000-4000-8000-0000000000bb"
		got := run(t, w.runner(), request(short, gone, Probe{Protocol: probes.TCP, Host: a.ip, Port: 80}))["0"]
		expect(t, got, probes.Error, "no process of the pod")
	})
	t.Run("sandbox was replaced", func(t *testing.T) {
		moved := a
		moved.IPs = []string{"10.77.200.9"}
		got := run(t, w.runner(), request(short, moved, Probe{Protocol: probes.TCP, Host: a.ip, Port: 80}))["0"]
		expect(t, got, probes.Error, "sandbox was replaced")
	})
	t.Run("only in the node's network", func(t *testing.T) {
		uid := "00000000-0000-4000-8000-0000000000cc"
		w.process(9001, "1:name=systemd:/kubepods/besteffort/pod"+uid+"/0123\n", "router", "")
		odd := testPod{Pod: Pod{UID: uid, IPs: []string{"10.77.1.1"}}}
		got := run(t, w.runner(), request(short, odd, Probe{Protocol: probes.TCP, Host: a.ip, Port: 80}))["0"]
		expect(t, got, probes.Error, "no process of the pod has a network namespace of its own")
		odd.Host = true
		got = run(t, w.runner(), request(short, odd, Probe{Protocol: probes.TCP, Host: a.ip, Port: 80}))["0"]
		expect(t, got, probes.Refused, "")
	})
	t.Run("a container with a network of its own inside the pod", func(t *testing.T) {
		inner := w.pod("")
		uid := "00000000-0000-4000-8000-0000000000dd"
		w.process(3001, "1:name=systemd:/kubepods/besteffort/pod"+uid+"/0123/docker/456\n", inner.name, "")
		w.process(3002, "1:name=systemd:/kubepods/besteffort/pod"+uid+"/0123\n", a.name, "")
		outer := testPod{Pod: Pod{UID: uid, IPs: a.IPs}}
		r := w.runner()
		places := r.finder.find([]Pod{outer.Pod})
		defer closePlaces(places)
		want, err := openNamespace("/run/netns/" + w.ns(a.name))
		must(t, err)
		defer want.close()
		if p := places[uid]; p.err != nil || p.ns.inode != want.inode {
			t.Errorf("entered the wrong namespace: %+v", p)
		}
	})
}

func TestCancelEndsARoundAtOnce(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod(""), w.pod("")
	w.inside("router", "iptables -A FORWARD -j DROP")
	var ps []Probe
	for i := range 50 {
		ps = append(ps, Probe{Protocol: probes.TCP, Host: b.ip, Port: 1000 + i})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	start, n := time.Now(), 0
	w.runner().reach(ctx, request(20*time.Second, a, ps...), func(r Result) {
		n++
		expect(t, r, probes.Error, "cancelled")
	})
	if d := time.Since(start); n != 50 || d > 2*time.Second {
		t.Errorf("%d results after %s", n, d)
	}
}

// matrix makes 50 sources and 50 ports, half of them dropped.
func matrix(t testing.TB, timeout time.Duration) (*runner, *Request) {
	w := newWorld(t)
	b := w.pod("")
	req := &Request{Version: Version, Role: RoleReach, Session: "0123456789abcdef", TimeoutMillis: int(timeout.Milliseconds())}
	for port := 8000; port < 8050; port++ {
		w.listen(b, port, func(net.Conn) {})
	}
	w.inside("router", "iptables -A FORWARD -p tcp --dport 8025:8049 -j DROP")
	for range 50 {
		a := w.pod("")
		req.Pods = append(req.Pods, a.Pod)
		for port := 8000; port < 8050; port++ {
			req.Probes = append(req.Probes, Probe{ID: fmt.Sprint(len(req.Probes)), Pod: a.UID, Protocol: probes.TCP, Host: b.ip, Port: port})
		}
	}
	return w.runner(), req
}

func checkMatrix(t testing.TB, req *Request, got map[string]Result) {
	t.Helper()
	for _, p := range req.Probes {
		want := probes.Allowed
		if p.Port >= 8025 {
			want = probes.Dropped
		}
		if r := got[p.ID]; r.Outcome != want {
			t.Errorf("port %d: %s (%s), want %s", p.Port, r.Outcome, r.Detail, want)
		}
	}
}

func TestMatrixTakesAboutOneTimeout(t *testing.T) {
	r, req := matrix(t, time.Second)
	start := time.Now()
	got := run(t, r, req)
	d := time.Since(start)
	checkMatrix(t, req, got)
	t.Logf("%d pairs, half of them dropped, in %s", len(req.Probes), d)
	// The benchmark holds the figure, which is twice the time-out; a test must
	// also pass on a machine that is busy with other things, under the race
	// detector. One after the other, the pairs would take twenty minutes.
	if d > 20*time.Second {
		t.Errorf("took %s: the pairs were not probed side by side", d)
	}
}

func BenchmarkMatrix2500(b *testing.B) {
	r, req := matrix(b, time.Second)
	for b.Loop() {
		checkMatrix(b, req, run(b, r, req))
	}
	b.ReportMetric(float64(len(req.Probes)*b.N)/b.Elapsed().Seconds(), "pairs/s")
}

// What was not waited for is not silence.
func TestNoTimeIsNotSilence(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod(""), w.pod("")
	w.inside("router", "iptables -A FORWARD -p tcp --dport 81 -j DROP")
	r := w.runner()
	places := r.finder.find([]Pod{a.Pod})
	defer closePlaces(places)
	to := netip.AddrPortFrom(netip.MustParseAddr(b.ip), 81)
	if got := r.tcp(t.Context(), places[a.UID].ns, to, time.Now().Add(-time.Second)); got.outcome != probes.Error || got.silent {
		t.Errorf("%+v", got)
	}
}
