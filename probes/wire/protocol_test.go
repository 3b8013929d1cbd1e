package wire

import (
	"encoding/json"
	"strings"
	"testing"

	"portcullis.dev/portcullis/probes"
)

const someUID = "8f7b1c0e-5b43-4a53-9d1c-0a7a3f0f3a11"

func TestParseRequest(t *testing.T) {
	pod := `"pods":[{"uid":"` + someUID + `","ips":["10.0.0.1"]}]`
	for _, tc := range []struct{ name, line, want string }{
		{"reach", `{"version":1,"role":"reach","session":"00112233","timeoutMillis":1000,` + pod + `,"probes":[{"id":"1","pod":"` + someUID + `","protocol":"tcp","host":"10.0.0.2","port":80}]}`, ""},
		{"witness", `{"version":1,"role":"witness","session":"00112233",` + pod + `}`, ""},
		{"bye", `{"version":1,"role":"bye"}`, ""},
		{"not JSON", `hello`, "not a JSON object"},
		{"a list", `[1]`, "not a JSON object"},
		{"no version", `{"role":"bye"}`, "no version"},
		{"another version, with fields of its own", `{"version":2,"magic":true}`, "version 2, this agent speaks version 1"},
		{"unknown field", `{"version":1,"role":"bye","exec":"sh"}`, `unknown field "exec"`},
		{"two objects", `{"version":1,"role":"bye"}{}`, "after top-level value"},
		{"unknown role", `{"version":1,"role":"exec"}`, `role: "exec"`},
		{"no time-out", `{"version":1,"role":"reach","session":"00112233"}`, "timeoutMillis: 0"},
		{"bad session", `{"version":1,"role":"witness","session":"zz"}`, `session: "zz"`},
		{"bad UID", `{"version":1,"role":"witness","session":"00112233","pods":[{"uid":"../x","ips":["1.1.1.1"]}]}`, "pods[0].uid"},
		{"bad IP", `{"version":1,"role":"witness","session":"00112233","pods":[{"uid":"` + someUID + `","ips":["nope"]}]}`, "pods[0].ips[0]"},
		{"no IP", `{"version":1,"role":"witness","session":"00112233","pods":[{"uid":"` + someUID + `"}]}`, "pods[0].ips: there is none"},
		{"probe of no pod", `{"version":1,"role":"reach","session":"00112233","timeoutMillis":1000,"probes":[{"id":"1","pod":"x","protocol":"tcp","host":"10.0.0.2","port":80}]}`, "probes[0].pod"},
		{"header in a path", `{"version":1,"role":"reach","session":"00112233","timeoutMillis":1000,` + pod + `,"probes":[{"id":"1","pod":"` + someUID + `","protocol":"http","host":"10.0.0.2","port":80,"path":"/ HTTP/1.1\r\nX: y"}]}`, "probes[0].path"},
		{"port", `{"version":1,"role":"reach","session":"00112233","timeoutMillis":1000,` + pod + `,"probes":[{"id":"1","pod":"` + someUID + `","protocol":"udp","host":"10.0.0.2","port":70000}]}`, "probes[0].port: 70000"},
		{"protocol", `{"version":1,"role":"reach","session":"00112233","timeoutMillis":1000,` + pod + `,"probes":[{"id":"1","pod":"` + someUID + `","protocol":"sctp","host":"10.0.0.2","port":70}]}`, "probes[0].protocol"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseRequest([]byte(tc.line))
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want …%s…", err, tc.want)
			case err != nil && strings.Contains(err.Error(), "\n"):
				t.Errorf("the error has more than one line: %q", err)
			}
		})
	}
}

