package simcluster

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// reachCommand is what may be run in a node agent's container.
var reachCommand = []string{"portcullis", "node", "reach"}

// exec runs a session with a node agent over a WebSocket, in the protocol of `kubectl exec`.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	q, a := r.URL.Query(), s.of(r).agent()
	if a.name == "" || r.PathValue("namespace") != a.namespace || !strings.HasPrefix(r.PathValue("name"), a.name+"-") {
		notFound(w, r)
		return
	}
	if !wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) || q.Get("container") != a.name || !slices.Equal(q["command"], reachCommand) {
		writeStatus(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "a simulated agent runs \"portcullis node reach\" alone, over "+remotecommand.StreamProtocolV5Name)
		return
	}
	channels := make([]wsstream.ChannelType, remotecommand.StreamResize+1)
	channels[remotecommand.StreamStdIn] = wsstream.ReadChannel
	channels[remotecommand.StreamStdOut] = wsstream.WriteChannel
	channels[remotecommand.StreamStdErr] = wsstream.WriteChannel
	channels[remotecommand.StreamErr] = wsstream.WriteChannel
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: channels},
	})
	_, streams, err := conn.Open(w, r)
	if err != nil {
		s.log.Warn("session not opened", "err", err)
		return
	}
	defer func() { _ = conn.Close() }()
	end := metav1.Status{Status: metav1.StatusSuccess}
	if err := s.world.reach(streams[remotecommand.StreamStdIn], streams[remotecommand.StreamStdOut]); err != nil {
		end = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
	}
	if text, err := json.Marshal(end); err == nil {
		_, _ = streams[remotecommand.StreamErr].Write(text) // the client may be gone
	}
}
