package slack

import (
	"time"

	"portcullis.dev/portcullis/rancher/drift"
)

// View is what Slack may know of a rollout: every text of a message is made from
// it and from nothing else. It holds no reasons, flows, addresses, pods or nodes;
// what people wrote in it (subjects, reasons of decisions) goes through Clean.
type View struct {
	// Kind is empty for a rollout.
	Kind     Kind   `json:"kind,omitempty"`
	Pipeline string `json:"pipeline"`
	// Rollout is the first run of the rollout, or of the correction: one that is started
	// later has another.
	Rollout   string `json:"rollout"`
	State     string `json:"state"`
	Revision  string `json:"revision,omitempty"`
	Subject   string `json:"subject,omitempty"`
	Author    string `json:"author,omitempty"`
	StartedBy string `json:"startedBy,omitempty"`
	// Paused is who paused it, and why; nil while it is not.
	Paused *Said `json:"paused,omitempty"`
	// Ended is who ended it and why, where a person did.
	Ended *Ended `json:"ended,omitempty"`
	// Over is set when nothing will change any more.
	Over         bool          `json:"over,omitempty"`
	Environments []Environment `json:"environments,omitempty"`
	// Gate is the approval gate that waits, or nil.
	Gate *Gate `json:"gate,omitempty"`
	// Temporal is the address of the rollout in the Temporal UI, or empty.
	Temporal string `json:"temporal,omitempty"`
	// Now is when this is shown; zero in a view that waits to be.
	Now time.Time `json:"now,omitzero"`
	// Drift is what a correction is about; its GitRepos are the Environments.
	Drift *Drift `json:"drift,omitempty"`
}

// Kind is what a gate is one of.
type Kind string

// KindCorrection is the gate of a correction of drift.
const KindCorrection Kind = "correction"

// Drift is what a correction is to put right.
type Drift struct {
	// Findings counts what Fleet can put right, and Left what it cannot.
	Findings int `json:"findings"`
	Left     int `json:"left,omitempty"`
	// Briefs are some of both, MostBriefs at most.
	Briefs []drift.Brief `json:"briefs,omitempty"`
}

// Said is who said something, how and why.
type Said struct {
	By  string    `json:"by"`
	Via string    `json:"via,omitempty"`
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at,omitzero"`
}

// Ended is a person's decision to end a rollout.
type Ended struct {
	// How is rejected or aborted.
	How string `json:"how"`
	Said
}

// Environment is one environment of a rollout.
type Environment struct {
	Name  string `json:"name"`
	State string `json:"state"`
	// Clusters is how many it has, Verified how many of them were.
	Clusters int `json:"clusters,omitempty"`
	Verified int `json:"verified,omitempty"`
	// Failed names some of the clusters that were not, and Failures counts them all.
	Failed   []string `json:"failed,omitempty"`
	Failures int      `json:"failures,omitempty"`
	// Pairs are the connections that were probed, Failing those that were not as required.
	Pairs    int    `json:"pairs,omitempty"`
	Failing  int    `json:"failing,omitempty"`
	Evidence string `json:"evidence,omitempty"`
	// Soaking is the soak that goes on; nil where none does.
	Soaking *Soaking `json:"soaking,omitempty"`
	// Soak is how long it was watched after it was live; LiveAt is since when.
	Soak   time.Duration `json:"soak,omitempty"`
	LiveAt time.Time     `json:"liveAt,omitzero"`
	Back   *Back         `json:"back,omitempty"`
}

// Soaking is a soak, of a wave or of a whole environment.
type Soaking struct {
	Wave  string    `json:"wave,omitempty"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// Back is what a rollback put back.
type Back struct {
	Kind     string `json:"kind"`
	Revision string `json:"revision,omitempty"`
	Live     bool   `json:"live"`
	Proven   bool   `json:"proven"`
}

// Gate is an approval gate.
type Gate struct {
	Environment string `json:"environment"`
	Required    int    `json:"required"`
	// Evidence is the whole hash.
	Evidence string `json:"evidence"`
	Votes    []Said `json:"votes,omitempty"`
	// Counted is how many of them count now.
	Counted  int       `json:"counted,omitempty"`
	Since    time.Time `json:"since"`
	Deadline time.Time `json:"deadline,omitzero"`
	// Changes are what the revision changes in the environment, and From is the
	// revision that it has now, where that is one.
	Changes Changes `json:"changes,omitzero"`
	From    string  `json:"from,omitempty"`
	// Compare is the address of the comparison in Git, or empty.
	Compare string `json:"compare,omitempty"`
	// Measured is how many clusters were measured before the change, and Matrix what was found.
	Measured int     `json:"measured,omitempty"`
	Matrix   *Matrix `json:"matrix,omitempty"`
}

// Matrix is what was measured in an environment before the change: a row for each
// requirement, a column for each cluster.
type Matrix struct {
	Rows []MatrixRow `json:"rows"`
	// Clusters is how many there are, of which the first MostColumns are columns.
	Clusters int `json:"clusters"`
	// Left is how many requirements have no row.
	Left int `json:"left,omitempty"`
}

// MatrixRow is one requirement.
type MatrixRow struct {
	Name string `json:"name"`
	// Cells has a letter for each column, and Unmet some of the clusters where it does not hold.
	Cells string   `json:"cells"`
	Unmet []string `json:"unmet,omitempty"`
}

// The letters of a cell.
const (
	CellMet     = 'm' // as required
	CellUnmet   = 'u' // not as required, which the change may be for
	CellUnknown = '-' // not measured, or nothing there to measure
)

// Bounds of a matrix.
const (
	MostColumns = 48
	MostRows    = 20
	// MostUnmet bounds MatrixRow.Unmet.
	MostUnmet = 3
)

// Picture is the file in Slack that shows a matrix.
type Picture struct {
	// Of is the hash of the matrix, and File Slack's ID of the file; without it there is no
	// picture, and Error says why.
	Of    string `json:"of"`
	File  string `json:"file,omitempty"`
	Error string `json:"error,omitempty"`
}

// Changes are the objects that a revision adds, changes and removes.
type Changes struct {
	Added   Objects `json:"added,omitzero"`
	Changed Objects `json:"changed,omitzero"`
	Removed Objects `json:"removed,omitzero"`
}

// Objects are so many, and the names of some of them.
type Objects struct {
	Count int      `json:"count"`
	Names []string `json:"names,omitempty"`
}

// MostNames is how many objects or clusters are named, of however many.
const MostNames = 25

// MessageInput asks that an environment's message shows View: the message At is
// changed, and where At is empty a new one is written.
type MessageInput struct {
	Channel     string `json:"channel"`
	At          string `json:"at,omitempty"`
	Environment string `json:"environment"`
	View        View   `json:"view"`
	// Picture is what the answer to the last one had.
	Picture *Picture `json:"picture,omitempty"`
}

// LinesInput asks for lines in a thread, or, with no thread, for a message of its own.
type LinesInput struct {
	Channel string `json:"channel"`
	Thread  string `json:"thread,omitempty"`
	// Lines are mrkdwn: what is not ours in them has gone through Escape.
	Lines []string `json:"lines"`
	// Broadcast shows what is written in a thread in the channel too.
	Broadcast bool `json:"broadcast,omitempty"`
}

// Posted is where a message is.
type Posted struct {
	Channel string `json:"channel"`
	// At is Slack's ts, by which a message is known in its channel.
	At string `json:"at"`
	// Picture is the one that the message shows, to be given with the next change of it.
	Picture *Picture `json:"picture,omitempty"`
}
