package substrate

import (
	"bytes"
	"fmt"
	"regexp"

	"portcullis.dev/portcullis/deploy/lab/internal/image"
)

// canalNetwork is the pods' network in Canal's manifest.
const canalNetwork = `"Network": "10.244.0.0/16"`

var flannelImage = regexp.MustCompile(`(?m)image: docker\.io/flannel/flannel:\S+$`)

// canalManifest takes Calico's own Canal manifest as it is, word for word, but
// for the network and the version of flannel.
func canalManifest(src []byte, podCIDR string) ([]byte, error) {
	if n := bytes.Count(src, []byte(canalNetwork)); n != 1 {
		return nil, fmt.Errorf("%s is in it %d times, want once", canalNetwork, n)
	}
	if n := len(flannelImage.FindAll(src, -1)); n != 1 {
		return nil, fmt.Errorf("flannel's image is in it %d times, want once", n)
	}
	out := bytes.Replace(src, []byte(canalNetwork), fmt.Appendf(nil, `"Network": %q`, podCIDR), 1)
	return flannelImage.ReplaceAll(out, []byte("image: "+image.Flannel)), nil
}
