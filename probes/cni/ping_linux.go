package cni

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// pingRounds bounds how often a peer that did not answer is asked.
	pingRounds = 5
	// pingWait is how long answers to a round are waited for.
	pingWait = 600 * time.Millisecond
)

// ping asks every peer's tunnel address through the device. Answers may come
// through another one: which way the peer sends them is its own affair.
func (o *operation) ping(ctx context.Context) error {
	if _, err := vxlan(o.Device); err != nil {
		return err
	}
	p, err := openPinger(ctx, o.Device)
	if err != nil {
		return err
	}
	defer p.close()
	silent, err := p.ask(ctx, o.Peers)
	if err != nil {
		return err
	}
	if len(silent) == 0 {
		return nil
	}
	why := ""
	if err := p.failed[tunnel(silent[0])]; err != nil {
		why = fmt.Sprintf(" (sending to the first: %v)", err)
	}
	return fmt.Errorf("%d of %d peers do not answer through %s: %s%s", len(silent), len(o.Peers), o.Device, list5(silent), why)
}

// tunnel is the address of the peer's own VXLAN device.
func tunnel(peer netip.Prefix) netip.Addr { return peer.Masked().Addr() }

// pinger sends through one device, and receives from all.
type pinger struct {
	out, in net.PacketConn
	id      int
	failed  map[netip.Addr]error
}

func openPinger(ctx context.Context, device string) (*pinger, error) {
	bound := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }), err)
	}}
	out, err := bound.ListenPacket(ctx, "ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, fmt.Errorf("cannot send through %s (the migrator needs NET_RAW): %w", device, err)
	}
	in, err := (&net.ListenConfig{}).ListenPacket(ctx, "ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot receive ICMP: %w", err), out.Close())
	}
	return &pinger{out: out, in: in, id: rand.IntN(1 << 16), failed: map[netip.Addr]error{}}, nil
}

func (p *pinger) close() {
	_ = p.out.Close()
	_ = p.in.Close()
}

// ask returns the peers that did not answer.
func (p *pinger) ask(ctx context.Context, peers []netip.Prefix) (silent []netip.Prefix, err error) {
	waiting := make(map[netip.Addr]bool, len(peers))
	for _, peer := range peers {
		waiting[tunnel(peer)] = true
	}
	for round := 0; round < pingRounds && len(waiting) > 0 && ctx.Err() == nil; round++ {
		for to := range waiting {
			p.failed[to] = p.send(to, round)
		}
		until := time.Now().Add(pingWait)
		if end, ok := ctx.Deadline(); ok && end.Before(until) {
			until = end
		}
		if err := p.receive(ctx, waiting, until); err != nil {
			return nil, err
		}
	}
	for _, peer := range peers {
		if waiting[tunnel(peer)] {
			silent = append(silent, peer)
		}
	}
	return silent, nil
}

func (p *pinger) send(to netip.Addr, round int) error {
	packet, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: round, Data: []byte("portcullis")}}).Marshal(nil)
	if err != nil {
		return err
	}
	_, err = p.out.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()})
	return err
}

// receive takes answers until all have come, or the time is up.
func (p *pinger) receive(ctx context.Context, waiting map[netip.Addr]bool, until time.Time) error {
	stop := context.AfterFunc(ctx, func() { _ = p.in.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := p.in.SetReadDeadline(until); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for len(waiting) > 0 && ctx.Err() == nil {
		n, from, err := p.in.ReadFrom(buffer)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot receive ICMP: %w", err)
		}
		if a, ok := p.answer(buffer[:n], from); ok {
			delete(waiting, a)
		}
	}
	return nil
}

func (p *pinger) answer(packet []byte, from net.Addr) (netip.Addr, bool) {
	message, err := icmp.ParseMessage(1, packet)
	if err != nil || message.Type != ipv4.ICMPTypeEchoReply {
		return netip.Addr{}, false
	}
	echo, ok := message.Body.(*icmp.Echo)
	ip, isIP := from.(*net.IPAddr)
	if !ok || !isIP || echo.ID != p.id {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(ip.IP)
	return a.Unmap(), ok
}
