package webhook

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Credentials are what the server proves itself by to webhooks: the users of a
// kubeconfig, named after the hosts that they are for ("name.namespace.svc:443",
// "*.example.com", "*").
type Credentials struct{ config *clientcmdapi.Config }

// LoadCredentials reads a kubeconfig file.
func LoadCredentials(file string) (*Credentials, error) {
	config, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("credentials for webhooks: %w", err)
	}
	if err := clientcmd.ResolveLocalPaths(config); err != nil {
		return nil, fmt.Errorf("credentials for webhooks: %s: %w", file, err)
	}
	return &Credentials{config}, nil
}

// With returns a client that finds webhooks like c, and proves itself to them.
func (c *Client) With(credentials *Credentials) *Client {
	out := New(c.resolver)
	out.credentials, out.WeakCerts = credentials, c.WeakCerts
	return out
}

// user returns the user for a host and port: that of the same name, or of the
// longest matching star; without the port if that is 443; for all hosts; of the
// current context; or nil.
func (c *Credentials) user(hostPort string) *clientcmdapi.AuthInfo {
	names := []string{hostPort}
	if host, port, err := net.SplitHostPort(hostPort); err == nil && port == "443" {
		names = append(names, host)
	}
	for _, name := range names {
		if u := c.config.AuthInfos[name]; u != nil {
			return u
		}
		for rest := name; ; {
			_, after, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if u := c.config.AuthInfos["*."+after]; u != nil {
				return u
			}
			rest = after
		}
	}
	if u := c.config.AuthInfos["*"]; u != nil {
		return u
	}
	if current := c.config.Contexts[c.config.CurrentContext]; current != nil {
		return c.config.AuthInfos[current.AuthInfo]
	}
	return nil
}

// apply lets what goes to the host over transport carry the credentials.
func (c *Credentials) apply(hostPort string, transport *http.Transport) (http.RoundTripper, error) {
	if c == nil {
		return transport, nil
	}
	u := c.user(hostPort)
	if u == nil {
		return transport, nil
	}
	config := &rest.Config{
		BearerToken: u.Token, BearerTokenFile: u.TokenFile, Username: u.Username, Password: u.Password,
		Impersonate: rest.ImpersonationConfig{UserName: u.Impersonate, UID: u.ImpersonateUID, Groups: u.ImpersonateGroups, Extra: u.ImpersonateUserExtra},
	}
	certificate, key := u.ClientCertificateData, u.ClientKeyData
	var err error
	if len(certificate) == 0 && u.ClientCertificate != "" {
		if certificate, err = os.ReadFile(u.ClientCertificate); err != nil {
			return nil, fmt.Errorf("credentials for %s: %w", hostPort, err)
		}
	}
	if len(key) == 0 && u.ClientKey != "" {
		if key, err = os.ReadFile(u.ClientKey); err != nil {
			return nil, fmt.Errorf("credentials for %s: %w", hostPort, err)
		}
	}
	if len(certificate) > 0 {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("credentials for %s: %w", hostPort, err)
		}
		transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
	}
	return rest.HTTPWrappersForConfig(config, transport)
}
