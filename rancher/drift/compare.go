package drift

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Wish is what one release wishes on a cluster. It may be shared: nothing changes it.
type Wish struct {
	objects []wished
}

type wished struct {
	*Object
	canon map[string]any
}

// NewWish prepares the objects of a release to be compared any number of times.
func NewWish(objects []*Object) *Wish {
	w := &Wish{objects: make([]wished, len(objects))}
	for i, o := range objects {
		w.objects[i] = wished{o, canonical(o)}
	}
	return w
}

// Types are those of its objects.
func (w *Wish) Types() []Type {
	seen := map[Type]bool{}
	for _, o := range w.objects {
		seen[o.Type()] = true
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b Type) int {
		return strings.Compare(a.APIVersion+a.Kind, b.APIVersion+b.Kind)
	})
}

// Len is how many objects it has.
func (w *Wish) Len() int { return len(w.objects) }

func canonical(o *Object) map[string]any {
	if canon := rulesOf(o.Type()).canon; canon != nil {
		return canon(o.Body)
	}
	return o.Body
}

// Held is one release with what it wishes.
type Held struct {
	Ref ReleaseRef
	// Bundle is the BundleDeployment that it was installed for.
	Bundle string
	Wish   *Wish
}

// Input is what is known of a cluster.
type Input struct {
	// Releases are those of the pipeline. Others are those that objects claim to belong to
	// and that were read: what they hold is no drift.
	Releases []Held
	Others   []Held
	// Live has the objects of every type that was listed. A type that the cluster does not
	// serve has an empty list.
	Live map[Type][]*Object
	// Unread says of each type that could not be listed why.
	Unread map[Type]string
}

// Compare finds everything that is not as it was rolled out. The second result has one
// line for each thing that could not be looked at.
func Compare(in Input) ([]Finding, []string) {
	c := comparison{in: in, held: map[Key]bool{}, live: map[Type]map[Key]*Object{}, blind: map[Type]int{}}
	for t, objects := range in.Live {
		c.live[t] = make(map[Key]*Object, len(objects))
		for _, o := range objects {
			c.live[t][o.Key] = o
		}
	}
	for _, h := range in.Releases {
		for i := range h.Wish.objects {
			c.object(h, &h.Wish.objects[i])
		}
	}
	for _, h := range in.Others {
		for i := range h.Wish.objects {
			c.hold(h, h.Wish.objects[i].Key)
		}
	}
	c.extras()
	return c.findings, c.unknown()
}

