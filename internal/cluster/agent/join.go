package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis/builtin"
	"skiff/internal/cluster"
	"skiff/internal/identity"
)

// joinTimeout is how long an agent waits for the server to sign a certificate.
const joinTimeout = 2 * time.Minute

// authority returns the cluster's CA certificate in PEM: from an earlier
// start, the file that was given, or the server's public cluster-info, if it
// has the hash that was given.
func authority(ctx context.Context, c cluster.AgentConfig) ([]byte, error) {
	kept := filepath.Join(c.Node.DataDir, "agent", "ca.crt")
	if data, err := os.ReadFile(kept); err == nil {
		return data, nil
	}
	var data []byte
	var err error
	switch {
	case c.CAFile != "":
		if data, err = os.ReadFile(c.CAFile); err != nil {
			return nil, fmt.Errorf("the cluster's CA certificate: %w", err)
		}
	case c.CAHash != "":
		if data, err = discover(ctx, c.Server, c.CAHash); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("the first start needs --ca-file or --ca-hash, to know the right server (skiff token create prints it)")
	}
	return data, keep(kept, data)
}

func keep(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// discover asks an unproven server for cluster-info and believes it if the CA
// in it has the hash and has signed the server's certificate (kubeadm's
// token-based discovery).
func discover(ctx context.Context, server, hash string) ([]byte, error) {
	c, err := client.New(&rest.Config{Host: server, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, client.Options{Scheme: builtin.NewScheme()})
	if err != nil {
		return nil, fmt.Errorf("asking %s for its certificate authority: %w", server, err)
	}
	info := &corev1.ConfigMap{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: metav1.NamespacePublic, Name: "cluster-info"}, info); err != nil {
		return nil, fmt.Errorf("asking %s for its certificate authority: %w", server, err)
	}
	kubeconfig, err := clientcmd.Load([]byte(info.Data["kubeconfig"]))
	if err != nil {
		return nil, fmt.Errorf("cluster-info of %s: %w", server, err)
	}
	for _, entry := range kubeconfig.Clusters {
		block, _ := pem.Decode(entry.CertificateAuthorityData)
		if block == nil {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		if strings.EqualFold("sha256:"+hex.EncodeToString(sum[:]), hash) {
			return entry.CertificateAuthorityData, nil
		}
	}
	return nil, fmt.Errorf("the certificate authority of %s does not have the hash %s: this is another cluster, or the hash is wrong", server, hash)
}

// credentials are the node's certificates.
type credentials struct {
	client, serving *certificate
	config          cluster.AgentConfig
	ca              []byte
	log             *slog.Logger
}

// certificate is a key pair in one PEM file that follows the newest one.
type certificate struct {
	file    string
	current atomic.Pointer[tls.Certificate]
}

func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.file, c.file)
	if err != nil {
		return err
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return err
		}
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return fmt.Errorf("%s ended at %s", c.file, pair.Leaf.NotAfter)
	}
	c.current.Store(&pair)
	return nil
}

// join loads the node's certificates, or asks for them with the bootstrap
// token.
func join(ctx context.Context, c cluster.AgentConfig, ca []byte) (*credentials, error) {
	dir := filepath.Join(c.Node.DataDir, "agent")
	cr := &credentials{
		client: &certificate{file: filepath.Join(dir, "client.pem")}, serving: &certificate{file: filepath.Join(dir, "serving.pem")},
		config: c, ca: ca, log: c.Log,
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	if err := cr.client.load(); err != nil {
		if c.Token == "" {
			return nil, fmt.Errorf("this node has no certificate yet (%w): it needs a bootstrap token (--token; skiff token create makes one)", err)
		}
		if err := cr.requestClient(ctx, &rest.Config{Host: c.Server, BearerToken: c.Token, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}); err != nil {
			return nil, fmt.Errorf("joining %s: %w", c.Server, err)
		}
	}
	// The serving certificate is for the addresses in the Node's status, so it
	// can only be had once the kubelet has registered: a failure to load it
	// means that maintain asks for it.
	_ = cr.serving.load()
	return cr, nil
}

// servingCertificate is the newest one.
func (cr *credentials) servingCertificate() (*tls.Certificate, error) {
	if cert := cr.serving.current.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("the server has not signed this node's serving certificate yet")
}

// due is when the certificate has a third of its life left; at once if there
// is none.
func (c *certificate) due() time.Time {
	cert := c.current.Load()
	if cert == nil {
		return time.Time{}
	}
	return cert.Leaf.NotAfter.Add(-cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore) / 3)
}

