package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/probes/dialogue"
)

// Version is the version of the protocol. A request of another one is refused.
const Version = 1

// Limits on what a request may ask for.
const (
	MaxRequestBytes = 64 << 20
	MaxProbes       = 200_000
	MaxTimeout      = time.Minute
	MinTimeout      = 10 * time.Millisecond
	maxNameLength   = 253
)

// Role is what a request asks for.
type Role string

const (
	// RoleReach runs probes and reports a result for each.
	RoleReach Role = "reach"
	// RoleAgain runs the probes of the session's last reach once more.
	RoleAgain Role = "again"
	// RoleWitness listens in pods for the datagrams of UDP probes, in place
	// of those that the session listened in before.
	RoleWitness Role = "witness"
	// RoleCollect reports what the witness saw of a round.
	RoleCollect Role = "collect"
	// RoleBye ends the session.
	RoleBye Role = "bye"
)

// Request is one line of input.
type Request struct {
	Version int  `json:"version"`
	Role    Role `json:"role"`
	// Session identifies the measurement, in hex; it is in every datagram, so that a
	// witness does not count those of another.
	Session string `json:"session,omitempty"`
	// Round numbers the rounds of a session, and is in every datagram too.
	Round int `json:"round,omitempty"`
	// TimeoutMillis is how long silence is waited for, per probe.
	TimeoutMillis int `json:"timeoutMillis,omitempty"`
	// Concurrency bounds the probes under way at once; 0 means the default, 4096.
	Concurrency int `json:"concurrency,omitempty"`
	// Pods are the pods that probes start from, or that the witness listens in.
	Pods   []Pod   `json:"pods,omitempty"`
	Probes []Probe `json:"probes,omitempty"`
}

// Timeout is TimeoutMillis as a duration.
func (r *Request) Timeout() time.Duration { return time.Duration(r.TimeoutMillis) * time.Millisecond }

// Pod is a pod on this node.
type Pod struct {
	// UID is the UID that kubelet knows the pod by: for a static pod, that is
	// the value of its kubernetes.io/config.mirror annotation.
	UID string `json:"uid"`
	// IPs are the pod's addresses; its network namespace must have one of them.
	IPs []string `json:"ips,omitempty"`
	// Host says that the pod is in the node's own network namespace.
	Host bool `json:"host,omitempty"`
}

// Probe is one connection to try.
type Probe struct {
	// ID comes back in the result. It is unique in a round, over all nodes.
	ID string `json:"id"`
	// Pod is the UID of the source, one of the request's pods.
	Pod      string          `json:"pod"`
	Protocol probes.Protocol `json:"protocol"`
	// Host is an IP literal or a name; for DNS the name to ask for.
	Host string `json:"host"`
	Port int    `json:"port,omitempty"`
	// Path is the path of an HTTP request.
	Path string `json:"path,omitempty"`
}

// MessageType says what a line of output is.
type MessageType string

const (
	// MessageReady: the witness listens; Failed has the pods where it could not.
	MessageReady MessageType = "ready"
	// MessageProgress: Done of Total probes have a result.
	MessageProgress MessageType = "progress"
	// MessageResult: the result of one probe.
	MessageResult MessageType = "result"
	// MessageSeen: the IDs of probes whose datagram arrived. In Failed are the
	// pods whose witness cannot vouch for what it did not see.
	MessageSeen MessageType = "seen"
	// MessageDone: the request was served whole.
	MessageDone MessageType = "done"
	// MessageError: the request was refused or could not be served.
	MessageError MessageType = "error"
)

// Message is one line of output.
type Message struct {
	Type   MessageType `json:"type"`
	Round  int         `json:"round,omitempty"`
	Result *Result     `json:"result,omitempty"`
	// Failed maps the UID of a pod that cannot be witnessed to the reason.
	Failed map[string]string `json:"failed,omitempty"`
	Seen   []string          `json:"seen,omitempty"`
	Done   int               `json:"done,omitempty"`
	Total  int               `json:"total,omitempty"`
	Error  string            `json:"error,omitempty"`
}

// Ends says whether m ends an answer, with an error where it is a refusal.
func (m *Message) Ends() (ends bool, refused error) {
	switch m.Type {
	case MessageReady, MessageDone:
		return true, nil
	case MessageError:
		return true, errors.New(m.Error)
	}
	return false, nil
}

// Result is what one probe found.
type Result struct {
	ID      string         `json:"id"`
	Outcome probes.Outcome `json:"outcome"`
	// Detail is one line for people.
	Detail string `json:"detail,omitempty"`
	// Micros is how long the answer took, in microseconds; for silence, how long it was waited for.
	Micros int64 `json:"micros,omitempty"`
	// Silent is true when nothing came back from a UDP probe: Outcome is then
	// an error until Settle has heard the witness.
	Silent bool `json:"silent,omitempty"`
}

// Duration is Micros as a duration.
func (r Result) Duration() time.Duration { return time.Duration(r.Micros) * time.Microsecond }

// Sight is what is known of a silent probe's destination.
type Sight int

const (
	// Unwatched: no witness was listening at the destination.
	Unwatched Sight = iota
	// Unseen: a witness listened the whole round and the datagram did not come.
	Unseen
	// Seen: the datagram arrived.
	Seen
)

