package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	product "portcullis.dev/portcullis/deploy/image"
	"portcullis.dev/portcullis/deploy/lab/internal/component"
)

// References of the images that a cluster is made of.
const (
	Pause      = "registry.k8s.io/pause:3.9"
	CoreDNS    = "registry.k8s.io/coredns/coredns:" + component.CoreDNSVersion
	CalicoNode = "docker.io/calico/node:" + component.CalicoVersion
	CalicoCNI  = "docker.io/calico/cni:" + component.CalicoVersion
	// CalicoControllers tidies up after nodes and pods that are gone.
	CalicoControllers = "docker.io/calico/kube-controllers:" + component.CalicoVersion
	// FlannelMigration is Calico's own way from Canal, to compare with.
	FlannelMigration = "docker.io/calico/flannel-migration-controller:" + component.CalicoVersion
	Flannel          = "docker.io/flannel/flannel:" + component.FlannelVersion
	Fleet            = "docker.io/rancher/fleet:" + component.FleetVersion
	FleetAgent       = "docker.io/rancher/fleet-agent:" + component.FleetVersion
)

// CrashingCalico and HangingCalico are CalicoNode with a start that ends at once
// and one that never comes to its end. Canal, which is the same image with
// another setting, starts with them as ever: a fault puts one in CalicoNode's place.
const (
	CrashingCalico = "portcullis.dev/lab-crashing-calico-node:" + component.CalicoVersion
	HangingCalico  = "portcullis.dev/lab-hanging-calico-node:" + component.CalicoVersion
)

// WorkloadName is the name of the sample programs' image; its tag is the hash of
// the program in it.
const WorkloadName = "portcullis.dev/lab-workload"

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// cniPlugins are Debian's, beside Calico's own.
var cniPlugins = []string{"bandwidth", "host-local", "loopback", "portmap", "tuning"}

// CNIPluginDir is where Debian's containernetworking-plugins puts them.
const CNIPluginDir = "/usr/lib/cni"

// ClusterSet assembles the images that do not change with the repository.
// programs holds each component's folder, by name; pause is the pause program.
func ClusterSet(cache string, base Layer, programs map[string]string, pause string) ([]Image, error) {
	b := &builder{dir: filepath.Join(cache, "layers")}
	images := []Image{
		b.image(Pause, Config{Entrypoint: []string{"/pause"}, User: "65535"}, nil, File{Path: "pause", Source: pause}),
		b.image(CoreDNS, Config{Entrypoint: []string{"/coredns"}}, nil, File{Path: "coredns", Source: filepath.Join(programs["coredns"], "coredns")}),
		b.image(Flannel, Config{Entrypoint: []string{"/opt/bin/flanneld"}, Env: []string{path}}, &base,
			File{Path: "opt/bin/flanneld", Source: filepath.Join(programs["flannel"], "flanneld")}),
	}
	images = append(images, b.calico(base, programs["calico"], filepath.Join(programs["kubernetes"], "kubernetes"))...)
	images = append(images, b.fleet(base, programs["fleet"])...)
	return images, b.err
}

// calico are Calico's images from its component's folder. kubectl is what the
// migration controller drains with; it takes that name.
func (b *builder) calico(base Layer, dir, kubectl string) []Image {
	nodeFiles, err := calicoFilesystem(filepath.Join(dir, "filesystem"))
	if err != nil {
		b.err = err
		return nil
	}
	// The file takes the place of Calico's own.
	const allocate = "etc/service/available/allocate-tunnel-addrs/run"
	nodeFiles = slices.DeleteFunc(nodeFiles, func(f File) bool { return f.Path == allocate })
	nodeFiles = append(nodeFiles,
		File{Path: "usr/bin/calico-node", Source: filepath.Join(dir, "calico-node")},
		// The manifests' probes use this path.
		File{Path: "bin/calico-node", Link: "/usr/bin/calico-node"},
		File{Path: allocate, Content: []byte(allocateTunnelAddrs)})
	cniFiles := []File{
		{Path: "opt/cni/bin/install", Source: filepath.Join(dir, "install")},
		{Path: "opt/cni/bin/calico", Source: filepath.Join(dir, "calico")},
		{Path: "opt/cni/bin/calico-ipam", Source: filepath.Join(dir, "calico")},
		{Path: "tmp", Dir: true, Mode: 0o1777},
	}
	for _, p := range cniPlugins {
		cniFiles = append(cniFiles, File{Path: "opt/cni/bin/" + p, Source: filepath.Join(CNIPluginDir, p)})
	}
	controllerFiles := []File{
		{Path: "usr/bin/kube-controllers", Source: filepath.Join(dir, "kube-controllers")},
		{Path: "usr/bin/check-status", Source: filepath.Join(dir, "check-status")},
		// The two tell each other by files there, as a user without rights.
		{Path: "status", Dir: true, Mode: 0o777},
		{Path: "profiles", Dir: true, Mode: 0o777},
		{Path: "tmp", Dir: true, Mode: 0o1777},
	}
	controllers := Config{Entrypoint: []string{"/usr/bin/kube-controllers"}, User: "999", Env: []string{path}}
	node := b.image(CalicoNode, Config{Cmd: []string{"start_runit"}, Env: []string{path, "SVDIR=/etc/service/enabled"}}, &base, nodeFiles...)
	start := filepath.Join(dir, "filesystem", "sbin", "start_runit")
	return []Image{
		node,
		b.image(CalicoCNI, Config{Entrypoint: []string{"/opt/cni/bin/install"}, Env: []string{path + ":/opt/cni/bin"}}, nil, cniFiles...),
		b.image(CalicoControllers, controllers, nil, controllerFiles...),
		b.image(FlannelMigration, controllers, nil, append(controllerFiles, File{Path: "usr/bin/kubectl", Source: kubectl})...),
		b.broken(CrashingCalico, node, start, "echo 'the lab lets Calico crash' >&2; exit 1"),
		b.broken(HangingCalico, node, start, "echo 'the lab lets Calico hang' >&2; exec sleep infinity"),
	}
}

