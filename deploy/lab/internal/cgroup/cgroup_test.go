package cgroup

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want []mount
	}{
		"unified": {"cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", []mount{{"/sys/fs/cgroup", true}}},
		"hybrid": {
			"tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
			[]mount{{"/sys/fs/cgroup/cpu", false}, {"/sys/fs/cgroup/unified", true}},
		},
		"elsewhere": {"cgroup2 /run/calico/cgroup cgroup2 rw 0 0\n", nil},
	} {
		got, err := parse(strings.NewReader(tc.in))
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v %v, want %v", name, got, err, tc.want)
		}
	}
}
