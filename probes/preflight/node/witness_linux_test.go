package node

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portcullis.dev/portcullis/probes/preflight"
)

// awaiting is a witness of one free TCP port of this machine, and its address.
func awaiting(t *testing.T) (*witness, string) {
	t.Helper()
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	w := listen(t.Context(), &Request{Address: "127.0.0.1", Paths: []preflight.Path{{Protocol: "tcp", Port: port}}})
	t.Cleanup(w.close)
	if len(w.failed) > 0 {
		t.Fatal(w.failed)
	}
	return w, net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// Whoever keeps a connection open does not hold up the next round.
func TestWitnessDoesNotWaitForStrangers(t *testing.T) {
	w, address := awaiting(t)
	c, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	time.Sleep(50 * time.Millisecond)
	start := time.Now()
	w.close()
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

// Whoever opens connections without end does not use up the agent's files.
func TestWitnessKeepsSoManyConnections(t *testing.T) {
	_, address := awaiting(t)
	last := make([]byte, 1)
	for i := range maxHeld + 1 {
		c, err := net.Dial("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i < maxHeld {
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Read(last); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("one more than %d is kept: %v", maxHeld, err)
		}
	}
}

// A witness that cannot remember more cannot vouch for what it did not note.
func TestFullWitnessVouchesForNothing(t *testing.T) {
	path := preflight.Path{Protocol: "udp", Port: 4789}
	w := &witness{session: "0011", end: func() {}, paths: map[preflight.Path]int{path: 3}, failed: map[int]string{}, seen: map[sightKey]*Sighting{}}
	for i := range maxSeen {
		w.seen[sightKey{2, i}] = &Sighting{}
	}
	packet := append([]byte{0x45}, make([]byte, 27)...)
	binary.BigEndian.PutUint16(packet[22:], 4789)
	w.note(append(packet, payload("0011", 1, 7)...), unix.IPPROTO_UDP)
	seen, failed := w.collect(t.Context(), 1)
	if len(seen) > 0 || failed[3] == "" {
		t.Errorf("seen %v, failed %v", seen, failed)
	}
	if _, failed = w.collect(t.Context(), 1); failed[3] != "" {
		t.Errorf("it does not forget that it was full: %v", failed)
	}
}
