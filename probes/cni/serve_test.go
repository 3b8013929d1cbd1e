package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestRefusedRequests(t *testing.T) {
	for name, c := range map[string]struct{ request, says string }{
		"nothing":          {``, "there is no request"},
		"half":             {`{"version":1,"op":"lo`, "the request is not JSON"},
		"text":             {`look`, "the request is not JSON"},
		"list":             {`[1]`, "the request is not a JSON object"},
		"two":              {`{"version":1,"op":"look"} {"version":1,"op":"look"}`, "more than one request"},
		"no version":       {`{"op":"look"}`, "the request has no version; this agent speaks version 1"},
		"version":          {`{"version":2,"op":"look","new":1}`, "the request has version 2, this agent speaks version 1: install the agent of the same release"},
		"field":            {`{"version":1,"op":"look","shell":"ls"}`, `unknown field "shell"`},
		"op":               {`{"version":1,"op":"run"}`, `op: "run" is not one of look, save`},
		"no op":            {`{"version":1}`, `op: "" is not one of`},
		"time":             {`{"version":1,"op":"look","timeoutMS":300001}`, "timeoutMS: 300001 is not between 0 and 300000"},
		"past":             {`{"version":1,"op":"look","timeoutMS":-1}`, "timeoutMS: -1 is not between 0 and 300000"},
		"migration":        {`{"version":1,"op":"save","migration":"../x"}`, `migration: "../x" cannot name a migration`},
		"no migration":     {`{"version":1,"op":"save"}`, "migration: save cannot be done without it"},
		"no device":        {`{"version":1,"op":"unlink"}`, "device: unlink cannot be done without it"},
		"no calico":        {`{"version":1,"op":"leave","device":"flannel.1"}`, "calico: leave cannot be done without it"},
		"device":           {`{"version":1,"op":"ping","device":"a/b"}`, `device: "a/b" cannot name a network device`},
		"long device":      {`{"version":1,"op":"ping","device":"abcdefghijklmnop"}`, "cannot name a network device"},
		"same device":      {`{"version":1,"op":"leave","device":"a","calico":"a"}`, "calico: a cannot be flannel's device and Calico's"},
		"network":          {`{"version":1,"op":"look","network":"../.."}`, `network: "../.." cannot name a CNI network`},
		"peer":             {`{"version":1,"op":"look","peers":["x"]}`, "the request cannot be read"},
		"IPv6 peer":        {`{"version":1,"op":"look","peers":["fd00::/64"]}`, "peers[0]: fd00::/64 is not an IPv4 network"},
		"peer's host":      {`{"version":1,"op":"look","peers":["10.42.1.1/24"]}`, "peers[0]: 10.42.1.1/24 is not a network: did you mean 10.42.1.0/24?"},
		"everything":       {`{"version":1,"op":"look","peers":["0.0.0.0/0"]}`, "peers[0]: 0.0.0.0/0 is not between /8 and /30"},
		"empty peer":       {`{"version":1,"op":"look","peers":[""]}`, "peers[0]: it is not a network"},
		"twice":            {`{"version":1,"op":"look","peers":["10.42.1.0/24","10.42.2.0/24","10.42.1.0/24"]}`, "peers: 10.42.1.0/24 and 10.42.1.0/24 overlap"},
		"own is a peer":    {`{"version":1,"op":"look","peers":["10.42.0.0/24"],"own":"10.42.0.0/16"}`, "peers: 10.42.0.0/16 and 10.42.0.0/24 overlap"},
		"address":          {`{"version":1,"op":"restore","migration":"m","addresses":[{"ip":"","container":"a","interface":"eth0"}]}`, "addresses[0].ip"},
		"elsewhere":        {`{"version":1,"op":"restore","migration":"m","own":"10.42.0.0/24","addresses":[{"ip":"10.42.1.1","container":"a","interface":"eth0"}]}`, "addresses[0].ip: 10.42.1.1 is not in the node's pod network 10.42.0.0/24"},
		"zone":             {`{"version":1,"op":"restore","migration":"m","addresses":[{"ip":"fe80::1%..","container":"a","interface":"eth0"}]}`, "addresses[0].ip"},
		"container":        {`{"version":1,"op":"restore","migration":"m","addresses":[{"ip":"10.0.0.1","container":"a\r\nb","interface":"eth0"}]}`, "addresses[0].container"},
		"interface":        {`{"version":1,"op":"restore","migration":"m","addresses":[{"ip":"10.0.0.1","container":"a","interface":""}]}`, "addresses[0].interface"},
		"address twice":    {`{"version":1,"op":"restore","migration":"m","addresses":[{"ip":"10.0.0.1","container":"a","interface":"e"},{"ip":"10.0.0.1","container":"b","interface":"e"}]}`, "addresses[1].ip: 10.0.0.1 is there twice"},
		"no network":       {`{"version":1,"op":"restore","migration":"m","addresses":[{"ip":"10.0.0.1","container":"a","interface":"e"}]}`, "network: addresses cannot be restored without it"},
		"too large":        {`{"version":1,"op":"` + strings.Repeat("x", MaxRequestBytes) + `"}`, "the request is larger than 4 MiB"},
		"an endless blank": {strings.Repeat(" ", MaxRequestBytes+2), "the request is larger than 4 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			dir := t.TempDir()
			if err := Serve(t.Context(), strings.NewReader(c.request), &out, Host{Conf: dir, Networks: dir, Keep: dir, Run: dir}); err != nil {
				t.Fatal(err)
			}
			var reply Reply
			if err := json.Unmarshal(out.Bytes(), &reply); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(reply.Error, c.says) || strings.Contains(reply.Error, "\n") || len(reply.Error) > maxError+10 {
				t.Errorf("got %q, want %q", reply.Error, c.says)
			}
		})
	}
}

