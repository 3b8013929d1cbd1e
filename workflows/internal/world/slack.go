package world

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"portcullis.dev/portcullis/activities/errs"
	"portcullis.dev/portcullis/activities/slack"
)

// Slack is the model's Slack: it keeps what was written to it.
type Slack struct{ w *World }

// SlackPost is one message of the model's Slack.
type SlackPost struct {
	slack.Posted
	Thread      string
	Environment string
	Text        string
	// Views are what a gate's message has shown, oldest first.
	Views []slack.View
}

// Posts are the messages of a channel, threads among them.
func (w *World) Posts(channel string) []SlackPost {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []SlackPost
	for _, p := range w.posts {
		if p.Channel == channel {
			out = append(out, *p)
		}
	}
	return out
}

// Unpost takes a message away, as a person can.
func (w *World) Unpost(at string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.posts = slices.DeleteFunc(w.posts, func(p *SlackPost) bool { return p.At == at })
}

func (w *World) post(p SlackPost) slack.Posted {
	p.At = fmt.Sprintf("1700000000.%06d", len(w.posts)+1)
	w.posts = append(w.posts, &p)
	return p.Posted
}

// SetGroup says who is in a user group from now on.
func (w *World) SetGroup(id string, users ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Groups == nil {
		w.Groups = map[string][]string{}
	}
	w.Groups[id] = users
}

// Message writes or changes a gate's message.
func (s *Slack) Message(ctx context.Context, in slack.MessageInput) (*slack.Posted, error) {
	if err := s.w.did(ctx, "SlackMessage", in.Environment, false); err != nil {
		return nil, err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if in.At == "" {
		at := s.w.post(SlackPost{Posted: slack.Posted{Channel: in.Channel}, Environment: in.Environment, Views: []slack.View{in.View}})
		return &at, nil
	}
	for _, p := range s.w.posts {
		if p.Channel == in.Channel && p.At == in.At {
			p.Views = append(p.Views, in.View)
			p.Picture = in.Picture
			return &slack.Posted{Channel: p.Channel, At: p.At, Picture: in.Picture}, nil
		}
	}
	return nil, errs.NotFound("the message is gone")
}

// Lines writes into a thread.
func (s *Slack) Lines(ctx context.Context, in slack.LinesInput) (*slack.Posted, error) {
	if err := s.w.did(ctx, "SlackLines", in.Channel, false); err != nil {
		return nil, err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	at := s.w.post(SlackPost{Posted: slack.Posted{Channel: in.Channel}, Thread: in.Thread, Text: strings.Join(in.Lines, "\n")})
	return &at, nil
}

// ResolveGroups answers from Groups.
func (s *Slack) ResolveGroups(ctx context.Context, in slack.GroupsInput) (*slack.Groups, error) {
	if err := s.w.did(ctx, "ResolveGroups", strings.Join(in.Groups, " "), false); err != nil {
		return nil, err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	out := &slack.Groups{At: time.Now().UTC()}
	for _, id := range in.Groups {
		g := slack.Group{ID: id}
		if users, ok := s.w.Groups[id]; ok {
			g.Users = slices.Sorted(slices.Values(users))
		} else {
			g.Error = "Slack: there is no user group " + id
		}
		out.Groups = append(out.Groups, g)
	}
	return out, nil
}
