package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// token is that of the administrator of upstream's control plane.
const token = "administrator"

// startUpstream starts upstream's control plane on the data below dir: etcd and
// kube-apiserver, which count for the time until it is ready, and then
// kube-controller-manager and kube-scheduler, whose limits on requests are lifted.
func (b *bench) startUpstream(ctx context.Context, dir string) (*server, error) {
	var ports [3]int
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	key, tokens, kubeconfig := filepath.Join(dir, "accounts.pem"), filepath.Join(dir, "tokens.csv"), filepath.Join(dir, "kubeconfig")
	address := "https://127.0.0.1:" + strconv.Itoa(ports[2])
	if _, err := os.Stat(key); err != nil {
		if err := writeKey(key); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(tokens, []byte(token+",admin,admin,system:masters\n"), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":%q,"insecure-skip-tls-verify":true}}],
"users":[{"name":"c","user":{"token":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"c"}}]}`, address, token), 0o600); err != nil {
		return nil, err
	}
	s := &server{api: &api{base: address, tls: anyServer(), token: token}}
	run := func(program string, args ...string) error {
		p, err := start(filepath.Join(b.upstream, program), args...)
		if err == nil {
			s.processes = append(s.processes, p)
		}
		return err
	}
	clients, peers := "http://127.0.0.1:"+strconv.Itoa(ports[0]), "http://127.0.0.1:"+strconv.Itoa(ports[1])
	began := time.Now()
	err := errors.Join(
		run("etcd", "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", clients, "--advertise-client-urls", clients,
			"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers, "--log-level", "error"),
		run("kube-apiserver", "--etcd-servers", clients, "--secure-port", strconv.Itoa(ports[2]), "--bind-address", "127.0.0.1",
			"--advertise-address", "10.255.255.1", "--cert-dir", filepath.Join(dir, "certificates"), "--token-auth-file", tokens,
			"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--service-cluster-ip-range", "10.43.0.0/16",
			"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key, "--service-account-signing-key-file", key, "-v", "0"))
	if err == nil {
		err = s.untilReady(ctx, s.api)
	}
	s.readyAfter = time.Since(began)
	if err == nil {
		err = errors.Join(
			run("kube-controller-manager", "--kubeconfig", kubeconfig, "--secure-port", "0", "--use-service-account-credentials",
				"--service-account-private-key-file", key, "--leader-elect=false", "--kube-api-qps", "5000", "--kube-api-burst", "5000", "-v", "0"),
			run("kube-scheduler", "--kubeconfig", kubeconfig, "--secure-port", "0", "--leader-elect=false", "--kube-api-qps", "5000", "--kube-api-burst", "5000", "-v", "0"))
	}
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func writeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}
