// Package dialogue carries what the daemon asks the agent on a node, and what that
// answers: a request is a line of JSON, and its answer lines of JSON, the last of
// which ends it. It knows neither what is asked nor how an agent is reached.
//
// Server is the agent's side: it reads requests, refuses those that it does not
// understand, and ends with its input, its context, or after five minutes in which
// nobody asked anything. Session is the daemon's side: it bounds what is waited
// for and what is read, and is over as soon as it cannot be told any more which
// answer belongs to which request.
package dialogue