// retry is how long the node waits before it asks again for a certificate that
// it could not get.
const retry = 5 * time.Second

// maintain gets the certificates that are missing, and new ones when a third
// of their life is left, until ctx ends.
func (cr *credentials) maintain(ctx context.Context) {
	for {
		next := retry
		if err := cr.obtain(ctx); err == nil {
			next = time.Until(cr.client.due())
			if s := time.Until(cr.serving.due()); s < next {
				next = s
			}
		} else if ctx.Err() == nil {
			cr.log.Warn("a certificate of this node could not be had; asking again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(next, retry)):
		}
	}
}

func (cr *credentials) obtain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	now := time.Now()
	if !now.Before(cr.client.due()) {
		if err := cr.requestClient(ctx, cr.restConfig()); err != nil {
			return err
		}
	}
	if !now.Before(cr.serving.due()) {
		return cr.requestServing(ctx)
	}
	return nil
}

func (cr *credentials) restConfig() *rest.Config {
	return &rest.Config{Host: cr.config.Server, TLSClientConfig: rest.TLSClientConfig{CAData: cr.ca, CertFile: cr.client.file, KeyFile: cr.client.file}}
}

func (cr *credentials) subject() pkix.Name {
	return pkix.Name{CommonName: identity.NodePrefix + cr.config.Node.Name, Organization: []string{identity.GroupNodes}}
}

func (cr *credentials) requestClient(ctx context.Context, as *rest.Config) error {
	return cr.request(ctx, as, cr.client, certificatesv1.KubeAPIServerClientKubeletSignerName, &x509.CertificateRequest{Subject: cr.subject()},
		certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth)
}

func (cr *credentials) requestServing(ctx context.Context) error {
	request := &x509.CertificateRequest{
		Subject: cr.subject(), DNSNames: []string{cr.config.Node.Name}, IPAddresses: []net.IP{netIP(cr.config.Node.IP)},
	}
	return cr.request(ctx, cr.restConfig(), cr.serving, certificatesv1.KubeletServingSignerName, request,
		certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth)
}

// request makes a key, has it certified by a CertificateSigningRequest, and
// keeps both.
func (cr *credentials) request(ctx context.Context, as *rest.Config, into *certificate, signer string, template *x509.CertificateRequest, usages ...certificatesv1.KeyUsage) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return err
	}
	c, err := client.NewWithWatch(as, client.Options{Scheme: builtin.NewScheme()})
	if err != nil {
		return err
	}
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "node-csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Usages: usages,
		},
	}
	if err := c.Create(ctx, csr); err != nil {
		return err
	}
	signed, err := awaitCertificate(ctx, c, csr.Name)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	if err := keep(into.file, append(bytes.TrimRight(signed, "\n"), append([]byte("\n"), keyPEM...)...)); err != nil {
		return err
	}
	return into.load()
}

func awaitCertificate(ctx context.Context, c client.WithWatch, name string) ([]byte, error) {
	w, err := c.Watch(ctx, &certificatesv1.CertificateSigningRequestList{}, client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", name)})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	var signed []byte
	_, err = watchtools.UntilWithoutRetry(ctx, w, func(ev watch.Event) (bool, error) {
		csr, ok := ev.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok {
			return false, nil
		}
		for _, cond := range csr.Status.Conditions {
			if cond.Type == certificatesv1.CertificateDenied || cond.Type == certificatesv1.CertificateFailed {
				return false, fmt.Errorf("certificate request %s was refused: %s", name, cond.Message)
			}
		}
		signed = csr.Status.Certificate
		return len(signed) > 0, nil
	})
	return signed, err
}
