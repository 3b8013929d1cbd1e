package simcluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// protocolVersion is that of the node agent's protocol, which is described in
// the package probes/wire of Portcullis.
const protocolVersion = 1

// maxRequest bounds a line of input.
const maxRequest = 16 << 20

// answersAfter is how long a connection inside a simulated cluster takes.
const answersAfter = time.Millisecond

type request struct {
	Version int     `json:"version"`
	Role    string  `json:"role"`
	Round   int     `json:"round"`
	Probes  []probe `json:"probes"`
}

type probe struct {
	ID       string `json:"id"`
	Protocol string `json:"protocol"`
	Host     string `json:"host"`
	Port     int    `json:"port"`
}

type message struct {
	Type   string  `json:"type"`
	Round  int     `json:"round,omitempty"`
	Result *result `json:"result,omitempty"`
	Done   int     `json:"done,omitempty"`
	Total  int     `json:"total,omitempty"`
	Error  string  `json:"error,omitempty"`
}

type result struct {
	ID      string `json:"id"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail,omitempty"`
	Micros  int64  `json:"micros,omitempty"`
}

// reach is a session of `portcullis node reach`, on a network that is not there:
// whether a connection is made is looked up.
func (w *world) reach(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 16<<10), maxRequest)
	buffered := bufio.NewWriter(out)
	answer := json.NewEncoder(buffered)
	var last *request
	for lines.Scan() {
		req := &request{}
		if err := json.Unmarshal(lines.Bytes(), req); err != nil {
			return fmt.Errorf("a request that is no JSON: %w", err)
		}
		switch {
		case req.Version != protocolVersion:
			_ = answer.Encode(message{Type: "error", Error: fmt.Sprintf("a simulated agent speaks version %d", protocolVersion)})
		case req.Role == "bye":
			return nil
		case req.Role == "witness":
			_ = answer.Encode(message{Type: "ready", Round: req.Round})
		case req.Role == "reach" || req.Role == "again" && last != nil:
			if req.Role == "again" {
				last.Round, req = req.Round, last
			}
			last = req
			w.probe(req, answer)
		default:
			_ = answer.Encode(message{Type: "error", Round: req.Round, Error: fmt.Sprintf("a simulated agent cannot %q", req.Role)})
		}
		if err := buffered.Flush(); err != nil {
			return err
		}
	}
	return lines.Err()
}

// probe answers for all probes of a request. A write that fails is told by the flush that follows.
func (w *world) probe(req *request, answer *json.Encoder) {
	time.Sleep(answersAfter) // they are made at the same time
	for _, p := range req.Probes {
		r := result{ID: p.ID, Outcome: "refused", Micros: answersAfter.Microseconds()}
		switch {
		case p.Protocol != "tcp":
			r.Outcome, r.Detail = "error", "a simulated network has TCP alone"
		case w.open[fmt.Sprintf("%s:%d", p.Host, p.Port)]:
			r.Outcome = "allowed"
		}
		_ = answer.Encode(message{Type: "result", Round: req.Round, Result: &r})
	}
	_ = answer.Encode(message{Type: "done", Round: req.Round, Done: len(req.Probes), Total: len(req.Probes)})
}
