package slacktest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

type object = map[string]any

// largestCall is more than any call may be.
const largestCall = 1 << 20

// api answers one call of the Web API.
func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	method := r.PathValue("method")
	body, args, err := arguments(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.calls = append(s.calls, Call{Method: method, At: time.Now(), Form: args})
	fault, failing := s.fault(method)
	s.happened()
	if failing && !fault.After {
		s.mu.Unlock()
		fault.answer(w, r)
		return
	}
	code, answer := s.answer(method, tokenOf(r), args, body)
	s.happened()
	s.mu.Unlock()
	if failing {
		fault.answer(w, r)
		return
	}
	if code != "" {
		answer = object{"ok": false, "error": code}
	} else {
		answer["ok"] = true
	}
	reply(w, answer)
}

func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(answer)
}

// arguments are those of the form, or of the JSON body, as text.
func arguments(r *http.Request) ([]byte, map[string]string, error) {
	out := map[string]string{}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		body, err := io.ReadAll(io.LimitReader(r.Body, largestCall))
		if err != nil || len(body) == 0 {
			return body, out, err
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(body, &fields); err != nil {
			return nil, nil, err
		}
		for k, v := range fields {
			var text string
			if json.Unmarshal(v, &text) != nil {
				text = string(v)
			}
			out[k] = text
		}
		return body, out, nil
	}
	if err := r.ParseMultipartForm(largestCall); err != nil && r.MultipartForm == nil {
		if err := r.ParseForm(); err != nil {
			return nil, nil, err
		}
	}
	for k, v := range r.Form {
		if k != "token" {
			out[k] = strings.Join(v, ",")
		}
	}
	return nil, out, nil
}

func (s *Server) fault(method string) (Fault, bool) {
	if list := s.faults[method]; len(list) > 0 {
		s.faults[method] = list[1:]
		return list[0], true
	}
	for _, m := range []string{method, "*"} {
		if f, ok := s.always[m]; ok {
			return f, true
		}
	}
	return Fault{}, false
}

func (f Fault) answer(w http.ResponseWriter, r *http.Request) {
	switch {
	case f.Hang:
		<-r.Context().Done()
	case f.Error != "":
		a := object{"ok": false, "error": f.Error}
		if f.Needed != "" {
			a["needed"], a["provided"] = f.Needed, f.Provided
		}
		reply(w, a)
	default:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		if f.Status == 0 {
			f.Status = http.StatusOK
		}
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
	}
}

// answer carries a call out: Slack's error code, or what it answers.
func (s *Server) answer(method, token string, args map[string]string, body []byte) (string, object) {
	want := s.botToken
	if method == "apps.connections.open" {
		want = AppToken
	}
	switch {
	case token == "":
		return "not_authed", nil
	case want == "" && token == BotToken:
		return "token_revoked", nil
	case token != want && (token == AppToken || token == BotToken):
		return "not_allowed_token_type", nil
	case token != want:
		return "invalid_auth", nil
	}
	switch method {
	case "auth.test":
		return "", object{"url": s.http.URL, "team": "test", "user": "portcullis", "team_id": TeamID, "user_id": BotUser, "bot_id": "B0BOT"}
	case "chat.postMessage":
		return s.postMessage(args)
	case "chat.update":
		return s.updateMessage(args)
	case "chat.postEphemeral":
		return s.postEphemeral(args)
	case "conversations.info":
		return s.channelInfo(args["channel"])
	case "usergroups.users.list":
		users, ok := s.groups[args["usergroup"]]
		if !ok {
			return "no_such_subteam", nil
		}
		return "", object{"users": users}
	case "users.info":
		return "", object{"user": object{"id": args["user"], "team_id": TeamID, "name": strings.ToLower(args["user"])}}
	case "views.open":
		return s.openView(body)
	case "apps.connections.open":
		ticket := fmt.Sprintf("ticket-%d", s.next())
		s.tickets[ticket] = true
		return "", object{"url": "wss" + strings.TrimPrefix(s.http.URL, "https") + "/link/?ticket=" + ticket + "&app_id=" + AppID}
	case "files.getUploadURLExternal":
		return s.uploadURL(args)
	case "files.completeUploadExternal":
		return s.completeUpload(args)
	}
	return "unknown_method", nil
}

func (s *Server) writable(channel string) string {
	c, ok := s.channels[channel]
	switch {
	case !ok:
		return "channel_not_found"
	case c.Archived:
		return "is_archived"
	case !c.Member:
		return "not_in_channel"
	}
	return ""
}

func (s *Server) channelInfo(id string) (string, object) {
	c, ok := s.channels[id]
	if !ok {
		return "channel_not_found", nil
	}
	return "", object{"channel": object{"id": id, "name": strings.ToLower(id), "is_channel": true, "is_archived": c.Archived, "is_member": c.Member}}
}

func (s *Server) postMessage(args map[string]string) (string, object) {
	if code := s.writable(args["channel"]); code != "" {
		return code, nil
	}
	if code := s.content(args); code != "" {
		return code, nil
	}
	if thread := args["thread_ts"]; thread != "" && s.find(args["channel"], thread) == nil {
		return "thread_not_found", nil
	}
	m := &Message{Channel: args["channel"], TS: s.ts(), Thread: args["thread_ts"], Text: args["text"], Blocks: args["blocks"], Broadcast: args["reply_broadcast"] == "true"}
	s.messages = append(s.messages, m)
	return "", object{"channel": m.Channel, "ts": m.TS, "message": m.object()}
}

