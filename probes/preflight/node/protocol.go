package node

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"portcullis.dev/portcullis/probes/dialogue"
	"portcullis.dev/portcullis/probes/preflight"
)

// Version is the version of the protocol. A request of another one is refused.
const Version = 1

// Limits on what a request may ask for.
const (
	MaxRequestBytes = 4 << 20
	MaxPeers        = 5000
	MaxPaths        = 16
	MaxSizes        = 16
	MaxPorts        = 64
	MaxTimeout      = 10 * time.Second
	MinTimeout      = 50 * time.Millisecond
	minSize         = 128
	maxSize         = 65535
)

// Role is what a request asks for.
type Role string

const (
	// RoleClock asks what time it is on the node.
	RoleClock Role = "clock"
	// RoleFacts measures the node.
	RoleFacts Role = "facts"
	// RoleListen opens what awaits packets, in place of what was open before.
	RoleListen Role = "listen"
	// RoleReach sends to the peers and reports what came back.
	RoleReach Role = "reach"
	// RoleCollect reports what arrived in a round.
	RoleCollect Role = "collect"
	// RoleBye ends the session.
	RoleBye Role = "bye"
)

// Request is one line of input.
type Request struct {
	Version int  `json:"version"`
	Role    Role `json:"role"`
	// Ports are those whose owners are wanted, with the facts.
	Ports []int `json:"ports,omitempty"`
	// Session identifies the measurement, in hex; with the round it is in every packet.
	Session string `json:"session,omitempty"`
	Round   int    `json:"round,omitempty"`
	// Self is this node's number among the peers, Address its own address.
	Self    int    `json:"self,omitempty"`
	Address string `json:"address,omitempty"`
	// Paths are what is listened on or tried.
	Paths []preflight.Path `json:"paths,omitempty"`
	Peers []Peer           `json:"peers,omitempty"`
	// Sizes are of IP packets that are sent with the do-not-fragment bit, to the
	// first UDP path.
	Sizes         []int `json:"sizes,omitempty"`
	TimeoutMillis int   `json:"timeoutMillis,omitempty"`
}

// Peer is another node.
type Peer struct {
	ID      int    `json:"id"`
	Address string `json:"address"`
}

// MessageType says what a line of output is.
type MessageType string

const (
	MessageProgress  MessageType = "progress"
	MessageClock     MessageType = "clock"
	MessageFacts     MessageType = "facts"
	MessageListening MessageType = "listening"
	MessageReached   MessageType = "reached"
	MessageSeen      MessageType = "seen"
	// MessageDone ends an answer; MessageError too, where it was refused or failed.
	MessageDone  MessageType = "done"
	MessageError MessageType = "error"
)

// Message is one line of output.
type Message struct {
	Type MessageType `json:"type"`
	// Time is the node's clock.
	Time  time.Time            `json:"time,omitzero"`
	Facts *preflight.NodeFacts `json:"facts,omitempty"`
	// Failed are the paths, by index, that cannot be listened on, and why.
	Failed map[int]string `json:"failed,omitempty"`
	// Peer and Answers are what one peer's paths answered, in their order.
	Peer    int          `json:"peer,omitempty"`
	Answers []PathAnswer `json:"answers,omitempty"`
	Seen    []Sighting   `json:"seen,omitempty"`
	Done    int          `json:"done,omitempty"`
	Total   int          `json:"total,omitempty"`
	Error   string       `json:"error,omitempty"`
}

// Ends says whether m ends an answer, with an error where it is a refusal.
func (m *Message) Ends() (ends bool, refused error) {
	switch m.Type {
	case MessageDone:
		return true, nil
	case MessageError:
		return true, errors.New(m.Error)
	}
	return false, nil
}

