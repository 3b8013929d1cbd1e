package slack

import "time"

// View is what Slack may know of a rollout: every text of a message is made from
// it and from nothing else. It holds no reasons, flows, addresses, pods or nodes;
// what people wrote in it (subjects, reasons of decisions) goes through Clean.
type View struct {
	Pipeline string `json:"pipeline"`
	// Rollout is the first run of the rollout: one that is started later has another.
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
	// Soak is how long it was watched after it was live; LiveAt is since when.
	Soak   time.Duration `json:"soak,omitempty"`
	LiveAt time.Time     `json:"liveAt,omitzero"`
	Back   *Back         `json:"back,omitempty"`
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
	// Measured is how many clusters were measured before the change.
	Measured int `json:"measured,omitempty"`
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
}
