package rancher

import "sync"

// notifier wakes those who wait for a change of one GitRepo or of what belongs
// to it. A wake-up says only "look again": several may become one, none is lost.
type notifier struct {
	mu      sync.Mutex
	waiters map[string]map[chan struct{}]struct{}
}

func newNotifier() *notifier {
	return &notifier{waiters: map[string]map[chan struct{}]struct{}{}}
}

// watch returns a channel that receives after each change of key, and how to stop.
func (n *notifier) watch(key string) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiters[key] == nil {
		n.waiters[key] = map[chan struct{}]struct{}{}
	}
	n.waiters[key][ch] = struct{}{}
	return ch, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.waiters[key], ch)
		if len(n.waiters[key]) == 0 {
			delete(n.waiters, key)
		}
	}
}

func (n *notifier) changed(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	poke(n.waiters[key])
}

// changedAny wakes everyone, for a change of which it is not known whose it is.
func (n *notifier) changedAny() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, set := range n.waiters {
		poke(set)
	}
}

func poke(set map[chan struct{}]struct{}) {
	for ch := range set {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
