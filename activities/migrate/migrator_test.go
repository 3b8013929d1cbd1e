package migrate

import (
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/verify"
	"portcullis.dev/portcullis/probes/cni"
	"portcullis.dev/portcullis/probes/migration"
	"portcullis.dev/portcullis/rancher"
)

// A person removes the node agents while a cluster migrates, and with them the namespace in
// which the migrator is. Every step that is made or taken back then makes it again.
func TestTheNodeAgentsAreRemovedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := course(2)
		was := stages(t, newWorld(t, 2), all)
		remove := func(w *world) {
			agents := verify.New(verify.Config{Image: "image:1"}, w)
			go func() {
				err := agents.RemoveAgent(t.Context(), verify.AgentInput{Cluster: rancher.Cluster{ID: "c-1", Name: "dev"}, Timeout: time.Minute})
				if err != nil {
					t.Error(err)
				}
			}()
			// It is being deleted by now, and is not gone yet.
			time.Sleep(time.Second)
		}
		for i, d := range all {
			w := was[i].clone()
			remove(w)
			mustDo(t, w, d)
			time.Sleep(time.Minute)
			w = was[i+1].clone()
			if d.step == migration.Clean {
				continue
			}
			remove(w)
			mustUndo(t, w, d)
			time.Sleep(time.Minute)
		}
		// And all the way with it gone before every step.
		w := was[0].clone()
		for _, d := range all {
			remove(w)
			time.Sleep(time.Minute)
			mustDo(t, w, d)
		}
		mustBe(t, "migrated while the agents were removed", was[len(all)].snapshot(), w, "v1|Namespace")
	})
}

// endless is a node that never stops to answer.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestAnAnswerHasABound(t *testing.T) {
	var out bounded
	n, err := io.Copy(&out, endless{})
	if err == nil || n > maxReply || out.buf.Len() > maxReply {
		t.Errorf("took %d bytes, error %v; want an error and at most %d", n, err, maxReply)
	}
}

// The migrator has what it needs and no more, and this says what that is.
func TestMigratorIsNoMorePrivilegedThanItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.activities(t)
		a.config.ImagePullSecrets, a.config.PullPolicy = []string{"registry"}, "Always"
		if _, err := a.Do(t.Context(), at(t, migration.Begin, "")); err != nil {
			t.Fatal(err)
		}
		c, err := a.connect("c-1")
		if err != nil {
			t.Fatal(err)
		}
		ds, err := c.kube.AppsV1().DaemonSets(verify.DefaultNamespace).Get(t.Context(), migratorName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		spec := ds.Spec.Template.Spec
		container := spec.Containers[0]
		sc := container.SecurityContext
		var folders []string
		for _, v := range spec.Volumes {
			folders = append(folders, v.HostPath.Path)
		}
		switch {
		case !slices.Equal(folders, []string{"/etc/cni/net.d", "/var/lib/cni/networks", "/var/lib/portcullis", "/run/flannel"}):
			t.Errorf("it mounts %v", folders)
		case len(container.Ports) != 0 || *spec.AutomountServiceAccountToken || spec.ServiceAccountName != "":
			t.Error("it has a port, or a token")
		case *sc.Privileged || *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem:
			t.Errorf("%+v", sc)
		case !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
			!slices.Equal(sc.Capabilities.Add, []corev1.Capability{"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "SYS_CHROOT", "DAC_OVERRIDE", "FOWNER", "CHOWN"}):
			t.Errorf("%+v", sc.Capabilities)
		case container.ImagePullPolicy != corev1.PullAlways || spec.ImagePullSecrets[0].Name != "registry":
			t.Errorf("%+v", container)
		}
	})
}

// A daemon of another release asks only migrators of its own.
func TestMigratorOfAnotherRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		mustDo(t, w, deed{migration.Begin, ""})
		a := w.activities(t)
		a.config.Image = "image:2"
		if _, err := a.Do(t.Context(), at(t, migration.Tunnels, "")); err != nil {
			t.Fatal(err)
		}
		for _, u := range w.of("Pod") {
			if u.GetLabels()["set"] == migratorName && u.Object["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["image"] != "image:2" {
				t.Errorf("%s has the old image", u.GetName())
			}
		}
	})
}

// What is awaited is named when the time is over, and a node that is away is waited for
// only where it is needed.
func TestMigratorThatDoesNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.shut[migratorName] = true
		_, err := do(t, w, deed{migration.Begin, ""})
		if errs.TypeOf(err) != errs.TypeDeadline || errs.Message(err) != "cluster dev: migrator: not within 1m0s: the migrator on n0" {
			t.Errorf("%v", err)
		}
		// Nothing was kept yet, and all of it goes.
		before := newWorld(t, 2).snapshot()
		mustUndo(t, w, deed{migration.Begin, ""})
		mustBe(t, "undo begin", before, w)
	})
}

// A node that broke down for good keeps nobody from the end of the way back.
func TestNodesThatAreAwayKeepTheirCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		mustDo(t, w, deed{migration.Begin, ""})
		w.mu.Lock()
		n := w.objects[kindOf("v1", "Node").key("", "n1")]
		n.Object["status"].(map[string]any)["conditions"].([]any)[0].(map[string]any)["status"] = "Unknown"
		w.mu.Unlock()
		out, err := undo(t, w, deed{migration.Begin, ""})
		if err != nil || len(out.Evidence) != 1 {
			t.Fatalf("%+v %v", out, err)
		}
		if w.nodes["n0"].saved[testMigration] != nil || w.nodes["n1"].saved[testMigration] == nil {
			t.Error("the copies are not as they must be")
		}
		if slices.Contains(w.ops, cni.OpRestore) {
			t.Error("it restored something")
		}
	})
}
