package source

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/utils/merkletrie"

	"portcullis.dev/portcullis/activities/errs"
)

const (
	// maxFile is the largest file that is read, in bytes.
	maxFile = 1 << 20
	// maxFindings, maxChanges and maxObjects bound what goes into a workflow's history.
	maxFindings = 200
	maxChanges  = 500
	maxObjects  = 50
)

// file is one file of a revision, as the linters see it.
type file struct {
	path string
	data []byte
	// large is set instead of data where the file is over maxFile.
	large bool
}

func (c *clone) inspect(in InspectInput) (*Inspection, error) {
	tree, err := c.tree(in.Commit)
	if err != nil {
		return nil, err
	}
	files, err := readAll(tree)
	if err != nil {
		return nil, c.broken(err)
	}
	out := &Inspection{Findings: Lint(files, in.Source.Paths), Changes: map[string][]Change{}}
	for _, since := range in.Since {
		if since == "" || out.Changes[since] != nil {
			continue
		}
		from, err := c.tree(since)
		if err != nil {
			out.Findings = append(out.Findings, Finding{Rule: "since-missing", Message: fmt.Sprintf("revision %s, which is live now, is not in the repository any more; its differences cannot be shown", since)})
			continue
		}
		changes, more, err := compare(from, tree, in.Source.Paths)
		if err != nil {
			return nil, c.broken(err)
		}
		out.Changes[since] = changes
		if more > 0 {
			out.Findings = append(out.Findings, Finding{Rule: "changes-cut", Message: fmt.Sprintf("%d more files differ from %s than are listed", more, since)})
		}
	}
	return out, nil
}

func (c *clone) tree(commit string) (*object.Tree, error) {
	found, err := c.repo.CommitObject(plumbing.NewHash(commit))
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, errs.NotFound("revision %s is not in %s", commit, c.shown())
	}
	if err != nil {
		return nil, c.broken(err)
	}
	tree, err := found.Tree()
	if err != nil {
		return nil, c.broken(err)
	}
	return tree, nil
}

func readAll(tree *object.Tree) ([]file, error) {
	var out []file
	err := tree.Files().ForEach(func(f *object.File) error {
		if f.Mode == filemode.Symlink || f.Mode == filemode.Submodule {
			return nil
		}
		got, err := read(f)
		if err == nil {
			out = append(out, got)
		}
		return err
	})
	slices.SortFunc(out, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return out, err
}

func read(f *object.File) (file, error) {
	if !isYAML(f.Name) && !isTemplate(f.Name) {
		return file{path: f.Name}, nil
	}
	if f.Size > maxFile {
		return file{path: f.Name, large: true}, nil
	}
	r, err := f.Reader()
	if err != nil {
		return file{}, err
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	return file{path: f.Name, data: data}, err
}

func isYAML(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

func isTemplate(name string) bool {
	return path.Ext(name) == ".tpl"
}

// compare lists the files under paths that differ, and counts those left out.
func compare(from, to *object.Tree, paths []string) ([]Change, int, error) {
	diff, err := object.DiffTree(from, to)
	if err != nil {
		return nil, 0, err
	}
	out, more := []Change{}, 0
	for _, d := range diff {
		name := d.To.Name
		if name == "" {
			name = d.From.Name
		}
		if !under(paths, name) {
			continue
		}
		if len(out) == maxChanges {
			more++
			continue
		}
		change, err := oneChange(name, d)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, change)
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return out, more, nil
}

func oneChange(name string, d *object.Change) (Change, error) {
	action, err := d.Action()
	if err != nil {
		return Change{}, err
	}
	kind := map[merkletrie.Action]string{merkletrie.Insert: "added", merkletrie.Delete: "removed", merkletrie.Modify: "modified"}[action]
	before, after, err := d.Files()
	if err != nil {
		return Change{}, err
	}
	was, err := contents(before)
	if err != nil {
		return Change{}, err
	}
	is, err := contents(after)
	if err != nil {
		return Change{}, err
	}
	return Change{Path: name, Kind: kind, Objects: differing(was, is)}, nil
}

func contents(f *object.File) ([]byte, error) {
	if f == nil {
		return nil, nil
	}
	got, err := read(f)
	return got.data, err
}

// under says whether a file is below one of the paths, which may have wildcards
// as Fleet allows them. No path means the root.
func under(paths []string, name string) bool {
	if len(paths) == 0 {
		return true
	}
	for _, p := range paths {
		if _, ok := within(p, name); ok {
			return true
		}
	}
	return false
}

// within says whether name is below a directory that pattern matches, and which.
func within(pattern, name string) (dir string, ok bool) {
	pattern = path.Clean(strings.TrimLeft(pattern, "/"))
	if pattern == "." {
		return ".", true
	}
	depth := strings.Count(pattern, "/") + 1
	parts := strings.Split(name, "/")
	if len(parts) <= depth {
		return "", false
	}
	dir = strings.Join(parts[:depth], "/")
	hit, err := path.Match(pattern, dir)
	return dir, err == nil && hit
}
