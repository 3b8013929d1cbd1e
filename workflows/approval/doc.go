// Package approval has the rules of approval gates: who a person is, whose approval
// counts, and for how long it does. All of it is pure; the workflows ask it, in the
// validators of their Updates, so that the rules are the same whichever way a
// decision comes.
//
// An approval counts when it is of a person who may approve, is that person's only
// one, and is of the evidence that the gate has now.
package approval
