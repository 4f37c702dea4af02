package streams

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// IsLog tells requests for a log as messages of a WebSocket.
func IsLog(r *http.Request) bool { return wsstream.IsWebSocketRequest(r) }

// Log sends what target answers as messages. An error means that nothing was
// answered yet.
func Log(w http.ResponseWriter, r *http.Request, target *url.URL, transport http.RoundTripper) error {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return apierrors.NewServiceUnavailable("error trying to reach the kubelet: " + err.Error())
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, refusalLimit))
		return apierrors.NewGenericServerResponse(res.StatusCode, "", schema.GroupResource{}, "", fmt.Sprintf("the kubelet refused to show the log: %s", text), 0, true)
	}
	// The copier drops what comes together with the end; a buffer keeps the two
	// apart. A client that leaves is no error, and there is no one else to tell.
	_ = wsstream.NewReader(bufio.NewReader(res.Body), true, wsstream.NewDefaultReaderProtocols()).Copy(w, r)
	return nil
}
