package serviceaccount_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/serviceaccount"
)

const url = "https://kubernetes.default.svc.cluster.local"

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// objects is storage that only has something to read.
type objects struct {
	apis.Storage
	byName map[string]apis.Object
}

func (o objects) Get(_ context.Context, r schema.GroupResource, namespace, name string) (apis.Object, error) {
	if obj, ok := o.byName[r.Resource+"/"+name]; ok && obj.GetNamespace() == namespace {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(r, name)
}

func state() objects {
	return objects{byName: map[string]apis.Object{
		"serviceaccounts/app": &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "app", UID: "sa-1"}},
		"pods/p":              &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p", UID: "pod-1"}, Spec: corev1.PodSpec{ServiceAccountName: "app", NodeName: "n"}},
		"pods/other":          &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "other", UID: "pod-2"}, Spec: corev1.PodSpec{ServiceAccountName: "other"}},
		"secrets/s":           &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "s", UID: "secret-1"}},
		"nodes/n":             &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node-1"}},
	}}
}

func setup(t *testing.T) (*serviceaccount.Issuer, *serviceaccount.Verifier) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := serviceaccount.NewIssuer(url, key)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := serviceaccount.NewVerifier([]string{url}, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return issuer, verifier
}

func TestTokenCreate(t *testing.T) {
	issuer, verifier := setup(t)
	create := serviceaccount.TokenCreate(issuer, []string{url}, testingclock.NewFakePassiveClock(now), func(context.Context, string, string) {})
	bound := func(kind, name, uid string) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}
	}
	for _, tt := range []struct {
		name, account string
		request       authenticationv1.TokenRequest
		kubernetes    string
		lifetime      time.Duration
		err           string
	}{
		{name: "plain", account: "app", lifetime: time.Hour,
			kubernetes: `{"namespace":"x","serviceaccount":{"name":"app","uid":"sa-1"}}`},
		{name: "pod", account: "app", lifetime: 2 * time.Hour,
			request:    authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "p", "pod-1"), ExpirationSeconds: ptr.To[int64](7200)}},
			kubernetes: `{"namespace":"x","node":{"name":"n","uid":"node-1"},"pod":{"name":"p","uid":"pod-1"},"serviceaccount":{"name":"app","uid":"sa-1"}}`},
		{name: "pod's own", account: "app", lifetime: 365 * 24 * time.Hour,
			request:    authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "p", ""), ExpirationSeconds: ptr.To[int64](3607)}},
			kubernetes: `{"namespace":"x","node":{"name":"n","uid":"node-1"},"pod":{"name":"p","uid":"pod-1"},"serviceaccount":{"name":"app","uid":"sa-1"},"warnafter":1777640407}`},
		{name: "pod's, for another", account: "app", lifetime: 3607 * time.Second,
			request:    authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}, BoundObjectRef: bound("Pod", "p", ""), ExpirationSeconds: ptr.To[int64](3607)}},
			kubernetes: `{"namespace":"x","node":{"name":"n","uid":"node-1"},"pod":{"name":"p","uid":"pod-1"},"serviceaccount":{"name":"app","uid":"sa-1"}}`},
		{name: "secret", account: "app", lifetime: time.Hour,
			request:    authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Secret", "s", "")}},
			kubernetes: `{"namespace":"x","secret":{"name":"s","uid":"secret-1"},"serviceaccount":{"name":"app","uid":"sa-1"}}`},
		{name: "node", account: "app", lifetime: time.Hour,
			request:    authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Node", "n", "")}},
			kubernetes: `{"namespace":"x","node":{"name":"n","uid":"node-1"},"serviceaccount":{"name":"app","uid":"sa-1"}}`},

		{name: "no account", account: "none", err: `serviceaccounts "none" not found`},
		{name: "short", account: "app", request: authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](599)}},
			err: `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes`},
		{name: "long", account: "app", request: authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](1<<32 + 1)}},
			err: `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds`},
		{name: "another's pod", account: "app", request: authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "other", "")}},
			err: `cannot bind token for serviceaccount "app" to pod running with different serviceaccount name.`},
		{name: "kind", account: "app", request: authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("ConfigMap", "c", "")}},
			err: `cannot bind token to object of type /v1, Kind=ConfigMap`},
		{name: "another life", account: "app", request: authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound("Pod", "p", "pod-0")}},
			err: `Operation cannot be fulfilled on Pod "p": the UID in the bound object reference (pod-0) does not match the UID in record. The object might have been deleted and then recreated`},
		{name: "another name", account: "app", request: authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: "z"}},
			err: `TokenRequest.authentication.k8s.io "app" is invalid: metadata.name: Invalid value: "z": must match the service account name if specified`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer, err := create(t.Context(), state(), "x", tt.account, &tt.request, false)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("got  %v\nwant %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			request := answer.(*authenticationv1.TokenRequest)
			claims, err := verifier.Verify(request.Status.Token)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := json.Marshal(claims.Kubernetes); string(got) != tt.kubernetes {
				t.Errorf("got  %s\nwant %s", got, tt.kubernetes)
			}
			if got := claims.Expiry.Time().Sub(now); got != tt.lifetime {
				t.Errorf("lasts %s, want %s", got, tt.lifetime)
			}
			if want := now.Add(time.Duration(*request.Spec.ExpirationSeconds) * time.Second); !request.Status.ExpirationTimestamp.Time.Equal(want) {
				t.Errorf("ends %s, want %s", request.Status.ExpirationTimestamp, want)
			}
			if claims.Subject != "system:serviceaccount:x:app" || claims.ID == "" || claims.Issuer != url {
				t.Errorf("claims %+v", claims)
			}
		})
	}
	answer, err := create(t.Context(), state(), "x", "app", &authenticationv1.TokenRequest{}, true)
	if err != nil || answer.(*authenticationv1.TokenRequest).Status.Token == "" {
		t.Errorf("a dry run gives no token: %v, %v", answer, err)
	}
}

func TestVerify(t *testing.T) {
	issuer, verifier := setup(t)
	foreign, _ := setup(t)
	token, err := issuer.Issue(serviceaccount.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(token); err != nil {
		t.Error(err)
	}
	forged, err := foreign.Issue(serviceaccount.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(forged); err == nil {
		t.Error("a token that is signed by another key is taken")
	}
	parts := strings.Split(token, ".")
	unsigned := "eyJhbGciOiJub25lIn0." + parts[1] + "."
	for _, bad := range []string{"", "x", "a.b.c", unsigned} {
		if _, err := verifier.Verify(bad); !errors.Is(err, serviceaccount.ErrNotOurs) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	verifier, err := serviceaccount.NewVerifier([]string{url}, &key.PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ4In0.AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := verifier.Verify(token); err == nil {
			t.Errorf("%q is taken: %+v", token, c)
		}
	})
}

func TestDiscovery(t *testing.T) {
	issuer, _ := setup(t)
	config, keys, err := issuer.Discovery("https://192.0.2.1:6443/openid/v1/jwks")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	config.ServeHTTP(w, httptest.NewRequest("GET", serviceaccount.ConfigurationPath, nil))
	want := `{"issuer":"` + url + `","jwks_uri":"https://192.0.2.1:6443/openid/v1/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`
	if w.Body.String() != want {
		t.Errorf("got %s", w.Body)
	}
	w = httptest.NewRecorder()
	keys.ServeHTTP(w, httptest.NewRequest("GET", serviceaccount.KeySetPath, nil))
	if body := w.Body.String(); !strings.Contains(body, `"kty":"EC"`) || strings.Contains(body, `"d":`) {
		t.Errorf("key set %s", body)
	}
}