// Whatever is accepted can be written and read again, and satisfies the limits.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"role":"reach","session":"00112233","timeoutMillis":1000,"pods":[{"uid":"` + someUID + `","ips":["10.0.0.1"]}],"probes":[{"id":"1","pod":"` + someUID + `","protocol":"tcp","host":"10.0.0.2","port":80}]}`))
	f.Add([]byte(`{"version":1,"role":"collect","round":3}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		req, err := ParseRequest(line)
		if err != nil {
			return
		}
		again, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRequest(again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		for _, p := range req.Probes {
			_, _, id, ok := parsePayload(payload(req.Session, req.Round, p.ID))
			if !ok || id != p.ID {
				t.Fatalf("probe %q comes back from its datagram as %q", p.ID, id)
			}
		}
	})
}

func TestSettle(t *testing.T) {
	silent := Result{Outcome: probes.Error, Silent: true}
	for _, tc := range []struct {
		in    Result
		sight Sight
		want  probes.Outcome
	}{
		{silent, Seen, probes.Allowed},
		{silent, Unseen, probes.Dropped},
		{silent, Unwatched, probes.Error},
		{Result{Outcome: probes.Refused}, Unseen, probes.Refused},
		{Result{Outcome: probes.Error}, Unseen, probes.Error},
		{Result{Outcome: probes.Dropped}, Seen, probes.Dropped},
	} {
		if got := Settle(tc.in, tc.sight); got.Outcome != tc.want {
			t.Errorf("Settle(%+v, %d) = %s, want %s", tc.in, tc.sight, got.Outcome, tc.want)
		}
	}
}

func TestPodOf(t *testing.T) {
	const u = someUID
	underscored := strings.ReplaceAll(u, "-", "_")
	for _, tc := range []struct{ name, text, want string }{
		{"v1 cgroupfs", "9:name=systemd:/kubepods/burstable/pod" + u + "/0123abcd\n8:pids:/kubepods/burstable/pod" + u + "/0123abcd\n", u},
		{"v2 cgroupfs", "0::/kubepods/pod" + u + "/0123abcd\n", u},
		{"v2 systemd", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + underscored + ".slice/cri-containerd-0123.scope\n", u},
		{"systemd, guaranteed", "0::/kubepods.slice/kubepods-pod" + underscored + ".slice/cri-containerd-0123.scope", u},
		{"v1 systemd, containerd's colons", "1:name=systemd:/system.slice/containerd.service/kubepods-besteffort-pod" + underscored + ".slice:cri-containerd:0123\n0::/kubepods-besteffort-pod" + underscored + ".slice/x", u},
		{"relative, from a cgroup namespace", "0::/../../pod" + u + "/0123\n", u},
		{"relative systemd", "0::/../../kubepods-burstable-pod" + underscored + ".slice/cri-containerd-0123.scope\n", u},
		{"under another root", "4:memory:/node-1/kubepods/besteffort/pod" + u + "/0123\n", u},
		{"K3s", "0::/k3s/kubepods/besteffort/pod" + u + "/0123\n", u},
		{"static pod", "0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/0123\n", "0123456789abcdef0123456789abcdef"},
		{"the innermost pod counts", "0::/kubepods/pod00000000-0000-4000-8000-000000000001/x/kubepods/pod" + u + "/0123\n", u},
		{"first line of no pod", "10:devices:/\n9:memory:/kubepods/pod" + u + "/1\n", u},
		{"no pod", "0::/system.slice/sshd.service\n", ""},
		{"podman", "0::/machine.slice/libpod-0123.scope\n", ""},
		{"not a UID", "0::/kubepods/podcast/x\n", ""},
		{"only a prefix of a UID", "0::/kubepods/pod" + u[:35] + "/x\n", ""},
		{"empty", "", ""},
	} {
		if got := podOf([]byte(tc.text)); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func FuzzPodOf(f *testing.F) {
	f.Add([]byte("0::/kubepods.slice/kubepods-burstable-pod8f7b1c0e_5b43_4a53_9d1c_0a7a3f0f3a11.slice/cri-containerd-0123.scope\n"))
	f.Add([]byte("9:name=systemd:/kubepods/burstable/pod" + someUID + "/0123\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if uid := podOf(text); uid != "" && !validUID(uid) {
			t.Errorf("%q is not a UID", uid)
		}
	})
}

func TestParseResolvConf(t *testing.T) {
	r := parseResolvConf([]byte("# made by kubelet\nsearch old.example\nsearch a.svc.cluster.local svc.cluster.local\nnameserver 10.43.0.10\nnameserver fd00::10 ; spare\nnameserver not-an-address\noptions ndots:5 timeout:1\n"))
	if len(r.servers) != 2 || r.ndots != 5 || len(r.search) != 2 {
		t.Errorf("%+v", r)
	}
	for name, want := range map[string]string{
		"web":          "web.a.svc.cluster.local. web.svc.cluster.local. web.",
		"a.b.c.d.e.f":  "a.b.c.d.e.f. a.b.c.d.e.f.a.svc.cluster.local. a.b.c.d.e.f.svc.cluster.local.",
		"example.com.": "example.com.",
	} {
		if got := strings.Join(r.candidates(name), " "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 1.1.1.1\nsearch a b c\noptions ndots:99\n"), "x")
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		r := parseResolvConf(text)
		if n := len(r.candidates(name)); n < 1 || n > maxCandidates || len(r.servers) > maxServers || r.ndots > maxNdots {
			t.Errorf("%d candidates, %+v", n, r)
		}
	})
}
