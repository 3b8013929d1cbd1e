package promote

import (
	"time"

	"portcullis.dev/portcullis/rancher"
	"portcullis.dev/portcullis/workflows/contract"
)

// step is one part of the walk: exactly one of its uses.
type step struct {
	kind stepKind
	// unit is the index of the unit, for stepUnit.
	unit int
	// wave and soak are for stepSoak; an empty wave means the whole environment.
	wave string
	soak time.Duration
}

type stepKind int

const (
	stepUnit stepKind = iota
	stepSoak
)

// walk is the list of steps that a plan means: the units in order, after the
// last unit of a wave its soak, in the end the gate's soak. It is a pure function
// of the input, so that a step's index survives continue-as-new.
func walk(in contract.PromoteInput) []step {
	var steps []step
	units := in.Plan.Units
	for i, u := range units {
		steps = append(steps, step{kind: stepUnit, unit: i})
		lastOfWave := i+1 == len(units) || units[i+1].Wave != u.Wave
		if soak := waveSoak(in.Environment, u.Wave); lastOfWave && soak > 0 {
			steps = append(steps, step{kind: stepSoak, wave: u.Wave, soak: soak})
		}
	}
	if soak := in.Environment.Gate.Soak.Duration; soak > 0 {
		steps = append(steps, step{kind: stepSoak, soak: soak})
	}
	return steps
}

func waveSoak(env rancher.Environment, wave string) time.Duration {
	for _, w := range env.Waves {
		if w.Name == wave {
			return w.Soak.Duration
		}
	}
	return 0
}

// clusters are those of a wave, or of all units for an empty wave.
func clusters(units []rancher.Unit, wave string) []rancher.Cluster {
	var out []rancher.Cluster
	for _, u := range units {
		if wave == "" || u.Wave == wave {
			out = append(out, u.Clusters...)
		}
	}
	return out
}
