package world

import (
	_ "embed"
	"fmt"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"portcullis.dev/portcullis/deploy/lab/internal/fleetlab"
	"portcullis.dev/portcullis/deploy/lab/internal/rancherd"
)

//go:embed pipeline.yaml
var pipelineYAML []byte

// WriteConfig writes what Portcullis is started and driven with on a lab:
// portcullis.yaml and pipeline.yaml.
func WriteConfig(stateDir, portcullisImage string) error {
	server, err := serverConfig(stateDir, portcullisImage)
	if err != nil {
		return err
	}
	if err := rancherd.WriteFile(filepath.Join(stateDir, "pipeline.yaml"), pipelineYAML, 0o644); err != nil {
		return err
	}
	return rancherd.WriteFile(filepath.Join(stateDir, "portcullis.yaml"), server, 0o644)
}

func serverConfig(stateDir, image string) ([]byte, error) {
	files := rancherd.In(stateDir)
	type section = map[string]string
	b, err := yaml.Marshal(map[string]section{
		"rancher": {
			"url": rancherd.URL, "tokenFile": files.Token(), "caFile": files.CACert(), "workspace": fleetlab.Workspace,
		},
		"temporal": {"address": "127.0.0.1:7233", "namespace": "default", "taskQueue": "portcullis"},
		"agent":    {"image": image, "namespace": "portcullis-system", "pullPolicy": "Never"},
		"git":      {"cacheDir": filepath.Join(stateDir, "git-cache")},
		"log":      {"level": "info", "format": "text"},
	})
	if err != nil {
		return nil, fmt.Errorf("server configuration: %w", err)
	}
	return b, nil
}
