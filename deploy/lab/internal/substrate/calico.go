package substrate

import (
	"bytes"
	"fmt"

	"sigs.k8s.io/yaml"
)

type object = map[string]any

// calicoManifest takes Calico's own VXLAN manifest and changes what the lab
// needs otherwise: VXLAN also where two nodes share a network, which is every
// pair in the lab; the pool; and the node's address, for the first node of a
// cluster has the API server's too. Its probes ask Felix directly instead of
// starting a program in the container every few seconds, which costs a tenth of
// a core over all nodes. The kube-controllers, which only tidy up
// after deleted nodes, are left out.
func calicoManifest(src []byte, podCIDR string) ([]byte, error) {
	var out bytes.Buffer
	found := false
	for _, doc := range bytes.Split(src, []byte("\n---")) {
		var o object
		if err := yaml.Unmarshal(doc, &o); err != nil {
			return nil, err
		}
		if len(o) == 0 || belongsToControllers(o) {
			continue
		}
		if o["kind"] == "DaemonSet" {
			found = true
			if err := setNodeEnv(o, map[string]string{
				"CALICO_IPV4POOL_CIDR":    podCIDR,
				"CALICO_IPV4POOL_VXLAN":   "Always",
				"IP_AUTODETECTION_METHOD": "kubernetes-internal-ip",
				"CLUSTER_TYPE":            "k8s",
			}); err != nil {
				return nil, err
			}
			if err := probeDirectly(o); err != nil {
				return nil, err
			}
		}
		b, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		out.WriteString("---\n")
		out.Write(b)
	}
	if !found {
		return nil, fmt.Errorf("no DaemonSet in it")
	}
	return out.Bytes(), nil
}

func belongsToControllers(o object) bool {
	meta, _ := o["metadata"].(object)
	return meta["name"] == "calico-kube-controllers"
}

// setNodeEnv sets variables of the container calico-node.
func setNodeEnv(daemonSet object, set map[string]string) error {
	c, err := container(daemonSet, "calico-node")
	if err != nil {
		return err
	}
	old, _ := c["env"].([]any)
	var env []any
	for _, e := range old {
		v, ok := e.(object)
		if !ok {
			return fmt.Errorf("env entry %v is no object", e)
		}
		if n, _ := v["name"].(string); set[n] == "" {
			env = append(env, v)
		}
	}
	for _, n := range sortedKeys(set) {
		env = append(env, object{"name": n, "value": set[n]})
	}
	c["env"] = env
	return nil
}

// felixPort is where Felix tells about its health, on the node's loopback.
const felixPort = 9099

// probeDirectly replaces the probes that run a program in calico-node.
func probeDirectly(daemonSet object) error {
	c, err := container(daemonSet, "calico-node")
	if err != nil {
		return err
	}
	for field, path := range map[string]string{"livenessProbe": "/liveness", "readinessProbe": "/readiness"} {
		probe, ok := c[field].(object)
		if !ok {
			return fmt.Errorf("calico-node has no %s", field)
		}
		delete(probe, "exec")
		probe["httpGet"] = object{"host": "127.0.0.1", "port": felixPort, "path": path}
	}
	return nil
}

func container(daemonSet object, name string) (object, error) {
	at := daemonSet
	for _, f := range []string{"spec", "template", "spec"} {
		next, ok := at[f].(object)
		if !ok {
			return nil, fmt.Errorf("DaemonSet has no %s", f)
		}
		at = next
	}
	list, _ := at["containers"].([]any)
	for _, e := range list {
		if c, ok := e.(object); ok && c["name"] == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("DaemonSet has no container %s", name)
}
