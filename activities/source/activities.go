package source

import "context"

// Activities read the policy repository.
type Activities struct{}

// Resolve finds the full commit that a ref means and that it is on the branch.
func (a *Activities) Resolve(ctx context.Context, in ResolveInput) (*Revision, error) { panic("owner") }

// Inspect lints a revision and lists what changed.
func (a *Activities) Inspect(ctx context.Context, in InspectInput) (*Inspection, error) {
	panic("owner")
}