// A connection that broke may bring neither a request nor an end.
func TestSilentInput(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in, _ := io.Pipe()
	var out bytes.Buffer
	if err := Serve(ctx, in, &out, Host{}); err != nil || !strings.Contains(out.String(), "no whole request came") {
		t.Errorf("%s, %v", out.String(), err)
	}
	if err := Serve(t.Context(), strings.NewReader("{}"), broken{}, Host{}); err == nil {
		t.Error("a reply that could not be written is none")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A request ends with its last bracket: the input need not.
func TestInputStaysOpen(t *testing.T) {
	in, w := io.Pipe()
	go func() { _, _ = io.WriteString(w, `{"version":1,"op":"nothing"}`+"\n") }()
	var out bytes.Buffer
	if err := Serve(t.Context(), in, &out, Host{}); err != nil || !strings.Contains(out.String(), `op: \"nothing\" is not one of`) {
		t.Errorf("%s, %v", out.String(), err)
	}
}

func FuzzParseRequest(f *testing.F) {
	full := Request{
		Version: 1, Op: OpRestore, Migration: "m1", Device: "flannel.1", Calico: "vxlan.calico", Network: "k8s-pod-network", TimeoutMS: 1000,
		Peers: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")}, Own: netip.MustParsePrefix("10.42.0.0/24"),
		Addresses: []Address{{IP: netip.MustParseAddr("10.42.0.4"), Container: "abc", Interface: "eth0"}},
	}
	data, err := json.Marshal(full)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"op":"look","own":"","peers":null}`))
	f.Add([]byte(`{"version":1e0,"op":"look"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := ParseRequest(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		same, err := ParseRequest(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		// An empty list and none are the same.
		if len(req.Peers)+len(req.Addresses) > 0 && !reflect.DeepEqual(req, same) {
			t.Fatalf("%+v became %+v", req, same)
		}
	})
}

func FuzzOldTable(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 3*(entryHead+targetHead)))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = parseOldTable("nat", data) })
}

func TestOldRemoval(t *testing.T) {
	const rules = `-P POSTROUTING ACCEPT
-N FLANNEL-POSTRTG
-N KUBE-POSTROUTING
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A POSTROUTING -s 10.0.0.0/8 -g FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -s 10.42.0.0/16 -m comment --comment "flanneld masq" -j RETURN
`
	const want = `*nat
-D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-D POSTROUTING -s 10.0.0.0/8 -g FLANNEL-POSTRTG
-F FLANNEL-POSTRTG
-X FLANNEL-POSTRTG
COMMIT
`
	if got, any := oldRemoval("nat", rules); !any || got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, any := oldRemoval("nat", "-P POSTROUTING ACCEPT\n-N KUBE-POSTROUTING\n"); any {
		t.Errorf("got %s where there is nothing to do", got)
	}
}
