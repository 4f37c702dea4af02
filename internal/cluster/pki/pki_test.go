package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
	testingclock "k8s.io/utils/clock/testing"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func options(t *testing.T) (Options, *testingclock.FakeClock) {
	t.Helper()
	c := testingclock.NewFakeClock(start)
	return Options{
		Dir: filepath.Join(t.TempDir(), "pki"), Names: []string{"box", "box", ""},
		IPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("192.0.2.7"), {}}, Clock: c,
	}, c
}

func mustOpen(t *testing.T, o Options) *Bundle {
	t.Helper()
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestServingCertificateIsGoodForEveryWayToReachTheServer(t *testing.T) {
	o, c := options(t)
	b := mustOpen(t, o)
	for _, host := range []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"localhost", "127.0.0.1", "::1", "box", "10.96.0.1", "192.0.2.7",
	} {
		_, err := b.Serving.Certificate().Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: b.CA.Pool(), CurrentTime: c.Now()})
		if err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := b.Serving.Certificate().Leaf.Verify(x509.VerifyOptions{Roots: b.FrontProxyCA.Pool(), CurrentTime: c.Now()}); err == nil {
		t.Error("the front proxy's authority vouches for the server")
	}
}

func TestClientCertificates(t *testing.T) {
	o, c := options(t)
	b := mustOpen(t, o)
	kubelet, serving, err := b.Kubelet("node-a", netip.MustParseAddr("192.0.2.7"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		pair        *Pair
		by          *Authority
		user, group string
	}{
		{b.Admin, b.CA, "kubernetes-admin", "system:masters"},
		{b.KubeletClient, b.CA, "kube-apiserver-kubelet-client", "system:masters"},
		{b.ControllerManager, b.CA, "system:kube-controller-manager", ""},
		{b.Scheduler, b.CA, "system:kube-scheduler", ""},
		{b.FrontProxyClient, b.FrontProxyCA, "front-proxy-client", ""},
		{kubelet, b.CA, "system:node:node-a", "system:nodes"},
	} {
		leaf := tt.pair.Certificate().Leaf
		if leaf.Subject.CommonName != tt.user || strings.Join(leaf.Subject.Organization, ",") != tt.group {
			t.Errorf("got %s, want user %q in group %q", leaf.Subject, tt.user, tt.group)
		}
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: tt.by.Pool(), CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err != nil {
			t.Errorf("%s: %v", tt.user, err)
		}
	}
	if err := serving.Certificate().Leaf.VerifyHostname("192.0.2.7"); err != nil {
		t.Error(err)
	}
}

func TestSecondOpenChangesNothing(t *testing.T) {
	o, _ := options(t)
	mustOpen(t, o)
	before := contents(t, o.Dir)
	mustOpen(t, o)
	for file, data := range contents(t, o.Dir) {
		if before[file] != data {
			t.Errorf("%s changed", file)
		}
		delete(before, file)
	}
	if len(before) > 0 {
		t.Errorf("files vanished: %v", before)
	}
}

func TestKeysAreForTheOwnerOnly(t *testing.T) {
	o, _ := options(t)
	mustOpen(t, o)
	keys, err := filepath.Glob(filepath.Join(o.Dir, "*.key"))
	if err != nil || len(keys) != 9 {
		t.Fatalf("keys: %v, %v", keys, err)
	}
	for _, file := range keys {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s: mode %s", file, info.Mode())
		}
	}
}

