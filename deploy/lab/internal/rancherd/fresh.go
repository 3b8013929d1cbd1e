package rancherd

import (
	"os"
	"sync"
)

// fresh is what a file says, read again when it was replaced or changed. While
// the file is not there or cannot be read, that is T's zero value.
type fresh[T any] struct {
	path string
	read func(path string) (T, error)

	mu    sync.Mutex
	stamp os.FileInfo
	value T
}

func (f *fresh[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	var none T
	info, err := os.Stat(f.path)
	if err != nil {
		f.value, f.stamp = none, nil
		return none
	}
	if f.stamp == nil || !os.SameFile(info, f.stamp) || !info.ModTime().Equal(f.stamp.ModTime()) || info.Size() != f.stamp.Size() {
		f.stamp = info
		if f.value, err = f.read(f.path); err != nil {
			f.value = none
		}
	}
	return f.value
}
