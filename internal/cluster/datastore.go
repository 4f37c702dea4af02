package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"skiff/internal/store"
	"skiff/internal/store/etcd"
	"skiff/internal/store/pebble"
)

// openEngine opens the database: the one in the data directory, or an outside
// etcd.
func openEngine(ctx context.Context, c ServerConfig) (store.Engine, error) {
	if !c.Datastore.Shared() {
		return pebble.Open(pebble.Options{Dir: filepath.Join(c.DataDir, "db"), Log: c.Log})
	}
	return c.Datastore.open(ctx, c.Log)
}

// Shared reports whether other servers may use the same data.
func (d DatastoreConfig) Shared() bool { return len(d.Endpoints) > 0 }

func (d DatastoreConfig) open(ctx context.Context, log *slog.Logger) (store.Engine, error) {
	conf, err := d.tls()
	if err != nil {
		return nil, err
	}
	return etcd.Open(ctx, etcd.Options{Endpoints: d.Endpoints, TLS: conf, Log: log})
}

func (d DatastoreConfig) tls() (*tls.Config, error) {
	if d.CAFile == "" && d.CertFile == "" && d.KeyFile == "" {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if d.CAFile != "" {
		pem, err := os.ReadFile(d.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate of the datastore's authority: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", d.CAFile)
		}
	}
	if (d.CertFile == "") != (d.KeyFile == "") {
		return nil, fmt.Errorf("the datastore needs a certificate and its key: got certificate %q, key %q", d.CertFile, d.KeyFile)
	}
	if d.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(d.CertFile, d.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the datastore's client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