// allocateTunnelAddrs waits in the shell where Calico has nothing to do: its
// program, built without C, is ended by Go's runtime for waiting for nothing, and
// would be started again every second.
const allocateTunnelAddrs = `#!/bin/sh
exec 2>&1
[ "$USE_POD_CIDR" = true ] && exec sleep infinity
exec calico-node -allocate-tunnel-addrs
`

// broken is a Calico node image whose start does something else where Calico is
// the network itself, which it is not in Canal.
func (b *builder) broken(ref string, node Image, start, instead string) Image {
	script := "#!/bin/sh\n[ \"$CALICO_NETWORKING_BACKEND\" = none ] && exec start_runit_whole\n" + instead + "\n"
	img := b.image(ref, node.Config, nil,
		File{Path: "sbin/start_runit", Content: []byte(script)},
		File{Path: "sbin/start_runit_whole", Source: start})
	img.Layers = append(slices.Clone(node.Layers), img.Layers...)
	return img
}

// fleet are Fleet's images from its component's folder.
func (b *builder) fleet(base Layer, dir string) []Image {
	return []Image{
		b.image(Fleet, Config{Entrypoint: []string{"tini", "--"}, Cmd: []string{"fleetcontroller"}, User: "1000", Env: []string{path}}, &base,
			File{Path: "usr/bin/fleetcontroller", Source: filepath.Join(dir, "fleetcontroller")},
			File{Path: "usr/bin/fleet", Source: filepath.Join(dir, "fleetcli")},
			File{Path: "usr/bin/log.sh", Source: filepath.Join(dir, "package", "log.sh")}),
		b.image(FleetAgent, Config{Cmd: []string{"fleetagent"}, User: "1000", Env: []string{path}}, nil,
			File{Path: "usr/bin/fleetagent", Source: filepath.Join(dir, "fleetagent")},
			File{Path: "etc/ssl/certs/ca-certificates.crt", Source: caBundle, Mode: 0o644},
			File{Path: "tmp", Dir: true, Mode: 0o1777}),
	}
}

// caBundle is the machine's set of public authorities.
const caBundle = "/etc/ssl/certs/ca-certificates.crt"

// Portcullis is the image of the product, as `make image` makes it, in a file to import.
func Portcullis(cache, program string) (ref, file string, err error) {
	img, err := product.Build(product.Options{Program: program, Architecture: runtime.GOARCH, Version: "lab"})
	if err != nil {
		return "", "", err
	}
	sum, err := img.Digest()
	if err != nil {
		return "", "", err
	}
	idx, err := product.Index(img)
	if err != nil {
		return "", "", err
	}
	ref = product.Name + ":" + sum.Hex[:12]
	file, err = ensureArchive(cache, ref, func(path string) error { return product.WriteOCI(path, ref, idx) })
	return ref, file, err
}

// Workload is the image of the sample programs that talk to each other, in a file to import.
func Workload(cache, program string) (ref, file string, err error) {
	b := builder{dir: filepath.Join(cache, "layers")}
	img := b.image(WorkloadName, Config{Entrypoint: []string{"/workload"}, User: "65532:65532", Env: []string{path}}, nil,
		File{Path: "workload", Source: program},
		File{Path: "tmp", Dir: true, Mode: 0o1777})
	if b.err != nil {
		return "", "", b.err
	}
	sum, err := fileHash(program)
	if err != nil {
		return "", "", err
	}
	img.Ref += ":" + sum[:12]
	file, err = ensureArchive(cache, img.Ref, func(path string) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		return errors.Join(WriteArchive(f, []Image{img}), f.Close())
	})
	return img.Ref, file, err
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
