package image

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"portcullis.dev/portcullis/deploy/lab/internal/component"
)

// References of the images that a cluster is made of.
const (
	Pause      = "registry.k8s.io/pause:3.9"
	CoreDNS    = "registry.k8s.io/coredns/coredns:" + component.CoreDNSVersion
	CalicoNode = "docker.io/calico/node:" + component.CalicoVersion
	CalicoCNI  = "docker.io/calico/cni:" + component.CalicoVersion
	Fleet      = "docker.io/rancher/fleet:" + component.FleetVersion
	FleetAgent = "docker.io/rancher/fleet-agent:" + component.FleetVersion
)

// PortcullisName and WorkloadName are the names of the repository's own images;
// their tags are the hashes of the programs in them.
const (
	PortcullisName = "portcullis.dev/portcullis"
	WorkloadName   = "portcullis.dev/lab-workload"
)

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// cniPlugins are Debian's, beside Calico's own.
var cniPlugins = []string{"bandwidth", "host-local", "loopback", "portmap", "tuning"}

// CNIPluginDir is where Debian's containernetworking-plugins puts them.
const CNIPluginDir = "/usr/lib/cni"

// ClusterSet assembles the images that do not change with the repository.
// programs holds each component's folder, by name; pause is the pause program.
func ClusterSet(cache string, base Layer, programs map[string]string, pause string) ([]Image, error) {
	b := builder{dir: filepath.Join(cache, "layers")}
	calico, fleet := programs["calico"], programs["fleet"]
	nodeFiles, err := calicoFilesystem(filepath.Join(calico, "filesystem"))
	if err != nil {
		return nil, err
	}
	nodeFiles = append(nodeFiles,
		File{Path: "usr/bin/calico-node", Source: filepath.Join(calico, "calico-node")},
		// The manifests' probes use this path.
		File{Path: "bin/calico-node", Link: "/usr/bin/calico-node"})
	cniFiles := []File{
		{Path: "opt/cni/bin/install", Source: filepath.Join(calico, "install")},
		{Path: "opt/cni/bin/calico", Source: filepath.Join(calico, "calico")},
		{Path: "opt/cni/bin/calico-ipam", Source: filepath.Join(calico, "calico")},
		{Path: "tmp", Dir: true, Mode: 0o1777},
	}
	for _, p := range cniPlugins {
		cniFiles = append(cniFiles, File{Path: "opt/cni/bin/" + p, Source: filepath.Join(CNIPluginDir, p)})
	}
	images := []Image{
		b.image(Pause, Config{Entrypoint: []string{"/pause"}, User: "65535"}, nil, File{Path: "pause", Source: pause}),
		b.image(CoreDNS, Config{Entrypoint: []string{"/coredns"}}, nil, File{Path: "coredns", Source: filepath.Join(programs["coredns"], "coredns")}),
		b.image(CalicoNode, Config{Cmd: []string{"start_runit"}, Env: []string{path, "SVDIR=/etc/service/enabled"}}, &base, nodeFiles...),
		b.image(CalicoCNI, Config{Entrypoint: []string{"/opt/cni/bin/install"}, Env: []string{path + ":/opt/cni/bin"}}, nil, cniFiles...),
		b.image(Fleet, Config{Entrypoint: []string{"tini", "--"}, Cmd: []string{"fleetcontroller"}, User: "1000", Env: []string{path}}, &base,
			File{Path: "usr/bin/fleetcontroller", Source: filepath.Join(fleet, "fleetcontroller")},
			File{Path: "usr/bin/fleet", Source: filepath.Join(fleet, "fleetcli")},
			File{Path: "usr/bin/log.sh", Source: filepath.Join(fleet, "package", "log.sh")}),
		b.image(FleetAgent, Config{Cmd: []string{"fleetagent"}, User: "1000", Env: []string{path}}, nil,
			File{Path: "usr/bin/fleetagent", Source: filepath.Join(fleet, "fleetagent")},
			File{Path: "etc/ssl/certs/ca-certificates.crt", Source: caBundle, Mode: 0o644},
			File{Path: "tmp", Dir: true, Mode: 0o1777}),
	}
	return images, b.err
}

// caBundle is the machine's set of public authorities.
const caBundle = "/etc/ssl/certs/ca-certificates.crt"

// Portcullis is the image of the product: one static program, no root by default.
func Portcullis(cache, program string) (Image, error) {
	b := builder{dir: filepath.Join(cache, "layers")}
	img := b.image(PortcullisName, Config{Entrypoint: []string{"portcullis"}, User: "65532:65532", Env: []string{path}, WorkingDir: "/"}, nil,
		File{Path: "usr/bin/portcullis", Source: program},
		File{Path: "etc/ssl/certs/ca-certificates.crt", Source: caBundle, Mode: 0o644},
		File{Path: "etc/passwd", Content: []byte("root:x:0:0:root:/:/sbin/nologin\nportcullis:x:65532:65532:portcullis:/:/sbin/nologin\n"), Mode: 0o644},
		File{Path: "tmp", Dir: true, Mode: 0o1777})
	return tagged(img, program, b.err)
}

// Workload is the image of the sample programs that talk to each other.
func Workload(cache, program string) (Image, error) {
	b := builder{dir: filepath.Join(cache, "layers")}
	img := b.image(WorkloadName, Config{Entrypoint: []string{"/workload"}, User: "65532:65532", Env: []string{path}}, nil,
		File{Path: "workload", Source: program},
		File{Path: "tmp", Dir: true, Mode: 0o1777})
	return tagged(img, program, b.err)
}

func tagged(img Image, program string, err error) (Image, error) {
	if err != nil {
		return Image{}, err
	}
	sum, err := fileHash(program)
	img.Ref += ":" + sum[:min(12, len(sum))]
	return img, err
}

// builder keeps the first error, so that a list of images reads as a list.
type builder struct {
	dir string
	err error
}

func (b *builder) image(ref string, cfg Config, base *Layer, files ...File) Image {
	if b.err != nil {
		return Image{}
	}
	l, err := BuildLayer(b.dir, files)
	if err != nil {
		b.err = fmt.Errorf("image %s: %w", ref, err)
		return Image{}
	}
	img := Image{Ref: ref, Config: cfg}
	if base != nil {
		img.Layers = append(img.Layers, *base)
	}
	img.Layers = append(img.Layers, l)
	return img
}

// calicoFilesystem are the scripts of Calico's own image. The module cache
// keeps no execute bits, and all but the settings are run.
func calicoFilesystem(root string) ([]File, error) {
	var out []File
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		out = append(out, File{Path: filepath.ToSlash(rel), Source: p})
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s is empty", root)
	}
	return out, err
}

func fileHash(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return hashReader(f)
}