// Settle decides a silent result by what the witness saw. Other results stay as they are.
func Settle(r Result, s Sight) Result {
	if !r.Silent {
		return r
	}
	switch s {
	case Seen:
		r.Outcome, r.Detail = probes.Allowed, "the datagram arrived; the destination did not answer it"
	case Unseen:
		r.Outcome, r.Detail = probes.Dropped, "the datagram did not arrive"
	}
	return r
}

// ParseRequest reads and validates one line. The error is one line that says
// what is wrong and where.
func ParseRequest(line []byte) (*Request, error) {
	return dialogue.Parse(line, Version, (*Request).validate)
}

func (r *Request) validate() error {
	switch r.Role {
	case RoleReach:
		return r.validateReach()
	case RoleWitness:
		return r.validateWitness()
	case RoleAgain, RoleCollect:
		if r.Round < 0 {
			return fmt.Errorf("round: %d is below zero", r.Round)
		}
		return nil
	case RoleBye:
		return nil
	default:
		return fmt.Errorf("role: %q is not one of reach, again, witness, collect, bye", r.Role)
	}
}

func (r *Request) validateReach() error {
	if t := r.Timeout(); t < MinTimeout || t > MaxTimeout {
		return fmt.Errorf("timeoutMillis: %d is not between %d and %d", r.TimeoutMillis, MinTimeout.Milliseconds(), MaxTimeout.Milliseconds())
	}
	if r.Concurrency < 0 {
		return fmt.Errorf("concurrency: %d is below zero", r.Concurrency)
	}
	if len(r.Probes) > MaxProbes {
		return fmt.Errorf("probes: %d are more than the %d that one request may have", len(r.Probes), MaxProbes)
	}
	if err := validSession(r.Session); err != nil {
		return err
	}
	pods, err := r.podSet()
	if err != nil {
		return err
	}
	ids := make(map[string]bool, len(r.Probes))
	for i := range r.Probes {
		p := &r.Probes[i]
		if err := p.validate(pods); err != nil {
			return fmt.Errorf("probes[%d].%w", i, err)
		}
		if ids[p.ID] {
			return fmt.Errorf("probes[%d].id: %q is there twice", i, p.ID)
		}
		ids[p.ID] = true
	}
	return nil
}

func (r *Request) validateWitness() error {
	if err := validSession(r.Session); err != nil {
		return err
	}
	_, err := r.podSet()
	return err
}

func validSession(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) < 4 || len(b) > 32 {
		return fmt.Errorf("session: %q is not 4 to 32 bytes in hex", s)
	}
	return nil
}

func (r *Request) podSet() (map[string]bool, error) {
	set := make(map[string]bool, len(r.Pods))
	for i, p := range r.Pods {
		if !validUID(p.UID) {
			return nil, fmt.Errorf("pods[%d].uid: %q is not a pod UID", i, p.UID)
		}
		if !p.Host && len(p.IPs) == 0 {
			return nil, fmt.Errorf("pods[%d].ips: there is none", i)
		}
		for j, ip := range p.IPs {
			if _, err := netip.ParseAddr(ip); err != nil {
				return nil, fmt.Errorf("pods[%d].ips[%d]: %q is not an IP address", i, j, ip)
			}
		}
		if set[p.UID] {
			return nil, fmt.Errorf("pods[%d].uid: %q is there twice", i, p.UID)
		}
		set[p.UID] = true
	}
	return set, nil
}

func (p *Probe) validate(pods map[string]bool) error {
	switch {
	case p.ID == "" || len(p.ID) > 64 || strings.ContainsAny(p.ID, "/ \n"):
		return fmt.Errorf("id: %q is not 1 to 64 characters without slash or space", p.ID)
	case !pods[p.Pod]:
		return fmt.Errorf("pod: %q is not one of the request's pods", p.Pod)
	case p.Host == "" || len(p.Host) > maxNameLength || strings.ContainsAny(p.Host, "/ \r\n\t"):
		return fmt.Errorf("host: %q is neither an address nor a name", p.Host)
	case strings.ContainsAny(p.Path, " \r\n\t") || p.Path != "" && p.Path[0] != '/':
		return fmt.Errorf("path: %q is not a path", p.Path)
	}
	switch p.Protocol {
	case probes.TCP, probes.UDP, probes.HTTP:
		if p.Port < 1 || p.Port > 65535 {
			return fmt.Errorf("port: %d is not between 1 and 65535", p.Port)
		}
	case probes.DNS:
	default:
		return fmt.Errorf("protocol: %q is not one of tcp, udp, dns, http", p.Protocol)
	}
	return nil
}

// magic begins every datagram of a UDP probe. It is as long as the witness's
// filter in the kernel can compare at once.
const magic = "PTCL"

// payload is the datagram of a UDP probe.
func payload(session string, round int, id string) []byte {
	return []byte(magic + "/" + session + "/" + strconv.Itoa(round) + "/" + id + "\n")
}

// parsePayload reads what payload wrote.
func parsePayload(b []byte) (session string, round int, id string, ok bool) {
	rest, found := strings.CutPrefix(string(b), magic+"/")
	if !found {
		return "", 0, "", false
	}
	rest, found = strings.CutSuffix(rest, "\n")
	parts := strings.Split(rest, "/")
	if !found || len(parts) != 3 {
		return "", 0, "", false
	}
	round, err := strconv.Atoi(parts[1])
	if err != nil {
		return "", 0, "", false
	}
	return parts[0], round, parts[2], true
}
