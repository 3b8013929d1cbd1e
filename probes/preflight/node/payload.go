package node

import (
	"strconv"
	"strings"
)

// magic begins every packet. Its first byte has not the bit that a VXLAN header
// must have, so that an overlay's port drops it.
const magic = "PTPF"

// payload is what a packet carries, followed by zeroes up to its size.
func payload(session string, round, from int) []byte {
	return []byte(magic + "/" + session + "/" + strconv.Itoa(round) + "/" + strconv.Itoa(from) + "\n")
}

func parsePayload(b []byte) (session string, round, from int, ok bool) {
	line, _, found := strings.Cut(string(b[:min(len(b), 128)]), "\n")
	rest, mine := strings.CutPrefix(line, magic+"/")
	parts := strings.Split(rest, "/")
	if !found || !mine || len(parts) != 3 {
		return "", 0, 0, false
	}
	round, err := strconv.Atoi(parts[1])
	from, err2 := strconv.Atoi(parts[2])
	return parts[0], round, from, err == nil && err2 == nil
}