func (m *Message) object() object {
	blocks := json.RawMessage(m.Blocks)
	if len(blocks) == 0 {
		blocks = json.RawMessage("[]")
	}
	return object{"type": "message", "user": BotUser, "bot_id": "B0BOT", "app_id": AppID, "team": TeamID, "ts": m.TS, "text": m.Text, "blocks": blocks}
}

func (s *Server) updateMessage(args map[string]string) (string, object) {
	if code := s.writable(args["channel"]); code != "" {
		return code, nil
	}
	m := s.find(args["channel"], args["ts"])
	if m == nil {
		return "message_not_found", nil
	}
	if code := s.content(args); code != "" {
		return code, nil
	}
	m.Text, m.Blocks = args["text"], args["blocks"]
	m.Edits++
	return "", object{"channel": m.Channel, "ts": m.TS, "text": m.Text}
}

// Delete takes a message away, as a person can.
func (s *Server) Delete(channel, ts string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, m := range s.messages {
		if m.Channel == channel && m.TS == ts {
			s.messages = append(s.messages[:i], s.messages[i+1:]...)
			return
		}
	}
}

func (s *Server) find(channel, ts string) *Message {
	for _, m := range s.messages {
		if m.Channel == channel && m.TS == ts {
			return m
		}
	}
	return nil
}

func (s *Server) postEphemeral(args map[string]string) (string, object) {
	if code := s.writable(args["channel"]); code != "" {
		return code, nil
	}
	if args["user"] == "" {
		return "user_not_in_channel", nil
	}
	if code := s.content(args); code != "" {
		return code, nil
	}
	s.ephemerals = append(s.ephemerals, Ephemeral{Channel: args["channel"], User: args["user"], Text: args["text"]})
	return "", object{"message_ts": s.ts()}
}

func (s *Server) openView(body []byte) (string, object) {
	var in struct {
		TriggerID string          `json:"trigger_id"`
		View      json.RawMessage `json:"view"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return "invalid_json", nil
	}
	t, ok := s.triggers[in.TriggerID]
	if !ok {
		return "exchanged_trigger_id", nil
	}
	if time.Since(t.made) > triggerLife {
		return "expired_trigger_id", nil
	}
	if code := Modal(in.View); code != "" {
		return code, nil
	}
	delete(s.triggers, in.TriggerID)
	s.opened = append(s.opened, Opened{View: string(in.View), User: t.user})
	return "", object{"view": in.View}
}

// content checks a message as Slack does; the lock is held.
func (s *Server) content(args map[string]string) string {
	if args["text"] == "" && args["blocks"] == "" {
		return "no_text"
	}
	if len([]rune(args["text"])) > 40000 {
		return "msg_too_long"
	}
	if b := args["blocks"]; b != "" {
		if code := Blocks([]byte(b), 50); code != "" {
			return code
		}
		for _, id := range pictures([]byte(b)) {
			if f, ok := s.files[id]; !ok || !f.Done {
				return invalid
			}
		}
	}
	return ""
}

func (s *Server) uploadURL(args map[string]string) (string, object) {
	if args["filename"] == "" || args["length"] == "" {
		return "invalid_arguments", nil
	}
	id := fmt.Sprintf("F%06d", s.next())
	s.files[id] = &File{ID: id, Name: args["filename"], Alt: args["alt_txt"]}
	return "", object{"upload_url": s.http.URL + "/upload/" + url.PathEscape(id), "file_id": id}
}

// File is an upload.
type File struct {
	ID, Name, Alt string
	Data          []byte
	// Channel and Thread are where it was shared, if it was.
	Channel, Thread string
	Done            bool
}

// Files are those that were completed.
func (s *Server) Files() []File {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []File
	for _, f := range s.files {
		if f.Done {
			out = append(out, *f)
		}
	}
	return out
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	var data []byte
	if file, _, err := r.FormFile("file"); err == nil {
		data, _ = io.ReadAll(io.LimitReader(file, largestCall))
	} else {
		data, _ = io.ReadAll(io.LimitReader(r.Body, largestCall))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[r.PathValue("id")]
	if !ok || len(data) == 0 {
		http.Error(w, "no such upload", http.StatusNotFound)
		return
	}
	f.Data = data
	_, _ = fmt.Fprintf(w, "OK - %d", len(data))
}

func (s *Server) completeUpload(args map[string]string) (string, object) {
	var list []struct {
		ID    string `json:"id"`
		Title string `json:"title"`
	}
	if err := json.Unmarshal([]byte(args["files"]), &list); err != nil || len(list) == 0 {
		return "invalid_arguments", nil
	}
	var out []object
	for _, l := range list {
		f, ok := s.files[l.ID]
		if !ok || len(f.Data) == 0 {
			return "file_not_found", nil
		}
		if c := args["channel_id"]; c != "" {
			if code := s.writable(c); code != "" {
				return code, nil
			}
		}
		f.Done, f.Channel, f.Thread = true, args["channel_id"], args["thread_ts"]
		out = append(out, object{"id": f.ID, "title": l.Title})
	}
	return "", object{"files": out}
}
