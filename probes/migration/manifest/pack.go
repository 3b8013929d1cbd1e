package manifest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
)

// maxPacked bounds a packed manifest, in bytes: it travels in a workflow's input.
const maxPacked = 512 << 10

// Pack compresses a manifest's text with gzip.
func Pack(text []byte) ([]byte, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("the manifest is larger than %d MiB", maxText>>20)
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if b.Len() > maxPacked {
		return nil, fmt.Errorf("the manifest is %d KiB when compressed, and may be %d", b.Len()>>10, maxPacked>>10)
	}
	return b.Bytes(), nil
}

// Unpack gives back the text.
func Unpack(packed []byte) ([]byte, error) {
	if len(packed) > maxPacked {
		return nil, fmt.Errorf("the manifest is %d KiB when compressed, and may be %d", len(packed)>>10, maxPacked>>10)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("the manifest is not compressed with gzip: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxText+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the manifest cannot be decompressed: %w", err)
	case len(text) > maxText:
		return nil, fmt.Errorf("the manifest is larger than %d MiB", maxText>>20)
	}
	return text, nil
}

// Open unpacks and reads a manifest.
func Open(packed []byte) (*Manifest, error) {
	text, err := Unpack(packed)
	if err != nil {
		return nil, err
	}
	return Read(text)
}
