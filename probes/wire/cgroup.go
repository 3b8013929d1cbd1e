package wire

import (
	"bytes"
	"strings"
)

// podOf returns the UID of the pod that a process belongs to, from the text of
// its /proc/<pid>/cgroup, or "" for a process of no pod.
//
// It reads both spellings that kubelet uses, cgroupfs (pod<uid>) and systemd
// (kubepods-burstable-pod<uid with underscores>.slice), of either cgroup version.
// Paths may be relative (/../../pod<uid>/...), as they are seen from inside a
// cgroup namespace. Where pods run inside pods, the innermost one counts.
func podOf(cgroup []byte) string {
	for line := range bytes.Lines(cgroup) {
		// hierarchy-ID:controller-list:path; the path may itself contain colons.
		fields := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if uid := podInPath(fields[2]); uid != "" {
			return uid
		}
	}
	return ""
}

func podInPath(path string) string {
	segments := strings.Split(path, "/")
	for i := len(segments) - 1; i >= 0; i-- {
		if uid := podInSegment(segments[i]); uid != "" {
			return uid
		}
	}
	return ""
}

func podInSegment(s string) string {
	if uid, ok := strings.CutPrefix(s, "pod"); ok && validUID(uid) {
		return uid
	}
	slice, ok := strings.CutSuffix(s, ".slice")
	if !ok {
		return ""
	}
	i := strings.LastIndex(slice, "-pod")
	if i < 0 {
		return ""
	}
	if uid := strings.ReplaceAll(slice[i+len("-pod"):], "_", "-"); validUID(uid) {
		return uid
	}
	return ""
}

// validUID tells whether s is a pod's UID: a UUID, or for a static pod the 32
// hex digits of its configuration's hash.
func validUID(s string) bool {
	switch len(s) {
	case 32:
		return isHex(s)
	case 36:
		return s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' &&
			isHex(s[:8]) && isHex(s[9:13]) && isHex(s[14:18]) && isHex(s[19:23]) && isHex(s[24:])
	}
	return false
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
