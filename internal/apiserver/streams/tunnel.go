package streams

import (
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	tunnelProtocol = "SPDY/3.1+portforward.k8s.io"
	// refusalLimit bounds what is passed on of a kubelet's refusal.
	refusalLimit = 4096
)

// IsTunnel tells requests that Tunnel answers: SPDY inside a WebSocket.
func IsTunnel(r *http.Request) bool { return wsstream.IsWebSocketRequestWithTunnelingProtocol(r) }

// Tunnel connects a client whose WebSocket carries SPDY with target. An error
// means that nothing was answered yet.
func Tunnel(w http.ResponseWriter, r *http.Request, target *url.URL, transport http.RoundTripper) error {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, target.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "SPDY/3.1")
	req.Header.Set("X-Stream-Protocol-Version", "portforward.k8s.io")
	res, err := transport.RoundTrip(req)
	if err != nil {
		return apierrors.NewServiceUnavailable("error trying to reach the kubelet: " + err.Error())
	}
	defer res.Body.Close()
	kubelet, upgraded := res.Body.(io.ReadWriteCloser)
	if res.StatusCode != http.StatusSwitchingProtocols || !upgraded {
		text, _ := io.ReadAll(io.LimitReader(res.Body, refusalLimit))
		return apierrors.NewGenericServerResponse(res.StatusCode, "", schema.GroupResource{}, "", fmt.Sprintf("the kubelet refused to forward ports: %s", text), 0, true)
	}
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }, Subprotocols: []string{tunnelProtocol}}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil // the upgrader has answered
	}
	client := portforward.NewTunnelingConnection("server", conn)
	defer client.Close()
	done := make(chan struct{}, 2)
	for _, way := range [][2]io.ReadWriteCloser{{client, kubelet}, {kubelet, client}} {
		go func() {
			// Either side ends the session; how is for the other to see.
			_, _ = io.Copy(way[0], way[1])
			done <- struct{}{}
		}()
	}
	<-done
	return nil
}
