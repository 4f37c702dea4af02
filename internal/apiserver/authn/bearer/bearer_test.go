package bearer_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http/httptest"
	"testing"

	"skiff/internal/apiserver/authn/bearer"
	"skiff/internal/identity"
)

// known knows one token, and complains about those that begin with "bad".
type known string

func (k known) AuthenticateToken(_ context.Context, token string) (*identity.User, error) {
	switch {
	case token == string(k):
		return &identity.User{Name: "holder of " + token}, nil
	case len(token) > 3 && token[:3] == "bad":
		return nil, errors.New("token has expired")
	}
	return nil, nil
}

func TestAuthenticate(t *testing.T) {
	const prefix = "base64url.bearer.authorization.k8s.io."
	encoded := base64.RawURLEncoding.EncodeToString([]byte("two"))
	a := bearer.Authenticator{known("one"), known("two")}
	for _, tt := range []struct {
		name, header, protocol string
		user, err              string
		// what is left in the request
		wantHeader, wantProtocol string
	}{
		{name: "nothing"},
		{name: "other scheme", header: "Basic abc", wantHeader: "Basic abc"},
		{name: "no token", header: "Bearer  ", wantHeader: "Bearer  "},
		{name: "first", header: "Bearer one", user: "holder of one"},
		{name: "second, other case", header: "bearer two", user: "holder of two"},
		{name: "unknown", header: "Bearer three", err: "invalid bearer token", wantHeader: "Bearer three"},
		{name: "refused", header: "Bearer bad1", err: "token has expired", wantHeader: "Bearer bad1"},
		{name: "socket", protocol: prefix + encoded + ", v5.channel.k8s.io", user: "holder of two", wantProtocol: "v5.channel.k8s.io"},
		{name: "socket without another protocol", protocol: prefix + encoded, wantProtocol: prefix + encoded},
		{name: "socket, not encoded", protocol: prefix + "!, v5.channel.k8s.io", wantProtocol: prefix + "!, v5.channel.k8s.io"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			if tt.header != "" {
				r.Header.Set("Authorization", tt.header)
			}
			if tt.protocol != "" {
				r.Header.Set("Upgrade", "websocket")
				r.Header.Set("Sec-Websocket-Protocol", tt.protocol)
			}
			user, err := a.Authenticate(r)
			name, text := "", ""
			if user != nil {
				name = user.Name
			}
			if err != nil {
				text = err.Error()
			}
			if name != tt.user || text != tt.err {
				t.Errorf("got %q, %q; want %q, %q", name, text, tt.user, tt.err)
			}
			if h, p := r.Header.Get("Authorization"), r.Header.Get("Sec-Websocket-Protocol"); h != tt.wantHeader || p != tt.wantProtocol {
				t.Errorf("left in the request: %q, %q", h, p)
			}
		})
	}
}
