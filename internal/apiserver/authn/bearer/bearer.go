// Package bearer takes the token out of a request and asks those who know
// tokens.
package bearer

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"skiff/internal/identity"
)

// Token knows the holders of some tokens. It returns (nil, nil) for tokens that
// are not of its kind.
type Token interface {
	AuthenticateToken(ctx context.Context, token string) (*identity.User, error)
}

// Authenticator implements authn.Authenticator for "Authorization: Bearer …"
// and, for browsers, the WebSocket subprotocol
// base64url.bearer.authorization.k8s.io.<token>.
type Authenticator []Token

const subprotocol = "base64url.bearer.authorization.k8s.io."

// Authenticate implements authn.Authenticator. A token that is good is taken
// out of the request, so that it travels no further.
func (a Authenticator) Authenticate(r *http.Request) (*identity.User, error) {
	token, ok := fromHeader(r)
	remove := func() { r.Header.Del("Authorization") }
	if !ok {
		var rest []string
		if token, rest = fromProtocols(r); token == "" {
			return nil, nil
		}
		remove = func() { r.Header.Set("Sec-Websocket-Protocol", strings.Join(rest, ",")) }
	}
	user, err := a.AuthenticateToken(r.Context(), token)
	if user != nil {
		remove()
		return user, nil
	}
	if err == nil {
		err = errors.New("invalid bearer token")
	}
	return nil, err
}

// AuthenticateToken implements Token: the first who knows the token wins.
func (a Authenticator) AuthenticateToken(ctx context.Context, token string) (*identity.User, error) {
	var firstErr error
	for _, t := range a {
		user, err := t.AuthenticateToken(ctx, token)
		if user != nil {
			return user, nil
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	return nil, firstErr
}

func fromHeader(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	token = strings.TrimLeft(token, " ")
	return token, ok && strings.EqualFold(scheme, "bearer") && token != ""
}

// fromProtocols returns the token and the other protocols: a server must choose
// one of those.
func fromProtocols(r *http.Request) (token string, rest []string) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", nil
	}
	for _, value := range r.Header.Values("Sec-Websocket-Protocol") {
		for protocol := range strings.SplitSeq(value, ",") {
			protocol = strings.TrimSpace(protocol)
			encoded, ok := strings.CutPrefix(protocol, subprotocol)
			if !ok {
				rest = append(rest, protocol)
				continue
			}
			if decoded, err := base64.RawURLEncoding.DecodeString(encoded); err == nil && token == "" {
				token = string(decoded)
			}
		}
	}
	if len(rest) == 0 {
		return "", nil
	}
	return token, rest
}
