package slacktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// ackTime is how long Slack waits before it tells the user that the app is broken.
const ackTime = 3 * time.Second

// Ack is an app's answer to an envelope.
type Ack struct {
	EnvelopeID string          `json:"envelope_id"`
	Payload    json.RawMessage `json:"payload"`
}

type socket struct {
	mu   sync.Mutex
	conn *websocket.Conn
	done chan struct{}
	once sync.Once
}

func (c *socket) write(v any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	return c.conn.WriteJSON(v)
}

func (c *socket) raw(kind int, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	return c.conn.WriteMessage(kind, data)
}

func (c *socket) close() { c.once.Do(func() { close(c.done); _ = c.conn.Close() }) }

// link is the WebSocket that apps.connections.open gave a ticket for.
func (s *Server) link(w http.ResponseWriter, r *http.Request) {
	ticket := r.URL.Query().Get("ticket")
	s.mu.Lock()
	good := s.tickets[ticket] && !s.closed
	delete(s.tickets, ticket)
	s.mu.Unlock()
	if !good {
		http.Error(w, "ticket", http.StatusForbidden)
		return
	}
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &socket{conn: conn, done: make(chan struct{})}
	if c.write(object{
		"type": "hello", "num_connections": 1, "connection_info": object{"app_id": AppID},
		"debug_info": object{"host": "applink-test", "build_number": 10, "approximate_connection_time": 18060},
	}) != nil {
		c.close()
		return
	}
	s.mu.Lock()
	s.sockets = append(s.sockets, c)
	s.happened()
	s.mu.Unlock()
	go c.ping()
	s.listen(c)
}

func (c *socket) ping() {
	for {
		c.mu.Lock()
		err := c.conn.WriteControl(websocket.PingMessage, []byte("Ping from applink-test"), time.Now().Add(time.Second))
		c.mu.Unlock()
		if err != nil {
			return
		}
		select {
		case <-c.done:
			return
		case <-time.After(5 * time.Second):
		}
	}
}

// listen hands acknowledgements to who waits for them, until the app goes away.
func (s *Server) listen(c *socket) {
	defer s.gone(c)
	for {
		var a Ack
		if err := c.conn.ReadJSON(&a); err != nil {
			return
		}
		s.mu.Lock()
		if w, ok := s.waiting[a.EnvelopeID]; ok {
			delete(s.waiting, a.EnvelopeID)
			w <- a
		}
		s.mu.Unlock()
	}
}

func (s *Server) gone(c *socket) {
	c.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.sockets {
		if other == c {
			s.sockets = append(s.sockets[:i], s.sockets[i+1:]...)
			break
		}
	}
	s.happened()
}

// Sockets counts the connections.
func (s *Server) Sockets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sockets)
}

var errNoSocket = errors.New("no app is connected")

func (s *Server) newest() (*socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sockets) == 0 {
		return nil, errNoSocket
	}
	return s.sockets[len(s.sockets)-1], nil
}

// Envelope sends a payload over Socket Mode and waits for the acknowledgement.
func (s *Server) Envelope(ctx context.Context, payload []byte) (Ack, error) {
	c, err := s.newest()
	if err != nil {
		return Ack{}, err
	}
	answer := make(chan Ack, 1)
	s.mu.Lock()
	id := fmt.Sprintf("e0000000-0000-4000-8000-%012d", s.next())
	s.waiting[id] = answer
	s.mu.Unlock()
	err = c.write(object{"type": "interactive", "envelope_id": id, "accepts_response_payload": true, "payload": json.RawMessage(payload)})
	if err != nil {
		return Ack{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, ackTime)
	defer cancel()
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		return Ack{}, fmt.Errorf("no acknowledgement within %s", ackTime)
	}
}

// Raw sends any text over Socket Mode.
func (s *Server) Raw(data []byte) error {
	c, err := s.newest()
	if err != nil {
		return err
	}
	return c.raw(websocket.TextMessage, data)
}

// Refresh asks the app to connect anew, as Slack does every few hours; it closes
// the connection itself shortly after.
func (s *Server) Refresh(reason string) error {
	c, err := s.newest()
	if err != nil {
		return err
	}
	return c.write(object{"type": "disconnect", "reason": reason, "debug_info": object{"host": "applink-test"}})
}

// Cut ends all connections without a word.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sockets {
		c.close()
	}
}
