package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"portcullis.dev/portcullis/probes"
)

// noData is the detail of an answer that has no address of the asked kind.
const noData = "no address"

func packQuestion(id uint16, name string, kind dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}

// reply is what a server answered.
type reply struct {
	code      dnsmessage.RCode
	truncated bool
	addrs     []netip.Addr
}

// parseReply reads an answer to the question with this ID and name. Anything
// else, and what cannot be read, is not an answer.
func parseReply(b []byte, id uint16, name string, kind dnsmessage.Type) (reply, bool) {
	var p dnsmessage.Parser
	head, err := p.Start(b)
	if err != nil || head.ID != id || !head.Response {
		return reply{}, false
	}
	q, err := p.Question()
	if err != nil || !strings.EqualFold(q.Name.String(), name) || q.Type != kind {
		return reply{}, false
	}
	r := reply{code: head.RCode, truncated: head.Truncated}
	if p.SkipAllQuestions() != nil {
		return reply{}, false
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			// The end of the answers, or an answer that was cut: what was read counts.
			return r, errors.Is(err, dnsmessage.ErrSectionDone) || r.truncated
		}
		switch h.Type {
		case dnsmessage.TypeA:
			a, err := p.AResource()
			if err != nil {
				return r, r.truncated
			}
			r.addrs = append(r.addrs, netip.AddrFrom4(a.A))
		case dnsmessage.TypeAAAA:
			a, err := p.AAAAResource()
			if err != nil {
				return r, r.truncated
			}
			r.addrs = append(r.addrs, netip.AddrFrom16(a.AAAA))
		default:
			if p.SkipAnswer() != nil {
				return r, r.truncated
			}
		}
	}
}

func (r reply) lookup() lookup {
	switch {
	case r.code == dnsmessage.RCodeSuccess && len(r.addrs) > 0:
		return lookup{finding: finding{outcome: probes.Allowed, detail: addrList(r.addrs)}, addrs: r.addrs}
	case r.code == dnsmessage.RCodeSuccess:
		return lookup{finding: finding{outcome: probes.Unresolved, detail: noData}}
	}
	return lookup{finding: finding{outcome: probes.Unresolved, detail: codeName(r.code)}}
}

func codeName(c dnsmessage.RCode) string {
	switch c {
	case dnsmessage.RCodeNameError:
		return "no such name (NXDOMAIN)"
	case dnsmessage.RCodeServerFailure:
		return "server failure (SERVFAIL)"
	case dnsmessage.RCodeRefused:
		return "the server refused to answer (REFUSED)"
	}
	return fmt.Sprintf("answer code %d", c)
}

// addrList names at most three addresses.
func addrList(addrs []netip.Addr) string {
	var names []string
	for _, a := range addrs[:min(len(addrs), 3)] {
		names = append(names, a.String())
	}
	if len(addrs) > 3 {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}
