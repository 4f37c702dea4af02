package authn_test

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/authn/jwt"
	"skiff/internal/apiserver/authn/requestheader"
	"skiff/internal/cluster"
	"skiff/internal/cluster/pki"
	"skiff/internal/cluster/testcluster"
)

// The --oidc flags are a configuration file in short.
func TestOpenIDFlags(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, i.ca())
	flags := jwt.Flags{IssuerURL: i.server.URL, ClientID: "skiff", CAFile: ca, GroupsClaim: "teams", GroupsPrefix: "oidc:", RequiredClaims: map[string]string{"org": "acme"}}
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuthenticationConfig: cluster.AuthenticationConfig{OIDC: flags}}})
	user, status, text := whoAmI(t, tc, i.token(map[string]any{"org": "acme", "teams": []string{"a", "b"}}))
	if status != http.StatusCreated || user.Username != i.server.URL+"#jane" || strings.Join(user.Groups, " ") != "oidc:a oidc:b system:authenticated" {
		t.Errorf("%d %s %+v", status, text, user)
	}
	for name, claims := range map[string]map[string]any{"without the claim": {}, "for another client": {"org": "acme", "aud": "other"}} {
		if _, status, _ := whoAmI(t, tc, i.token(claims)); status != http.StatusUnauthorized {
			t.Errorf("a token %s: %d", name, status)
		}
	}

	for name, tt := range map[string]struct {
		change func(f *jwt.Flags)
		want   string
	}{
		"no client":         {func(f *jwt.Flags) { f.ClientID = "" }, "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"},
		"no issuer":         {func(f *jwt.Flags) { f.IssuerURL = "" }, "oidc-issuer-url and oidc-client-id must be specified together"},
		"plain HTTP":        {func(f *jwt.Flags) { f.IssuerURL = "http://issuer.example.com" }, "URL scheme must be https"},
		"no such file":      {func(f *jwt.Flags) { f.CAFile = "/nowhere" }, "--oidc-ca-file: open /nowhere"},
		"unknown algorithm": {func(f *jwt.Flags) { f.SigningAlgs = []string{"none"} }, `--oidc-signing-algs: "none" is none of`},
		"own issuer":        {func(f *jwt.Flags) { f.IssuerURL = "https://own" }, "must not overlap with disallowed issuers"},
	} {
		f := flags
		tt.change(&f)
		if _, err := f.Load([]string{"https://own"}, clock.RealClock{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

// TestFrontProxy asks through proxies that prove themselves by certificates.
func TestFrontProxy(t *testing.T) {
	t.Parallel()
	outside, err := pki.Open(pki.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(outside.FrontProxyCA.PEM))
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuthenticationConfig: cluster.AuthenticationConfig{
		RequestHeader: requestheader.Headers{Username: []string{"X-Remote-User", "X-Name"}, ExtraPrefix: []string{"X-More-"}}, RequestHeaderClientCAFile: ca,
	}}})
	ask := func(certificate *tls.Certificate, headers ...string) (authenticationv1.UserInfo, int) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, tc.URL()+"/apis/authentication.k8s.io/v1/selfsubjectreviews", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		for k := 0; k < len(headers); k += 2 {
			request.Header.Add(headers[k], headers[k+1])
		}
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: tc.PKI.CA.Pool(), Certificates: []tls.Certificate{*certificate}}}
		defer transport.CloseIdleConnections()
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var review authenticationv1.SelfSubjectReview
		if response.StatusCode == http.StatusCreated {
			if err := json.NewDecoder(response.Body).Decode(&review); err != nil {
				t.Fatal(err)
			}
		}
		return review.Status.UserInfo, response.StatusCode
	}
	headers := []string{"X-Remote-User", "jane", "X-Remote-Group", "devs", "X-Remote-Group", "ops", "X-Remote-Uid", "7", "X-More-Scopes", "view"}
	for name, certificate := range map[string]*tls.Certificate{"the cluster's own": tc.PKI.FrontProxyClient.Certificate(), "an outside proxy": outside.FrontProxyClient.Certificate()} {
		user, code := ask(certificate, headers...)
		if code != http.StatusCreated || user.Username != "jane" || user.UID != "7" || strings.Join(user.Groups, " ") != "devs ops system:authenticated" || user.Extra["scopes"][0] != "view" {
			t.Errorf("through %s: %d %+v", name, code, user)
		}
	}
	if user, code := ask(outside.FrontProxyClient.Certificate(), "X-Name", "joe"); code != http.StatusCreated || user.Username != "joe" {
		t.Errorf("by the second header: %d %+v", code, user)
	}
	// A client's own certificate names nobody but itself, an unknown one nobody.
	if user, _ := ask(tc.PKI.Admin.Certificate(), headers...); user.Username == "jane" {
		t.Errorf("the administrator is believed to be %+v", user)
	}
	if user, code := ask(outside.Admin.Certificate(), headers...); code != http.StatusUnauthorized {
		t.Errorf("a stranger: %d %+v", code, user)
	}
	var info corev1.ConfigMap
	if err := tc.Client.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: "extension-apiserver-authentication"}, &info); err != nil {
		t.Fatal(err)
	}
	if info.Data["requestheader-username-headers"] != `["X-Remote-User","X-Name"]` || info.Data["requestheader-allowed-names"] != "[]" || !strings.Contains(info.Data["requestheader-client-ca-file"], string(outside.FrontProxyCA.PEM)) {
		t.Errorf("extension servers are told %v", info.Data)
	}
}
