//go:build linux

package wire

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/dialogue"
)

// messages reads all lines of output.
func messages(t *testing.T, out io.Reader) []Message {
	t.Helper()
	var all []Message
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var m Message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		all = append(all, m)
	}
	return all
}

func line(t *testing.T, req *Request) string {
	t.Helper()
	b, err := json.Marshal(req)
	must(t, err)
	return string(b) + "\n"
}

func TestServeRefusesWithOneLineEach(t *testing.T) {
	var out bytes.Buffer
	in := "nonsense\n\n{\"version\":7}\n{\"version\":1,\"role\":\"again\",\"round\":1}\n{\"version\":1,\"role\":\"collect\"}\n"
	must(t, Serve(context.Background(), strings.NewReader(in), &out))
	got := messages(t, &out)
	if len(got) != 4 {
		t.Fatalf("%d lines for four requests: %+v", len(got), got)
	}
	for _, m := range got {
		if m.Type != MessageError || m.Error == "" {
			t.Errorf("%+v", m)
		}
	}
}

func TestServeEndsWithByeAndWithItsContext(t *testing.T) {
	in, feed := io.Pipe()
	go io.WriteString(feed, `{"version":1,"role":"bye"}`+"\n")
	must(t, Serve(context.Background(), in, io.Discard))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Serve(ctx, in, io.Discard); err == nil {
		t.Error("no error although the context ended")
	}
}

func TestServeRefusesAnEndlessLine(t *testing.T) {
	var out bytes.Buffer
	err := Serve(context.Background(), io.LimitReader(zeros{}, MaxRequestBytes+10), &out)
	if err == nil || len(messages(t, &out)) != 1 {
		t.Errorf("error %v, output %q", err, out.String())
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '0'
	}
	return len(b), nil
}

// A session does several rounds with one list of probes; input that ends
// after a request does not cut the request short.
func TestServeRounds(t *testing.T) {
	w := newWorld(t)
	a, b := w.pod(""), w.pod("")
	w.inside("router", "iptables -A FORWARD -p tcp --dport 81 -j DROP")
	req := request(700*time.Millisecond, a,
		Probe{ID: "refused", Protocol: probes.TCP, Host: b.ip, Port: 80},
		Probe{ID: "dropped", Protocol: probes.TCP, Host: b.ip, Port: 81},
		Probe{ID: "datagram", Protocol: probes.UDP, Host: b.ip, Port: 82})
	witness := &Request{Version: Version, Role: RoleWitness, Session: req.Session, Pods: []Pod{b.Pod}}
	in := line(t, witness) + line(t, req) + `{"version":1,"role":"collect","round":1}` + "\n" +
		`{"version":1,"role":"again","round":2}` + "\n" + `{"version":1,"role":"collect","round":2}` + "\n"
	var out bytes.Buffer
	s := &session{runner: w.runner(), out: dialogue.NewWriter[Message](&out)}
	must(t, s.serve(context.Background(), strings.NewReader(in)))
	count := map[MessageType]int{}
	for _, m := range messages(t, &out) {
		count[m.Type]++
		if m.Type == MessageSeen && (len(m.Seen) != 1 || m.Seen[0] != "datagram") {
			t.Errorf("round %d: seen %v", m.Round, m.Seen)
		}
		if m.Type == MessageResult && m.Result.Outcome == "" {
			t.Errorf("%+v", m.Result)
		}
	}
	if count[MessageReady] != 1 || count[MessageResult] != 6 || count[MessageDone] != 4 || count[MessageSeen] != 2 || count[MessageProgress] < 2 || count[MessageError] != 0 {
		t.Errorf("%v", count)
	}
}
