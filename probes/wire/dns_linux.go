package wire

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"portcullis.dev/portcullis/probes"
)

const dnsPort = 53

// lookup is what resolving a name found: allowed with addresses, unresolved when
// the resolver answered without one, and otherwise what became of the question.
type lookup struct {
	finding
	addrs []netip.Addr
}

// resolve asks the pod's resolver for a name. All names of the search list are asked for at
// once; the first in the pod's order that has an address counts. A suffix whose
// servers are slow does not make the others late: at the deadline, any will do.
// With anyAnswer set, the first address ends it.
func (r *runner) resolve(ctx context.Context, p *place, name string, deadline time.Time, anyAnswer bool) lookup {
	text, err := r.finder.resolvConf(p.pids)
	if err != nil {
		return lookup{finding: failed("%v", err)}
	}
	conf := parseResolvConf(text)
	if len(conf.servers) == 0 {
		return lookup{finding: failed("the pod's /etc/resolv.conf names no server")}
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	// No question outlives the call: it would open sockets in a namespace that may be closed.
	defer asking.Wait()
	defer cancel()
	type indexed struct {
		i int
		lookup
	}
	names := conf.candidates(name)
	results := make(chan indexed, len(names))
	for i, candidate := range names {
		asking.Go(func() { results <- indexed{i, r.ask(ctx, p.ns, conf.servers, candidate, deadline)} })
	}
	got := make([]*lookup, len(names))
	for range names {
		next := <-results
		got[next.i] = &next.lookup
		if l, ok := settled(got, anyAnswer); ok {
			return l
		}
	}
	return combine(got)
}

// settled returns the first address in order, once no earlier name can still have one.
func settled(got []*lookup, anyAnswer bool) (lookup, bool) {
	for _, l := range got {
		switch {
		case l == nil && !anyAnswer:
			return lookup{}, false
		case l != nil && l.outcome == probes.Allowed:
			return *l, true
		}
	}
	return lookup{}, false
}

// combine sums up when no name had an address, or only a later one in time.
func combine(got []*lookup) lookup {
	var answered, silent, other *lookup
	for _, l := range got {
		switch {
		case l.outcome == probes.Allowed:
			return *l
		case l.outcome == probes.Unresolved:
			answered = l
		case l.silent:
			silent = l
		default:
			other = l
		}
	}
	switch {
	case answered != nil && silent != nil:
		return lookup{finding: failed("the resolver answered for some names of the search list and was silent for others")}
	case other != nil:
		return *other
	case answered != nil:
		return *answered
	}
	return *silent
}

// ask asks for one full name, IPv4 first, then IPv6.
func (r *runner) ask(ctx context.Context, ns *namespace, servers []netip.Addr, name string, deadline time.Time) lookup {
	l := r.query(ctx, ns, servers, name, dnsmessage.TypeA, deadline)
	if l.outcome == probes.Unresolved && l.detail == noData {
		l = r.query(ctx, ns, servers, name, dnsmessage.TypeAAAA, deadline)
		if l.silent {
			l = lookup{finding: failed("the resolver answered for IPv4 addresses of %s and was silent for IPv6", name)}
		}
	}
	if l.outcome == probes.Unresolved {
		l.detail = fmt.Sprintf("%s: %s", strings.TrimSuffix(name, "."), l.detail)
	}
	return l
}

// query asks each server in turn, the time that is left shared between them.
func (r *runner) query(ctx context.Context, ns *namespace, servers []netip.Addr, name string, kind dnsmessage.Type, deadline time.Time) lookup {
	var l lookup
	for i, server := range servers {
		share := time.Until(deadline) / time.Duration(len(servers)-i)
		l = r.queryServer(ctx, ns, netip.AddrPortFrom(server, dnsPort), name, kind, time.Now().Add(share))
		if l.outcome == probes.Allowed || l.outcome == probes.Unresolved {
			return l
		}
	}
	return l
}

func (r *runner) queryServer(ctx context.Context, ns *namespace, server netip.AddrPort, name string, kind dnsmessage.Type, deadline time.Time) lookup {
	id := uint16(rand.Uint32())
	question, err := packQuestion(id, name, kind)
	if err != nil {
		return lookup{finding: failed("%q is not a name that can be asked for: %v", name, err)}
	}
	var reply reply
	got := r.exchange(ctx, ns, server, question, deadline, func(b []byte) bool {
		parsed, ok := parseReply(b, id, name, kind)
		reply = parsed
		return ok
	})
	if got.outcome == probes.Allowed && reply.truncated {
		reply, got = r.queryTCP(ctx, ns, server, question, id, name, kind, deadline)
	}
	if got.silent {
		got.detail = fmt.Sprintf("no answer from the resolver %s", server.Addr())
	}
	if got.outcome != probes.Allowed {
		return lookup{finding: got}
	}
	return reply.lookup()
}

// queryTCP asks again where the answer did not fit into a datagram.
func (r *runner) queryTCP(ctx context.Context, ns *namespace, server netip.AddrPort, question []byte, id uint16, name string, kind dnsmessage.Type, deadline time.Time) (reply, finding) {
	d := r.dial(ctx, ns, server, deadline)
	if d.conn == nil {
		if d.outcome == probes.Dropped {
			// The resolver did answer; that it is silent over TCP must not pass for silence.
			return reply{}, failed("the answer of the resolver %s was cut, and it cannot be reached over TCP", server.Addr())
		}
		return reply{}, d.finding
	}
	defer d.conn.Close()
	if err := d.conn.SetDeadline(deadline); err != nil {
		return reply{}, failed("%v", err)
	}
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	if _, err := d.conn.Write(framed); err != nil {
		return reply{}, failed("asking the resolver %s over TCP: %v", server.Addr(), err)
	}
	var size [2]byte
	if _, err := io.ReadFull(d.conn, size[:]); err != nil {
		return reply{}, failed("asking the resolver %s over TCP: %v", server.Addr(), err)
	}
	body := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(d.conn, body); err != nil {
		return reply{}, failed("asking the resolver %s over TCP: %v", server.Addr(), err)
	}
	got, ok := parseReply(body, id, name, kind)
	if !ok {
		return reply{}, failed("the resolver %s answered something else over TCP", server.Addr())
	}
	return got, finding{outcome: probes.Allowed}
}
