package policies

import "testing/fstest"

func mapFS(tree map[string][]byte) fstest.MapFS {
	m := make(fstest.MapFS, len(tree))
	for p, b := range tree {
		m[p] = &fstest.MapFile{Data: b, Mode: 0o644}
	}
	return m
}
