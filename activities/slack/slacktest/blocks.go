package slacktest

import (
	"encoding/json"
	"fmt"
)

type text struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type element struct {
	Type      string `json:"type"`
	ActionID  string `json:"action_id"`
	Value     string `json:"value"`
	MaxLength int    `json:"max_length"`
}

type block struct {
	Type     string            `json:"type"`
	BlockID  string            `json:"block_id"`
	Text     *text             `json:"text"`
	Elements []json.RawMessage `json:"elements"`
	Element  json.RawMessage   `json:"element"`
	Label    *text             `json:"label"`
	AltText  string            `json:"alt_text"`
	ImageURL string            `json:"image_url"`
	File     *struct {
		ID string `json:"id"`
	} `json:"slack_file"`
}

const invalid = "invalid_blocks"

// Blocks checks blocks by Slack's rules; it returns Slack's error code, or "".
func Blocks(raw []byte, most int) string {
	var list []block
	if err := json.Unmarshal(raw, &list); err != nil {
		return "invalid_blocks_format"
	}
	if len(list) > most {
		return invalid
	}
	ids := map[string]bool{}
	for _, b := range list {
		if b.BlockID != "" && ids[b.BlockID] || len(b.BlockID) > 255 {
			return invalid
		}
		ids[b.BlockID] = true
		if !b.valid() {
			return invalid
		}
	}
	return ""
}

func (b block) valid() bool {
	switch b.Type {
	case "header":
		return b.Text.within("plain_text", 150)
	case "section":
		return b.Text.within("", 3000)
	case "divider":
		return true
	case "image":
		return b.AltText != "" && len(b.AltText) <= 2000 && (b.ImageURL != "") != (b.File != nil && b.File.ID != "")
	case "context":
		return len(b.Elements) > 0 && len(b.Elements) <= 10 && all(b.Elements, func(raw json.RawMessage) bool {
			var t text
			return json.Unmarshal(raw, &t) == nil && t.within("", 3000)
		})
	case "actions":
		return len(b.Elements) > 0 && len(b.Elements) <= 25 && all(b.Elements, button)
	case "input":
		var e element
		return b.Label.within("plain_text", 2000) && json.Unmarshal(b.Element, &e) == nil && e.ActionID != "" && e.MaxLength <= 3000
	}
	return false
}

func (t *text) within(kind string, most int) bool {
	if t == nil || t.Text == "" || len([]rune(t.Text)) > most {
		return false
	}
	if kind != "" {
		return t.Type == kind
	}
	return t.Type == "mrkdwn" || t.Type == "plain_text"
}

func all(list []json.RawMessage, f func(json.RawMessage) bool) bool {
	for _, raw := range list {
		if !f(raw) {
			return false
		}
	}
	return true
}

func button(raw json.RawMessage) bool {
	var b struct {
		Type     string `json:"type"`
		Text     *text  `json:"text"`
		ActionID string `json:"action_id"`
		Value    string `json:"value"`
		Style    string `json:"style"`
	}
	if json.Unmarshal(raw, &b) != nil || b.Type != "button" || b.ActionID == "" || len(b.ActionID) > 255 || len([]rune(b.Value)) > 2000 {
		return false
	}
	return b.Text.within("plain_text", 75) && (b.Style == "" || b.Style == "primary" || b.Style == "danger")
}

// Modal checks a modal by Slack's rules.
func Modal(raw []byte) string {
	var v struct {
		Type     string          `json:"type"`
		Title    *text           `json:"title"`
		Submit   *text           `json:"submit"`
		Close    *text           `json:"close"`
		Metadata string          `json:"private_metadata"`
		Callback string          `json:"callback_id"`
		Blocks   json.RawMessage `json:"blocks"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return "invalid_json"
	}
	if v.Type != "modal" || !v.Title.within("plain_text", 24) || len([]rune(v.Metadata)) > 3000 || len(v.Callback) > 255 {
		return "invalid_arguments"
	}
	for _, t := range []*text{v.Submit, v.Close} {
		if t != nil && !t.within("plain_text", 24) {
			return "invalid_arguments"
		}
	}
	return Blocks(v.Blocks, 100)
}

// pictures are the files that image blocks show.
func pictures(raw []byte) []string {
	var list []block
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	var out []string
	for _, b := range list {
		if b.File != nil {
			out = append(out, b.File.ID)
		}
	}
	return out
}

// Pictures are the IDs of the files that a message shows.
func (m Message) Pictures() []string { return pictures([]byte(m.Blocks)) }

// Button finds the value of a message's button.
func (m Message) Button(action string) (string, error) {
	var list []block
	if err := json.Unmarshal([]byte(m.Blocks), &list); err != nil {
		return "", err
	}
	for _, b := range list {
		for _, raw := range b.Elements {
			var e element
			if json.Unmarshal(raw, &e) == nil && e.Type == "button" && e.ActionID == action {
				return e.Value, nil
			}
		}
	}
	return "", fmt.Errorf("the message has no button %s", action)
}
