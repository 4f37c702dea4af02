package apiserver

import (
	"context"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"skiff/internal/apiserver/verbs"
)

// socketPatience bounds each message to a watcher that reads no more.
const socketPatience = time.Minute

// watchSocket streams events as messages of a WebSocket, one event each, as
// browsers want them.
func (s *Server) watchSocket(ctx context.Context, w http.ResponseWriter, stream *verbs.Watch, bookmarks bool, enc *eventEncoder) {
	upgrader := websocket.Upgrader{
		// The request is authenticated; who may ask is not a matter of origin.
		CheckOrigin:  func(*http.Request) bool { return true },
		Subprotocols: []string{"binary.k8s.io"},
	}
	conn, err := upgrader.Upgrade(w, enc.request, nil)
	if err != nil {
		return // the upgrader has answered
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		// The client says nothing but that it leaves.
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
	kind := websocket.TextMessage
	if enc.media.Media == mediaProtobuf || enc.media.Media == mediaCBOR {
		kind = websocket.BinaryMessage
	}
	send := func(message []byte) error {
		if err := conn.SetWriteDeadline(time.Now().Add(socketPatience)); err != nil {
			return err
		}
		return conn.WriteMessage(kind, message)
	}
	for {
		events, err := s.nextEvents(ctx, stream, bookmarks)
		if err != nil {
			if ctx.Err() == nil {
				// Best effort: the client learns why the watch ends.
				_ = send(enc.appendStatus(nil, err))
			}
			_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
			return
		}
		enc.told.starting(len(events))
		for i := range events {
			message, err := enc.append(nil, &events[i])
			if err != nil {
				s.Log.Error("a watch event could not be encoded", "error", err)
				return
			}
			if send(message) != nil {
				return
			}
		}
		enc.told.started(enc.request)
		begun(ctx)
	}
}
