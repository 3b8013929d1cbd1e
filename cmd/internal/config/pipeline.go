package config

import (
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portcullis.dev/portcullis/probes"
	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

// LoadPipeline reads, completes and validates a pipeline file. What is wrong in
// the file comes as Errors; other errors are about reading it.
func LoadPipeline(file string) (contract.Pipeline, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return contract.Pipeline{}, err
	}
	return ParsePipeline(file, data)
}

// ParsePipeline is LoadPipeline on bytes; file is for messages alone.
func ParsePipeline(file string, data []byte) (contract.Pipeline, error) {
	return parsePipeline(file, data, time.Now())
}

// parsePipeline takes the time against which dates in the file are judged.
func parsePipeline(file string, data []byte, now time.Time) (contract.Pipeline, error) {
	var p contract.Pipeline
	d, err := decode(file, data, &p)
	if err != nil {
		return contract.Pipeline{}, err
	}
	validatePipeline(d, &p, now)
	if err := d.found.sorted(); err != nil {
		return contract.Pipeline{}, err
	}
	SetPipelineDefaults(&p)
	return p, nil
}

// SetPipelineDefaults fills in what the file left out. It is the only place
// where a pipeline's defaults are decided.
func SetPipelineDefaults(p *contract.Pipeline) {
	if p.Spec.Rollback.Scope == "" {
		p.Spec.Rollback.Scope = contract.ScopeEnvironment
	}
	for i := range p.Spec.Environments {
		gate := &p.Spec.Environments[i].Gate
		if gate.SettleTimeout.Duration == 0 {
			gate.SettleTimeout = metav1.Duration{Duration: rancher.DefaultSettleTimeout}
		}
	}
	for i := range p.Spec.Probes {
		setProtocol(&p.Spec.Probes[i].To)
	}
	p.Spec.ProbeTimings = p.Spec.ProbeTimings.WithDefaults()
	if p.Spec.Drift != nil {
		orElse(&p.Spec.Drift.Timezone, "UTC")
	}
}

func setProtocol(to *probes.To) {
	switch {
	case to.Protocol != "":
	case to.DNS != "":
		to.Protocol = probes.DNS
	case to.HTTPPath != "":
		to.Protocol = probes.HTTP
	default:
		to.Protocol = probes.TCP
	}
}
