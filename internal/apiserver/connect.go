package apiserver

import (
	"context"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/internal/apiserver/verbs"
)

// NodeDialer tells how to reach a node's kubelet.
type NodeDialer interface {
	// Kubelet returns the base URL of the node's kubelet and a transport with
	// the API server's credentials.
	Kubelet(ctx context.Context, node *corev1.Node) (*url.URL, http.RoundTripper, error)
}

func (s *Server) connect(w http.ResponseWriter, r *http.Request, info *requestInfo, req *verbs.Request) error {
	return apierrors.NewServiceUnavailable("streams to nodes are not available")
}

func (s *Server) serveOpenAPIPath(w http.ResponseWriter, r *http.Request, info *requestInfo) bool {
	return false
}
