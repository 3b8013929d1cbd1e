//go:build linux

package wire

import (
	"os"
	"strings"
	"testing"
)

// A witness that cannot remember more cannot vouch for what it did not note.
func TestFullWitnessVouchesForNothing(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	w := &witness{session: "0011", failed: map[string]string{}, sockets: []watch{{"pod", file}}, seen: map[sighting]bool{}}
	t.Cleanup(w.close)
	for i := range maxSeen {
		w.seen[sighting{i + 2, "other"}] = true
	}
	packet := append([]byte{0x45}, make([]byte, 27)...)
	w.note(append(packet, payload("0011", 1, "7")...))
	seen, failed := w.collect(t.Context(), 1)
	if len(seen) > 0 || !strings.Contains(failed["pod"], "more than it can remember") {
		t.Errorf("seen %v, failed %v", seen, failed)
	}
	if _, failed = w.collect(t.Context(), 1); strings.Contains(failed["pod"], "remember") {
		t.Errorf("it does not forget that it was full: %v", failed)
	}
}