// Claims are the releases, as namespace/name, that objects say they belong to and that
// are not among the pipeline's own.
func Claims(in Input) []string {
	c := comparison{in: in, held: map[Key]bool{}}
	for _, h := range in.Releases {
		for i := range h.Wish.objects {
			c.hold(h, h.Wish.objects[i].Key)
		}
	}
	found := map[string]bool{}
	for t, objects := range in.Live {
		if !rulesOf(t).policy {
			continue
		}
		for _, o := range objects {
			if claim := o.Claim(); claim != "" && !c.isHeld(o.Key) && !builtIn(o.Key) {
				found[claim] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

type comparison struct {
	in       Input
	live     map[Type]map[Key]*Object
	held     map[Key]bool
	findings []Finding
	// blind counts the wished objects of types that could not be read.
	blind map[Type]int
}

// hold notes that a release has the key: in the namespace that it names, and, because a
// manifest need not name one, in the release's.
func (c *comparison) hold(h Held, k Key) {
	for _, at := range places(h, k) {
		c.held[at] = true
	}
}

func places(h Held, k Key) []Key {
	if k.Namespace != "" {
		return []Key{k}
	}
	in := k
	in.Namespace = h.Ref.Namespace
	return []Key{k, in}
}

// isHeld says whether a release has the object, also by Calico's other name for it:
// what its API server calls NAME is stored as default.NAME, depending on the version.
func (c *comparison) isHeld(k Key) bool {
	if c.held[k] {
		return true
	}
	other := map[string]string{CalicoStored: CalicoServed, CalicoServed: CalicoStored}[k.APIVersion]
	if other == "" {
		return false
	}
	k.APIVersion = other
	bare := strings.TrimPrefix(k.Name, "default.")
	for _, name := range []string{k.Name, bare, "default." + bare} {
		k.Name = name
		if c.held[k] {
			return true
		}
	}
	return false
}

// object compares one wished object with the live one.
func (c *comparison) object(h Held, w *wished) {
	c.hold(h, w.Key)
	t := w.Type()
	objects, listed := c.live[t]
	if !listed {
		c.blind[t]++
		return
	}
	var live *Object
	for _, at := range places(h, w.Key) {
		if o := objects[at]; o != nil {
			live = o
		}
	}
	if live == nil {
		c.findings = append(c.findings, Finding{Category: Missing, Key: w.Key, Bundle: h.Bundle})
		return
	}
	if f := changed(w, live); f != nil {
		f.Bundle = h.Bundle
		c.findings = append(c.findings, *f)
	}
}

// changed compares an object with what was wished; nil where both say the same.
func changed(w *wished, live *Object) *Finding {
	r := rulesOf(w.Type())
	d := &differ{rules: r, private: w.Kind == "ConfigMap"}
	metadata(d, w, live)
	if !equal(w.Body, live.Body) {
		is := canonical(live)
		if w.Kind == "FelixConfiguration" {
			is = felixConcern(w.canon, is)
		}
		d.maps(place{}, w.canon, is)
	}
	f := &Finding{Category: Changed, Key: live.Key, Changes: d.changes}
	if live.Deleting {
		f.Detail = "it is being deleted, and a finalizer keeps it"
	}
	if len(f.Changes) == 0 && !live.Deleting {
		return nil
	}
	for _, path := range d.paths {
		if by := live.wrote(path); by != nil && (f.By == nil || by.At.After(f.By.At)) {
			f.By = by
		}
	}
	if f.Detail == "" && dropped(f) {
		f.Detail = "Fleet itself wrote it last: the type on this cluster may not have what is missing, and drop it"
	}
	return f
}

// dropped says whether nobody but Fleet seems to have had a part in it: fields are missing, and
// it was the last to write.
func dropped(f *Finding) bool {
	if f.By == nil || !strings.HasPrefix(f.By.Manager, "fleet") && f.By.Manager != "helm" {
		return false
	}
	for _, c := range f.Changes {
		if c.Live != "" {
			return false
		}
	}
	return len(f.Changes) > 0
}

// metadata compares what is wished of labels and annotations. Labels that were added
// matter where selectors of policies look at them.
func metadata(d *differ, w *wished, live *Object) {
	own := *d
	own.exact = false
	at := place{}.key("metadata")
	texts(&own, at.key("labels"), w.Labels, live.Labels)
	texts(&own, at.key("annotations"), w.Annotations, live.Annotations)
	if d.rules.labels {
		for _, k := range sortedNames(live.Labels) {
			if _, there := w.Labels[k]; !there && k != labelManagedBy && !strings.HasPrefix(k, calicoLabels) {
				own.note(at.key("labels").key(k), nil, live.Labels[k])
			}
		}
	}
	d.changes, d.paths = own.changes, own.paths
}

const (
	// labelManagedBy is put on everything by Helm.
	labelManagedBy  = "app.kubernetes.io/managed-by"
	lastApplied     = "kubectl.kubernetes.io/last-applied-configuration"
	helmAnnotations = "meta.helm.sh/"
	// calicoLabels are Calico's own, which its API server puts on objects.
	calicoLabels = "projectcalico.org/"
)

func texts(d *differ, at place, wished, live map[string]string) {
	for _, k := range sortedNames(wished) {
		if k == labelManagedBy || k == lastApplied || strings.HasPrefix(k, helmAnnotations) {
			continue
		}
		is, there := live[k]
		switch {
		case !there:
			d.note(at.key(k), wished[k], nil)
		case is != wished[k]:
			d.note(at.key(k), wished[k], is)
		}
	}
}

// extras finds the policies, sets and tiers that no release holds, and settings of Felix
// that nobody rolled out.
func (c *comparison) extras() {
	for t, objects := range c.in.Live {
		for _, o := range objects {
			if c.isHeld(o.Key) || builtIn(o.Key) {
				continue
			}
			switch {
			case rulesOf(t).policy:
				// Where both of Calico's APIs were listed, one of them tells it.
				if t.APIVersion != CalicoServed {
					c.findings = append(c.findings, c.extra(o))
				}
			case t.Kind == "FelixConfiguration" && t.APIVersion == CalicoStored:
				if f := felix(o); f != nil {
					c.findings = append(c.findings, *f)
				}
			}
		}
	}
}

func (c *comparison) extra(o *Object) Finding {
	f := Finding{Category: Extra, Key: o.Key, Created: o.Created.UTC(), By: o.wrote([]string{"spec"})}
	var notes []string
	if claim := o.Claim(); claim != "" {
		notes = append(notes, fmt.Sprintf("it says that it belongs to Helm release %s, which does not hold it or could not be read", claim))
	}
	if o.Owner != "" {
		notes = append(notes, "its controller is "+o.Owner)
	}
	if o.Deleting {
		notes = append(notes, "it is being deleted")
	}
	f.Detail = strings.Join(notes, "; ")
	return f
}

// unknown has a line for each type that could not be read.
func (c *comparison) unknown() []string {
	var out []string
	for t, why := range c.in.Unread {
		line := fmt.Sprintf("%s (%s) cannot be listed: %s", t.Kind, t.APIVersion, why)
		if n := c.blind[t]; n > 0 {
			line = fmt.Sprintf("%d wished of %s (%s) could not be compared: %s", n, t.Kind, t.APIVersion, why)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
