// Package doctor looks whether a daemon could do its work: every connection,
// permission and version that it needs, from where it runs, with its own file. It
// changes nothing.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/client"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/cmd/internal/config"
	"portcullis.dev/portcullis/workflows/contract"
)

// Status is how a check ended.
type Status string

const (
	// OK: it is as the daemon needs it.
	OK Status = "ok"
	// Warn: it works, or will only be missed by a part of what Portcullis does.
	Warn Status = "warn"
	// Fail: the daemon cannot do its work.
	Fail Status = "fail"
	// Skipped: it could not be looked at; Detail says why.
	Skipped Status = "skipped"
)

// Result is one check on one thing.
type Result struct {
	// ID is the check's, as in docs/doctor.md.
	ID string `json:"id"`
	// Target is what was looked at, such as a cluster's name; empty where there is only one.
	Target string `json:"target,omitempty"`
	Status Status `json:"status"`
	// Detail is one line: what was found.
	Detail string `json:"detail"`
	// Remedy says how to mend it; empty where nothing has to be.
	Remedy string        `json:"remedy,omitempty"`
	Took   time.Duration `json:"took"`
}

// Report is everything that was found, in the order of the checks.
type Report struct {
	// Status is the worst of all; what was skipped does not count.
	Status Status         `json:"status"`
	Counts map[Status]int `json:"counts"`
	Checks []Result       `json:"checks"`
	Took   time.Duration  `json:"took"`
}

// Options of one run.
type Options struct {
	// File is the daemon's file; Config what it says.
	File   string
	Config config.Server
	// APIKey for Temporal goes before the file's.
	APIKey string
	// Version is told in the User-Agent.
	Version string
	// Pipelines are those whose repositories are looked at, besides those that
	// Portcullis already delivers.
	Pipelines []contract.Pipeline
	// Clusters are the downstream clusters to look at, by name or Rancher's ID; empty
	// means one that is connected, and All every one.
	Clusters []string
	All      bool

	// Dial connects to Temporal.
	Dial func(context.Context, client.Options) (client.Client, error)
	Now  func() time.Time
}

const (
	// checkTimeout bounds one check.
	checkTimeout = 20 * time.Second
	// clustersAtOnce bounds the clusters that are looked at at a time.
	clustersAtOnce = 4
)

// finding is what a check found.
type finding struct {
	status         Status
	detail, remedy string
}

func fine(format string, args ...any) finding { return finding{OK, fmt.Sprintf(format, args...), ""} }
func skip(format string, args ...any) finding {
	return finding{Skipped, fmt.Sprintf(format, args...), ""}
}
func doubt(remedy, format string, args ...any) finding {
	return finding{Warn, fmt.Sprintf(format, args...), remedy}
}
func broken(remedy, format string, args ...any) finding {
	return finding{Fail, fmt.Sprintf(format, args...), remedy}
}

// failed is the finding of an error, whose message says what to do.
func failed(err error) finding {
	return finding{Fail, oneLine(errs.Message(err)), remedyFor(errs.TypeOf(err))}
}

// remedyFor is what helps against a type of failure, where nothing better is known.
func remedyFor(kind string) string {
	switch kind {
	case errs.TypeDenied:
		return "correct the credentials, or grant what is missing"
	case errs.TypeUntrusted:
		return "name the certificates that signed it in the daemon's file, and see that the clock is right"
	case errs.TypeUnavailable, errs.TypeDeadline:
		return "see that it is up, and that this machine reaches it: address, DNS, firewall, network policy"
	case errs.TypeNotFound:
		return "see that the name is right and the thing is there"
	default:
		return "correct it in the daemon's file"
	}
}

type doctor struct {
	Options
	mu     sync.Mutex
	checks []Result
}

// Run looks at everything. It returns when ctx ends, with what was found until then.
func Run(ctx context.Context, o Options) Report {
	if o.Now == nil {
		o.Now = time.Now
	}
	began := o.Now()
	d := &doctor{Options: o}
	if d.serverFile(ctx) {
		d.temporal(ctx)
		d.rancher(ctx)
		d.slack(ctx)
	}
	return d.report(o.Now().Sub(began))
}

func (d *doctor) report(took time.Duration) Report {
	r := Report{Status: OK, Counts: map[Status]int{OK: 0, Warn: 0, Fail: 0, Skipped: 0}, Checks: d.checks, Took: took}
	for _, c := range d.checks {
		r.Counts[c.Status]++
	}
	switch {
	case r.Counts[Fail] > 0:
		r.Status = Fail
	case r.Counts[Warn] > 0:
		r.Status = Warn
	}
	position := func(c Result) int {
		return slices.IndexFunc(Catalog, func(known Check) bool { return known.ID == c.ID })
	}
	slices.SortStableFunc(r.Checks, func(a, b Result) int {
		if p := position(a) - position(b); p != 0 {
			return p
		}
		return strings.Compare(a.Target, b.Target)
	})
	return r
}

// check makes one check, with its time limit, and tells whether what comes after
// can rely on it.
func (d *doctor) check(ctx context.Context, id, target string, look func(context.Context) finding) bool {
	began := d.Now()
	limited, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	f := skip("there was no time for it")
	if ctx.Err() == nil {
		f = look(limited)
		if f.status == Fail && ctx.Err() != nil {
			f = skip("there was no time to wait for the answer")
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checks = append(d.checks, Result{ID: id, Target: target, Status: f.status, Detail: f.detail, Remedy: f.remedy, Took: d.Now().Sub(began)})
	return f.status == OK || f.status == Warn
}

// skip notes checks that cannot be made.
func (d *doctor) skip(ctx context.Context, why string, ids ...string) {
	for _, id := range ids {
		d.check(ctx, id, "", func(context.Context) finding { return skip("%s", why) })
	}
}

// serverFile sees that the file has what a daemon cannot run without; what it
// names is looked at by the other checks.
func (d *doctor) serverFile(ctx context.Context) bool {
	return d.check(ctx, ServerFile, "", func(context.Context) finding {
		if err := d.Config.Complete(d.File); err != nil {
			return broken("complete the file; docs/cli.md has all of it", "%s", oneLine(err.Error()))
		}
		if d.Config.Metrics.Listen == "" {
			return doubt("set metrics.listen, and have Prometheus and the health checks ask it", "%s is complete, but there is no metrics.listen: no metrics, no health checks", d.File)
		}
		return fine("%s is complete", d.File)
	})
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
