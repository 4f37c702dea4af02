package devnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// What a node says of its command on the notify socket, in the protocol of
// sd_notify(3): the command that it is ready, process 1 that it ended.
const (
	readyMessage = "READY=1"
	exitPrefix   = "EXIT_STATUS="
)

// notify sends a message to a datagram socket.
func notify(socket, message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return errors.Join(err, conn.Close())
}

// listener receives a node's messages.
type listener struct {
	conn *net.UnixConn
	path string
}

// listen makes the socket at path.
func listen(path string) (*listener, error) {
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listening for the node's news: %w", err)
	}
	return &listener{conn: conn, path: path}, nil
}

func (l *listener) close() error { return errors.Join(l.conn.Close(), os.RemoveAll(l.path)) }

// endedError tells that a node's command ended.
type endedError struct{ status string }

func (e *endedError) Error() string { return "it ended with status " + e.status }

// awaitReady returns when the node's command is ready, or with an error when it
// ended or ctx did.
func (l *listener) awaitReady(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.conn.SetReadDeadline(time.Now()) })
	defer stop()
	buffer := make([]byte, 4096)
	for {
		n, err := l.conn.Read(buffer)
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		for line := range strings.SplitSeq(string(buffer[:n]), "\n") {
			if line == readyMessage {
				return nil
			}
			if status, ok := strings.CutPrefix(line, exitPrefix); ok {
				return &endedError{status}
			}
		}
	}
}
