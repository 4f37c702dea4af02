package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff/internal/cluster/pki"
)

// defaultKubeletPort is where kubelets listen that do not say otherwise.
const defaultKubeletPort = 10250

// kubelets reaches the nodes' kubelets with the API server's certificate. It
// implements apiserver.NodeDialer.
type kubelets struct {
	client *pki.Pair
	roots  *x509.CertPool

	once      sync.Once
	transport http.RoundTripper
}

// Kubelet implements apiserver.NodeDialer. The kubelet must prove that it is
// that node.
func (k *kubelets) Kubelet(_ context.Context, n *corev1.Node) (*url.URL, http.RoundTripper, error) {
	host := ""
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName} {
		for _, a := range n.Status.Addresses {
			if host == "" && a.Type == kind {
				host = a.Address
			}
		}
	}
	if host == "" {
		return nil, nil, fmt.Errorf("node %s has reported no address yet", n.Name)
	}
	port := int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = defaultKubeletPort
	}
	k.once.Do(func() {
		k.transport = &http.Transport{
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS12, RootCAs: k.roots, GetClientCertificate: k.client.GetClientCertificate,
			},
			TLSHandshakeTimeout: 10 * time.Second,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     90 * time.Second,
		}
	})
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(port))}, k.transport, nil
}
