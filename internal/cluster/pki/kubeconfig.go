package pki

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig says what a kubeconfig holds.
type Kubeconfig struct {
	// Name names cluster and context, and with User the user entry
	// (<user>@<name>, as kubeadm's).
	Name, User string
	// Server is the API server's URL.
	Server string
	// CA verifies the server.
	CA []byte
	// Certificate and Key, or Token, are the user's credentials.
	Certificate, Key []byte
	Token            string
}

// Config returns the kubeconfig.
func (k Kubeconfig) Config() *clientcmdapi.Config {
	c := clientcmdapi.NewConfig()
	context := k.User + "@" + k.Name
	c.Clusters[k.Name] = &clientcmdapi.Cluster{Server: k.Server, CertificateAuthorityData: k.CA}
	c.AuthInfos[k.User] = &clientcmdapi.AuthInfo{
		ClientCertificateData: k.Certificate, ClientKeyData: k.Key, Token: k.Token,
	}
	c.Contexts[context] = &clientcmdapi.Context{Cluster: k.Name, AuthInfo: k.User}
	c.CurrentContext = context
	return c
}

// Write writes the kubeconfig to file, readable by the owner only.
func (k Kubeconfig) Write(file string) error {
	data, err := clientcmd.Write(*k.Config())
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", file, err)
	}
	return writeIfChanged(file, data, 0o600)
}

// AdminKubeconfig returns the administrator's kubeconfig for the API server at
// the given URL.
func (b *Bundle) AdminKubeconfig(cluster, server string) (Kubeconfig, error) {
	certPEM, keyPEM, err := b.Admin.PEM()
	return Kubeconfig{
		Name: cluster, User: "kubernetes-admin", Server: server,
		CA: b.CA.PEM, Certificate: certPEM, Key: keyPEM,
	}, err
}