func TestRenewal(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(o *Options, step func(time.Duration))
		renewed bool
	}{
		"31 days left": {func(_ *Options, step func(time.Duration)) { step(leafValidity - 31*24*time.Hour) }, false},
		"29 days left": {func(_ *Options, step func(time.Duration)) { step(leafValidity - 29*24*time.Hour) }, true},
		"ended":        {func(_ *Options, step func(time.Duration)) { step(leafValidity + time.Hour) }, true},
		"new name":     {func(o *Options, _ func(time.Duration)) { o.Names = append(o.Names, "b.example") }, true},
		"new address": {func(o *Options, _ func(time.Duration)) {
			o.IPs = append(o.IPs, netip.MustParseAddr("2001:db8::1"))
		}, true},
		"order": {func(o *Options, _ func(time.Duration)) { o.IPs[0], o.IPs[1] = o.IPs[1], o.IPs[0] }, false},
	} {
		t.Run(name, func(t *testing.T) {
			o, c := options(t)
			first := mustOpen(t, o)
			tt.change(&o, c.Step)
			second := mustOpen(t, o)
			a, b := first.Serving.Certificate().Leaf, second.Serving.Certificate().Leaf
			if renewed := !a.Equal(b); renewed != tt.renewed {
				t.Errorf("renewed: %v, want %v", renewed, tt.renewed)
			}
			if !a.PublicKey.(*ecdsa.PublicKey).Equal(b.PublicKey) {
				t.Error("the key changed")
			}
			if !first.CA.Certificate.Equal(second.CA.Certificate) {
				t.Error("the authority changed")
			}
		})
	}
}

func TestRunRenewsWhileTheServerRuns(t *testing.T) {
	o, c := options(t)
	b := mustOpen(t, o)
	old := b.Serving.Certificate().Leaf
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx, slog.New(slog.DiscardHandler)) }()
	step := func(d time.Duration) {
		for !c.HasWaiters() {
			time.Sleep(time.Millisecond)
		}
		c.Step(d)
	}
	step(leafValidity - 20*24*time.Hour)
	step(time.Minute) // has waiters again: the round is over
	if b.Serving.Certificate().Leaf.Equal(old) {
		t.Error("not renewed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDamagedFiles(t *testing.T) {
	for _, file := range []string{"ca.crt", "ca.key", "apiserver.crt", "apiserver.key", "sa.key", "front-proxy-ca.key"} {
		for how, data := range map[string][]byte{"garbage": []byte("not PEM"), "empty": {}, "missing": nil} {
			t.Run(file+" "+how, func(t *testing.T) {
				o, _ := options(t)
				mustOpen(t, o)
				path := filepath.Join(o.Dir, file)
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if data != nil {
					if err := os.WriteFile(path, data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				_, err := Open(o)
				if how == "missing" && (file == "apiserver.crt" || file == "sa.key" || file == "ca.crt") {
					// Made again: from the key, or with nothing that depends on it.
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove") {
					t.Fatalf("error %v should name %s and say what to do", err, path)
				}
			})
		}
	}
}

func TestSign(t *testing.T) {
	o, c := options(t)
	b := mustOpen(t, o)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:a", Organization: []string{"system:nodes"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	signed, err := b.CA.Sign(request, time.Hour, usages)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, signed)
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: b.CA.Pool(), CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		t.Error(err)
	}
	if !leaf.NotAfter.Equal(start.Add(time.Hour)) || leaf.IsCA {
		t.Errorf("ends %s, CA %v", leaf.NotAfter, leaf.IsCA)
	}
	long, err := b.CA.Sign(request, 2*caValidity, usages)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := parse(t, long); !leaf.NotAfter.Equal(b.CA.Certificate.NotAfter) {
		t.Errorf("outlives the authority: %s", leaf.NotAfter)
	}
	if _, err := b.CA.Sign(request, time.Hour, []certificatesv1.KeyUsage{"world peace"}); err == nil {
		t.Error("unknown usage was taken")
	}
	request.RawTBSCertificateRequest[0] ^= 1
	if _, err := b.CA.Sign(request, time.Hour, usages); err == nil {
		t.Error("a request with a wrong signature was signed")
	}
}

func TestKubeconfig(t *testing.T) {
	o, _ := options(t)
	b := mustOpen(t, o)
	k, err := b.AdminKubeconfig("skiff", "https://192.0.2.7:6443")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "admin.kubeconfig")
	if err := k.Write(file); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://192.0.2.7:6443" || len(config.CertData) == 0 || len(config.KeyData) == 0 || string(config.CAData) != string(b.CA.PEM) {
		t.Errorf("got %v", config)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(data)
	}
	return all
}

func parse(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	certs, err := cert.ParseCertsPEM(data)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func BenchmarkFirstStart(b *testing.B) {
	for b.Loop() {
		if _, err := Open(Options{Dir: filepath.Join(b.TempDir(), "pki")}); err != nil {
			b.Fatal(err)
		}
	}
}
