package slack

import "time"

// GroupsInput asks activity ResolveGroups who is in Slack user groups now.
type GroupsInput struct {
	// Groups are their IDs (S012AB3CD).
	Groups []string `json:"groups"`
}

// Groups answers GroupsInput. A group that could not be resolved is no error of the
// activity: the others, and people that a gate names, count all the same.
type Groups struct {
	// At is when Slack was asked.
	At time.Time `json:"at"`
	// Groups has one for each that was asked for, in that order.
	Groups []Group `json:"groups"`
}

// Group is one user group and who is in it, or why that is not known.
type Group struct {
	ID string `json:"id"`
	// Handle is what people call it by, without the @.
	Handle string `json:"handle,omitempty"`
	// Users are the IDs of its members, sorted.
	Users []string `json:"users,omitempty"`
	// Error is one line; with it, Users says nothing.
	Error string `json:"error,omitempty"`
}
