package source

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// fleetRule is about one top-level key of fleet.yaml.
type fleetRule struct {
	key, rule string
	isError   bool
	message   string
}

// fleetRules are keys by which a revision would decide what is for the pipeline
// to decide: where it goes, when, and whether it counts as done.
var fleetRules = []fleetRule{
	{"overrideTargets", "fleet-override-targets", true, "a revision may not choose its own clusters: overrideTargets replaces the targets of the GitRepo; remove it"},
	{"targets", "fleet-targets", true, "a revision may not choose its own clusters; use targetCustomizations for what differs between clusters"},
	{"rolloutStrategy", "fleet-rollout-strategy", true, "rolloutStrategy would hold back clusters inside a wave, and drops those that are in no partition; use the pipeline's waves"},
	{"correctDrift", "fleet-correct-drift", false, "correctDrift travels with the revision, and so is rolled back with it; set it on the GitRepo if it is meant to stay"},
	{"dependsOn", "fleet-depends-on", false, "dependsOn makes a cluster wait for another bundle, within the gate's time to settle"},
}

// fleetFile lints a fleet.yaml.
func (l *linter) fleetFile(f file) {
	docs, err := documents(f.data)
	if err != nil {
		line, msg := yamlLine(f.data, err)
		l.add(true, "yaml-malformed", f.path, line, "the file is not valid YAML: %s", msg)
		return
	}
	if len(docs) == 0 {
		return
	}
	root := docs[0].root
	for _, r := range fleetRules {
		if line := keyLine(root, r.key); line > 0 {
			l.add(r.isError, r.rule, f.path, line, "%s", r.message)
		}
	}
	if paused := field(root, "paused"); text(paused) == "true" {
		l.add(true, "fleet-paused", f.path, paused.Line, "paused in the revision would keep it from ever going live; remove it")
	}
	l.syncKeys(f.path, root)
	l.fleetLabels(f.path, root)
	l.customizations(f.path, root)
	l.chart(f.path, field(root, "helm"))
}

// syncKeys refuses what would hide whether Fleet took up a change.
func (l *linter) syncKeys(name string, root *yaml.Node) {
	if line := keyLine(root, "forceSyncGeneration"); line > 0 {
		l.add(true, "fleet-force-sync", name, line, "forceSyncGeneration is Portcullis's, to tell whether a change was taken up; remove it")
	}
}

// fleetLabels refuses labels by which a revision could pass for another.
func (l *linter) fleetLabels(name string, root *yaml.Node) {
	labels := field(root, "labels")
	if labels == nil || labels.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(labels.Content); i += 2 {
		if key := labels.Content[i]; strings.HasPrefix(key.Value, "fleet.cattle.io/") {
			l.add(true, "fleet-labels", name, key.Line, "label %s is Fleet's own, and tells which revision a bundle is of; remove it", key.Value)
		}
	}
}

func (l *linter) customizations(name string, root *yaml.Node) {
	for _, c := range items(field(root, "targetCustomizations")) {
		c = resolved(c)
		l.syncKeys(name, c)
		if skip := field(c, "doNotDeploy"); text(skip) == "true" {
			l.add(false, "fleet-do-not-deploy", name, skip.Line, "clusters of targetCustomization %q do not get this bundle", text(field(c, "name")))
		}
		l.chart(name, field(c, "helm"))
	}
}

// chart tells of content that the commit does not hold.
func (l *linter) chart(name string, helm *yaml.Node) {
	chart := field(helm, "chart")
	if chart == nil {
		return
	}
	remote := field(helm, "repo") != nil || strings.Contains(text(chart), "://")
	if remote && text(field(helm, "version")) == "" {
		l.add(true, "fleet-chart-unpinned", name, chart.Line, "chart %s has no version, so the commit does not say what is deployed; name an exact version", text(chart))
	} else if remote {
		l.add(false, "fleet-chart-remote", name, chart.Line, "chart %s comes from elsewhere; the commit names it but does not hold it", text(chart))
	}
}
