package contract

import "time"

// GateState is an approval gate that waits.
type GateState struct {
	Environment string     `json:"environment"`
	Required    int        `json:"required"`
	Evidence    Evidence   `json:"evidence"`
	Votes       []Decision `json:"votes,omitempty"`
	Since       time.Time  `json:"since"`
	Deadline    time.Time  `json:"deadline,omitzero"`
	// Voters are those whose approval counts; nil in a gate that an older
	// Portcullis opened, where everyone's does.
	Voters *Voters `json:"voters,omitempty"`
}

// Voters are those whose approval counts at one gate.
type Voters struct {
	// Anyone is set where the pipeline names nobody: whoever can send an approval may.
	Anyone bool `json:"anyone,omitempty"`
	// People are their names, without those who are excluded.
	People []string `json:"people,omitempty"`
	Groups []Group  `json:"groups,omitempty"`
	// Excluded are those who may not, though they are named or in a group.
	Excluded []Excluded `json:"excluded,omitempty"`
	// Unlinked are those who may or may not approve by name, and of whom it is not known
	// which Slack user they are: any member of a group whom nobody named may be one of them.
	Unlinked []string `json:"unlinked,omitempty"`
}

// Group is a Slack user group as it was when the gate was last looked at.
type Group struct {
	ID string `json:"id"`
	// Handle is what people call it by, where that is known.
	Handle string `json:"handle,omitempty"`
	// Members are the IDs of its Slack users, sorted, as they were At; zero is never.
	Members []string  `json:"members,omitempty"`
	At      time.Time `json:"at,omitzero"`
	// Error is why it is not known who is in it now. Nobody is let in by it then; an
	// approval that was given before stands.
	Error string `json:"error,omitempty"`
}

// Excluded is a person who may not approve, and why.
type Excluded struct {
	Name string `json:"name"`
	// Why goes on after the name: "started this rollout".
	Why string `json:"why"`
}

// Via is the way that a decision came. It is what the sender says of it.
type Via string

const (
	ViaCLI      Via = "cli"
	ViaSlack    Via = "slack"
	ViaTemporal Via = "temporal"
	// ViaUnknown is what is recorded of any other.
	ViaUnknown Via = "unknown"
)

// Known is how the sender of a decision knew whose it is.
type Known string

const (
	// KnownSaid: somebody said so, and nothing vouches for it.
	KnownSaid Known = "said"
	// KnownAccount: it is the account of the machine that the command ran on.
	KnownAccount Known = "account"
	// KnownSlack: Slack said which of its users pressed the button.
	KnownSlack Known = "slack"
)

// Decision is one vote.
type Decision struct {
	// By is the name of a person of the pipeline, or the ID of a Slack user.
	By  string `json:"by"`
	Why string `json:"why,omitempty"`
	// Environment is whose gate is meant; empty means that which is open.
	Environment string `json:"environment,omitempty"`
	// Evidence is the hash that was seen; a prefix of at least 12 characters is accepted.
	Evidence string    `json:"evidence,omitempty"`
	At       time.Time `json:"at,omitzero"`
	Via      Via       `json:"via,omitempty"`
	Known    Known     `json:"known,omitempty"`
}

// Order is a pause, resume or abort: who and why.
type Order struct {
	By    string    `json:"by"`
	Why   string    `json:"why,omitempty"`
	At    time.Time `json:"at,omitzero"`
	Via   Via       `json:"via,omitempty"`
	Known Known     `json:"known,omitempty"`
}

// Audit is what was decided about a rollout, oldest first.
type Audit struct {
	Entries []AuditEntry `json:"entries,omitempty"`
	// Dropped counts the oldest that were left out, above MostAudit.
	Dropped int `json:"dropped,omitempty"`
}

// MostAudit is how many entries a rollout keeps.
const MostAudit = 500

// What an AuditEntry tells of, beside the names of the updates.
const (
	AuditStart    = "start"
	AuditRollback = "rollback"
	// AuditVoid: an approval that was given counts no more; Why says why.
	AuditVoid = "void"
	// AuditOpened and AuditExpired: the gate opened, or its time was over.
	AuditOpened  = "opened"
	AuditExpired = "expired"
)

// AuditEntry is one decision, or what became of some.
type AuditEntry struct {
	At          time.Time `json:"at"`
	What        string    `json:"what"`
	Environment string    `json:"environment,omitempty"`
	// By is a person's name where the pipeline has them; empty where it was nobody's decision.
	By    string `json:"by,omitempty"`
	Via   Via    `json:"via,omitempty"`
	Known Known  `json:"known,omitempty"`
	Why   string `json:"why,omitempty"`
	// Evidence is the whole hash of what was decided on, where it was on evidence.
	Evidence string `json:"evidence,omitempty"`
	// Refused is why it did not count; empty means that it did. Type is one of errs.
	Refused string `json:"refused,omitempty"`
	Type    string `json:"type,omitempty"`
}
