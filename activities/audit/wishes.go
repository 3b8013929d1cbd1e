package audit

import (
	"crypto/sha256"
	"sync"

	"portcullis.dev/portcullis/rancher/drift"
)

// keptWishes bounds the manifests that are kept prepared. Clusters of an environment mostly have the same.
const keptWishes = 48

// wishes keeps manifests prepared for comparison, by their hash: the oldest goes first.
type wishes struct {
	mu    sync.Mutex
	kept  map[[sha256.Size]byte]*drift.Wish
	order [][sha256.Size]byte
}

func newWishes() *wishes { return &wishes{kept: map[[sha256.Size]byte]*drift.Wish{}} }

// decode reads a release, and prepares its manifest unless that is done.
func (w *wishes) decode(data []byte) (*drift.Release, *drift.Wish, error) {
	r, err := drift.DecodeRelease(data)
	if err != nil {
		return nil, nil, err
	}
	key := sha256.Sum256([]byte(r.Manifest))
	if wish := w.get(key); wish != nil {
		return r, wish, nil
	}
	objects, err := r.Objects()
	if err != nil {
		return nil, nil, err
	}
	wish := drift.NewWish(objects)
	w.put(key, wish)
	return r, wish, nil
}

func (w *wishes) get(key [sha256.Size]byte) *drift.Wish {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kept[key]
}

func (w *wishes) put(key [sha256.Size]byte, wish *drift.Wish) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kept[key] == nil {
		w.order = append(w.order, key)
	}
	w.kept[key] = wish
	if len(w.order) > keptWishes {
		delete(w.kept, w.order[0])
		w.order = w.order[1:]
	}
}
