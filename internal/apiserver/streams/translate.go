// Package streams carries exec, attach and port-forward between clients that
// speak WebSockets and kubelets that speak SPDY (KEP-4006). Clients with SPDY or
// the older WebSocket protocols need none of it: their bytes are handed on.
package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	protocol "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	// idleTimeout ends sessions in which nothing is said.
	idleTimeout = 4 * time.Hour
	// pingPeriod keeps the way to the kubelet open.
	pingPeriod = 5 * time.Second
	// statusTimeout bounds the last message to a client that reads no more.
	statusTimeout = 10 * time.Second
)

// Wanted are the streams that a client wants to be connected.
type Wanted struct{ Stdin, Stdout, Stderr, TTY bool }

// IsV5 tells requests that Translate answers.
func IsV5(r *http.Request) bool { return wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) }

// Translate connects a client of protocol v5 with a process behind target.
func Translate(w http.ResponseWriter, r *http.Request, target *url.URL, transport http.RoundTripper, want Wanted) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	read, write := wsstream.ChannelType(wsstream.ReadChannel), wsstream.ChannelType(wsstream.WriteChannel)
	channels := []wsstream.ChannelType{
		protocol.StreamStdIn: only(want.Stdin, read), protocol.StreamStdOut: only(want.Stdout, write),
		protocol.StreamStdErr: only(want.Stderr, write), protocol.StreamErr: write, protocol.StreamResize: read,
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		protocol.StreamProtocolV5Name: {Binary: true, Channels: channels},
	})
	conn.SetIdleTimeout(idleTimeout)
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return // the client has been told
	}
	defer conn.Close()
	// An empty message on the first stream that may be written tells the client
	// that the connection is there.
	first := protocol.StreamErr
	for _, i := range []int{protocol.StreamStdErr, protocol.StreamStdOut} {
		if channels[i] == write {
			first = i
		}
	}
	if _, err := streams[first].Write(nil); err != nil {
		return
	}
	o := remotecommand.StreamOptions{Tty: want.TTY}
	if want.Stdin {
		o.Stdin = streams[protocol.StreamStdIn]
	}
	if want.Stdout {
		o.Stdout = streams[protocol.StreamStdOut]
	}
	if want.Stderr {
		o.Stderr = streams[protocol.StreamStdErr]
	}
	if want.TTY {
		sizes := make(sizeQueue)
		go sizes.read(ctx, streams[protocol.StreamResize])
		o.TerminalSizeQueue = sizes
	}
	data, err := json.Marshal(outcome(run(ctx, target, transport, o)))
	if err != nil {
		return
	}
	conn.SetWriteDeadline(statusTimeout)
	// The client may have left.
	_, _ = streams[protocol.StreamErr].Write(data)
}

func only(wanted bool, t wsstream.ChannelType) wsstream.ChannelType {
	if wanted {
		return t
	}
	return wsstream.IgnoreChannel
}

func run(ctx context.Context, target *url.URL, transport http.RoundTripper, o remotecommand.StreamOptions) error {
	rt, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{UpgradeTransport: transport, PingPeriod: pingPeriod})
	if err != nil {
		return err
	}
	executor, err := remotecommand.NewSPDYExecutorRejectRedirects(rt, clientspdy.NewUpgraderForStreaming(rt), http.MethodPost, target)
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, o)
}

// outcome is the status that ends a session.
func outcome(err error) *metav1.Status {
	var status apierrors.APIStatus
	var exit exec.CodeExitError
	switch {
	case err == nil:
		return &metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &status):
		s := status.Status()
		return &s
	case errors.As(err, &exit) && exit.Exited():
		return &metav1.Status{
			Status: metav1.StatusFailure, Reason: protocol.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: protocol.ExitCodeCauseType, Message: strconv.Itoa(exit.ExitStatus())}}},
		}
	}
	s := apierrors.NewInternalError(err).Status()
	return &s
}

// sizeQueue are the sizes of the client's terminal.
type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) read(ctx context.Context, from io.Reader) {
	defer close(q)
	for decoder := json.NewDecoder(from); ; {
		var size remotecommand.TerminalSize
		if decoder.Decode(&size) != nil {
			return
		}
		select {
		case q <- size:
		case <-ctx.Done():
			return
		}
	}
}

// Next implements remotecommand.TerminalSizeQueue.
func (q sizeQueue) Next() *remotecommand.TerminalSize {
	size, ok := <-q
	if !ok {
		return nil
	}
	return &size
}