// PathAnswer is what came back on one path. Silence on UDP and IP paths is for
// the destination's sightings to decide.
type PathAnswer struct {
	Answer preflight.Answer `json:"answer"`
	// Silent is true when nothing came back.
	Silent bool   `json:"silent,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// Sighting is what arrived from one peer.
type Sighting struct {
	From int `json:"from"`
	// Paths are the indexes of paths on which something arrived.
	Paths []int `json:"paths,omitempty"`
	// Largest is the size of the largest packet that arrived whole.
	Largest int `json:"largest,omitempty"`
}

// ParseRequest reads and validates one line. The error is one line that says
// what is wrong and where.
func ParseRequest(line []byte) (*Request, error) {
	return dialogue.Parse(line, Version, (*Request).validate)
}

func (r *Request) validate() error {
	switch r.Role {
	case RoleClock, RoleBye:
		return nil
	case RoleFacts:
		return r.validatePorts()
	case RoleListen:
		if _, err := netip.ParseAddr(r.Address); err != nil {
			return fmt.Errorf("address: %q is not an IP address", r.Address)
		}
		return r.validateMesh()
	case RoleReach:
		return r.validateReach()
	case RoleCollect:
		if r.Round < 0 {
			return fmt.Errorf("round: %d is below zero", r.Round)
		}
		return nil
	}
	return fmt.Errorf("role: %q is not one of clock, facts, listen, reach, collect, bye", r.Role)
}

func (r *Request) validatePorts() error {
	if len(r.Ports) > MaxPorts {
		return fmt.Errorf("ports: %d are more than %d", len(r.Ports), MaxPorts)
	}
	for i, p := range r.Ports {
		if p < 1 || p > 65535 {
			return fmt.Errorf("ports[%d]: %d is not between 1 and 65535", i, p)
		}
	}
	return nil
}

func (r *Request) validateMesh() error {
	if b, err := hex.DecodeString(r.Session); err != nil || len(b) < 4 || len(b) > 16 {
		return fmt.Errorf("session: %q is not 4 to 16 bytes in hex", r.Session)
	}
	if r.Round < 0 {
		return fmt.Errorf("round: %d is below zero", r.Round)
	}
	if len(r.Paths) == 0 || len(r.Paths) > MaxPaths {
		return fmt.Errorf("paths: %d are not 1 to %d", len(r.Paths), MaxPaths)
	}
	for i, p := range r.Paths {
		switch {
		case p.Protocol == "tcp" || p.Protocol == "udp":
			if p.Port < 1 || p.Port > 65535 {
				return fmt.Errorf("paths[%d].port: %d is not between 1 and 65535", i, p.Port)
			}
		case p.Protocol == "ip" && p.Port == preflight.PathIPIP.Port:
		default:
			return fmt.Errorf("paths[%d]: protocol %q with %d is not tcp, udp, or ip with 4", i, p.Protocol, p.Port)
		}
	}
	return nil
}

func (r *Request) validateReach() error {
	if err := r.validateMesh(); err != nil {
		return err
	}
	if t := r.timeout(); t < MinTimeout || t > MaxTimeout {
		return fmt.Errorf("timeoutMillis: %d is not between %d and %d", r.TimeoutMillis, MinTimeout.Milliseconds(), MaxTimeout.Milliseconds())
	}
	if len(r.Peers) > MaxPeers || len(r.Sizes) > MaxSizes {
		return fmt.Errorf("%d peers and %d sizes are more than %d and %d", len(r.Peers), len(r.Sizes), MaxPeers, MaxSizes)
	}
	for i, p := range r.Peers {
		if a, err := netip.ParseAddr(p.Address); err != nil || !a.Is4() {
			return fmt.Errorf("peers[%d].address: %q is not an IPv4 address", i, p.Address)
		}
	}
	for i, s := range r.Sizes {
		if s < minSize || s > maxSize {
			return fmt.Errorf("sizes[%d]: %d is not between %d and %d", i, s, minSize, maxSize)
		}
	}
	return nil
}

func (r *Request) timeout() time.Duration { return time.Duration(r.TimeoutMillis) * time.Millisecond }
