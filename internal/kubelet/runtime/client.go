// Package runtime is the kubelet's view of the container runtime: a CRI
// connection, the state of a pod as the runtime knows it, and the stream of
// container events that says when that state changed. It knows nothing of the
// API server.
package runtime

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage is the largest CRI message accepted, in bytes; lists of all
// containers of a node are the largest.
const maxMessage = 16 << 20

// Client is a connection to a CRI runtime.
type Client struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient
	conn *grpc.ClientConn
}

// Dial prepares a connection to the CRI socket at path, with or without
// "unix://" before it. It does not wait for
// the runtime: calls fail with Unavailable until it answers, and gRPC
// reconnects by itself.
func Dial(path string) (*Client, error) {
	conn, err := grpc.NewClient("unix://"+strings.TrimPrefix(path, "unix://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{
			BaseDelay: reconnectMin, Multiplier: 1.5, Jitter: 0.2, MaxDelay: reconnectMax,
		}}),
	)
	if err != nil {
		return nil, fmt.Errorf("connecting to the container runtime at %s: %w", path, err)
	}
	return &Client{
		RuntimeServiceClient: cri.NewRuntimeServiceClient(conn),
		ImageServiceClient:   cri.NewImageServiceClient(conn),
		conn:                 conn,
	}, nil
}

// Close ends the connection; containers keep running.
func (c *Client) Close() error { return c.conn.Close() }

// WaitReady returns once the runtime answers, or with ctx's error.
func (c *Client) WaitReady(ctx context.Context) (*cri.VersionResponse, error) {
	return c.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true))
}
