package compose

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const top = "../.."

// project is docker-compose.yml with what is laid over it, as the compose command
// itself reads it: against the schema, with every variable filled in.
func project(t *testing.T, over ...string) *types.Project {
	t.Helper()
	files := []string{filepath.Join(top, "docker-compose.yml")}
	for _, f := range over {
		files = append(files, filepath.Join(top, f))
	}
	o, err := cli.NewProjectOptions(files, cli.WithWorkingDirectory(top), cli.WithEnv([]string{"PORTCULLIS_VERSION=v1.2.3"}), cli.WithInterpolation(true), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func services(t *testing.T, p *types.Project, check func(t *testing.T, s types.ServiceConfig)) {
	t.Helper()
	for _, name := range p.ServiceNames() {
		t.Run(name, func(t *testing.T) { check(t, p.Services[name]) })
	}
}

func TestServices(t *testing.T) {
	want := []string{"grafana", "namespace", "portcullis", "postgres", "prometheus", "schema", "temporal", "temporal-ui"}
	names := project(t).ServiceNames()
	if slices.Sort(names); !slices.Equal(names, want) {
		t.Errorf("services %q, want %q", names, want)
	}
}

// It does not come up by chance with some other version.
func TestVersionIsAskedFor(t *testing.T) {
	o, err := cli.NewProjectOptions([]string{filepath.Join(top, "docker-compose.yml")}, cli.WithWorkingDirectory(top), cli.WithInterpolation(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.LoadProject(context.Background()); err == nil || !strings.Contains(err.Error(), "run make compose") {
		t.Errorf("without a version: %v", err)
	}
}

// pinned is a tag that names one release.
var pinned = regexp.MustCompile(`:v?\d+(\.\d+)+(-[a-z]+)?$`)

func TestImagesArePinned(t *testing.T) {
	services(t, project(t), func(t *testing.T, s types.ServiceConfig) {
		if !pinned.MatchString(s.Image) || s.Build != nil {
			t.Errorf("the image %q is not of one release", s.Image)
		}
	})
	p := project(t)
	_, server, _ := strings.Cut(p.Services["temporal"].Image, ":")
	for _, tools := range []string{"schema", "namespace"} {
		if _, v, _ := strings.Cut(p.Services[tools].Image, ":"); v != server {
			t.Errorf("%s is of %s, and the server of %s", tools, v, server)
		}
	}
	// The server that the tests run is the one of the image.
	mod, err := os.ReadFile(filepath.Join(top, "cmd", "portcullis-dev", "go.mod"))
	if err != nil || !strings.Contains(string(mod), "go.temporal.io/server v"+server+"\n") {
		t.Errorf("the embedded server is not %s: %v", server, err)
	}
}

// Only this machine reaches what is published, and nothing gets a right that it does
// not need.
func TestWhatContainersMay(t *testing.T) {
	ports := map[string]bool{}
	services(t, project(t), func(t *testing.T, s types.ServiceConfig) {
		for _, p := range s.Ports {
			if ip := net.ParseIP(p.HostIP); !ip.IsLoopback() {
				t.Errorf("port %s is published on %q", p.Published, p.HostIP)
			}
			if ports[p.Published] {
				t.Errorf("port %s is published twice", p.Published)
			}
			ports[p.Published] = true
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 || s.Privileged || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Error("it may more than run")
		}
		if s.NetworkMode != "" || s.Pid != "" || s.Ipc != "" || len(s.Devices) > 0 {
			t.Error("it is in a namespace of the machine, or has a device")
		}
		// Our own image has a user of its own, in numbers.
		if user, _, _ := strings.Cut(s.User, ":"); s.Name != "portcullis" && (user == "" || user == "0" || strings.Trim(user, "0123456789") != "") {
			t.Errorf("its user %q is not one without rights, in numbers", s.User)
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind && (!v.ReadOnly || strings.Contains(v.Source, "docker.sock")) {
				t.Errorf("it may write to %s", v.Source)
			}
		}
	})
	p := project(t)
	if !p.Networks["inside"].Internal {
		t.Error("the inner network has a way out")
	}
	if n := p.Services["postgres"].Networks; len(n) != 1 || len(p.Services["postgres"].Ports) > 0 {
		t.Errorf("the database is in %v", n)
	}
}

// made is what `make compose` writes into a folder of the test's, besides the
// variables that the file reads.
func made(t *testing.T) (dir, env string) {
	t.Helper()
	dir, env = filepath.Join(t.TempDir(), "secrets"), filepath.Join(t.TempDir(), "env")
	for range 2 { // the second time changes nothing
		before := contents(t, dir)
		out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", top, "compose", "SECRETS="+dir, "ENV_FILE="+env, "VERSION=v1.2.3").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if after := contents(t, dir); len(before) > 0 && !maps.Equal(before, after) {
			t.Error("make compose changes what is there")
		}
	}
	return dir, env
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

func TestMakeCompose(t *testing.T) {
	dir, env := made(t)
	b, err := os.ReadFile(env)
	if err != nil || string(b) != "PORTCULLIS_VERSION=v1.2.3\n" {
		t.Errorf("the variables are %q: %v", b, err)
	}
	seen := map[string]bool{}
	for _, name := range []string{"postgres_password", "grafana_password"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !regexp.MustCompile(`^[0-9a-f]{48}$`).Match(b) || seen[string(b)] {
			t.Errorf("%s is no password of its own: %v", name, err)
		}
		seen[string(b)] = true
	}
	for name, want := range map[string]os.FileMode{"": 0o700, "postgres_password": 0o644, "portcullis": 0o755, "portcullis/server.yaml": 0o644, "portcullis/rancher-token": 0o644} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%q: %v %v", name, fi, err)
		}
	}
}

// What is mounted is in the repository, or `make compose` makes it. The certificates
// alone are for people to bring.
func TestWhatIsMountedIsThere(t *testing.T) {
	secrets, err := filepath.Abs(filepath.Join(top, "deploy", "compose", "secrets"))
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := made(t)
	p := project(t, "deploy/compose/tls.yaml")
	files := map[string]string{}
	for name, s := range p.Secrets {
		files["the secret "+name] = s.File
	}
	for _, s := range p.Services {
		for _, v := range s.Volumes {
			switch {
			case v.Type == types.VolumeTypeVolume && p.Volumes[v.Source].Name == "":
				t.Errorf("%s: no volume %s", s.Name, v.Source)
			case v.Type == types.VolumeTypeBind:
				files[s.Name+" at "+v.Target] = v.Source
			}
			// Docker would make an empty folder of a file that was forgotten.
			if strings.HasPrefix(v.Source, secrets) && bool(v.Bind.CreateHostPath) {
				t.Errorf("%s: %s is made where it is not there", s.Name, v.Source)
			}
		}
		for _, x := range s.Secrets {
			if p.Secrets[x.Source].File == "" {
				t.Errorf("%s: no secret %s", s.Name, x.Source)
			}
		}
	}
	for who, file := range files {
		if file == filepath.Join(secrets, "tls") {
			continue
		}
		if rest, secret := strings.CutPrefix(file, secrets); secret {
			file = filepath.Join(dir, rest)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
}

// No value in the files is a secret: those come from files of their own.
func TestNoSecretsInTheOpen(t *testing.T) {
	services(t, project(t, "deploy/compose/tls.yaml"), func(t *testing.T, s types.ServiceConfig) {
		for name, value := range s.Environment {
			upper := strings.ToUpper(name)
			if value == nil || !strings.Contains(upper, "PASSWORD") && !strings.Contains(upper, "TOKEN") && !strings.Contains(upper, "SECRET") {
				continue
			}
			if !strings.HasPrefix(*value, "/run/secrets/") {
				t.Errorf("%s is given in the open", name)
			}
		}
	})
	ignored, err := os.ReadFile(".gitignore")
	if err != nil || !slices.Contains(strings.Split(string(ignored), "\n"), "/secrets/") {
		t.Errorf("the secrets are not kept out of Git: %v", err)
	}
}

// Each starts when what it needs is well, and everything that stays is looked after.
func TestHealthAndOrder(t *testing.T) {
	ends := []string{"schema", "namespace"}
	p := project(t)
	services(t, p, func(t *testing.T, s types.ServiceConfig) {
		once := slices.Contains(ends, s.Name)
		if (s.HealthCheck == nil) != once {
			t.Errorf("health check %+v", s.HealthCheck)
		}
		if !once && (s.HealthCheck.Interval == nil || s.HealthCheck.Timeout == nil || s.HealthCheck.Retries == nil || s.HealthCheck.Test[0] != "CMD") {
			t.Errorf("health check %+v", s.HealthCheck)
		}
		if want := map[bool]string{true: "on-failure:10", false: "unless-stopped"}[once]; s.Restart != want {
			t.Errorf("restart %q, want %q", s.Restart, want)
		}
		for name, d := range s.DependsOn {
			want := types.ServiceConditionHealthy
			if slices.Contains(ends, name) {
				want = types.ServiceConditionCompletedSuccessfully
			}
			if d.Condition != want {
				t.Errorf("it waits until %s is %s, want %s", name, d.Condition, want)
			}
		}
	})
	daemon := p.Services["portcullis"]
	if _, ok := daemon.DependsOn["namespace"]; !ok {
		t.Error("the daemon, which ends where there is no namespace, does not wait for it")
	}
	// There is no other program in the image.
	file := daemon.Environment["PORTCULLIS_CONFIG"]
	if test := daemon.HealthCheck.Test; !slices.Equal(test, types.HealthCheckTest{"CMD", "portcullis", "health"}) || file == nil || *file != "/etc/portcullis/server.yaml" {
		t.Errorf("the daemon's health check is %q", test)
	}
}

// The files name each other rightly: what one calls a thing the other finds.
func TestFilesAgree(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	mounted := func(p *types.Project, service, at string) string {
		for _, v := range p.Services[service].Volumes {
			if rest, found := strings.CutPrefix(at, v.Target+"/"); found {
				return filepath.Join(v.Source, rest)
			}
			if v.Target == at {
				return v.Source
			}
		}
		t.Errorf("%s has nothing at %s", service, at)
		return ""
	}
	p := project(t)
	for service, at := range map[string]string{
		"temporal": "/etc/temporal/portcullis/temporal.yaml", "schema": "/etc/temporal/portcullis/setup-schema.sh", "namespace": "/etc/temporal/portcullis/setup-namespace.sh",
		"prometheus": "/etc/portcullis-prometheus/prometheus.yaml", "grafana": "/etc/portcullis-dashboards/portcullis.json",
	} {
		s := p.Services[service]
		said := strings.Join(slices.Concat(s.Entrypoint, s.Command), " ") + read("deploy/grafana/provisioning/dashboards/portcullis.yaml")
		if !strings.Contains(said, at) && !strings.Contains(said, filepath.Dir(at)) {
			t.Errorf("%s does not read %s", service, at)
		}
		if _, err := os.Stat(mounted(p, service, at)); err != nil {
			t.Error(err)
		}
	}
	temporal := read("deploy/temporal/temporal.yaml")
	for _, want := range []string{"connectAddr: postgres:5432", "/run/secrets/postgres_password", "user: " + *p.Services["postgres"].Environment["POSTGRES_USER"], "filepath: /etc/temporal/portcullis/dynamicconfig.yaml"} {
		if !strings.Contains(temporal, want) {
			t.Errorf("temporal.yaml has no %q", want)
		}
	}
	if !strings.Contains(read("deploy/prometheus/prometheus.yaml"), `"portcullis:9464"`) || !strings.Contains(read("deploy/compose/server.yaml"), `listen: ":9464"`) {
		t.Error("Prometheus does not look where the daemon listens")
	}
	if !strings.Contains(read("deploy/grafana/provisioning/datasources/prometheus.yaml"), "http://prometheus:9090") {
		t.Error("Grafana does not look where Prometheus listens")
	}
	// Who talks to Temporal does so by TLS once that is laid over.
	over := project(t, "deploy/compose/tls.yaml")
	for service, name := range map[string]string{"temporal": "TEMPORAL_TLS_DIR", "namespace": "TEMPORAL_TLS_SERVER_CA_CERT_PATH", "temporal-ui": "TEMPORAL_TLS_CA", "portcullis": "PORTCULLIS_TEMPORAL_TLS_CA"} {
		value := over.Services[service].Environment[name]
		if value == nil {
			t.Errorf("%s has no %s", service, name)
			continue
		}
		mounted(over, service, cmp.Or(*value, "none"))
	}
}
