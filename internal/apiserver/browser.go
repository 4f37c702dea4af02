package apiserver

import (
	"math/rand/v2"
	"net/http"
	"strings"
)

// browser applies what browsers ask of a server: which pages may use it, and
// that it is only ever reached over TLS. It reports whether that was all.
func (s *Server) browser(w http.ResponseWriter, r *http.Request) (answered bool) {
	if len(s.StrictTransport) > 0 {
		w.Header().Set("Strict-Transport-Security", strings.Join(s.StrictTransport, "; "))
	}
	origin := r.Header.Get("Origin")
	if origin == "" || len(s.CORSOrigins) == 0 {
		return false
	}
	for _, allowed := range s.CORSOrigins {
		if !allowed.MatchString(origin) {
			continue
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE, PATCH")
		h.Set("Access-Control-Allow-Headers", "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since")
		h.Set("Access-Control-Expose-Headers", "Date")
		h.Set("Access-Control-Allow-Credentials", "true")
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return true
		}
		return false
	}
	return false
}

// goaway now and then asks a client to connect anew.
func (s *Server) goaway(w http.ResponseWriter, r *http.Request) {
	if s.GoawayChance > 0 && r.ProtoMajor == 2 && rand.Float64() < s.GoawayChance {
		// For HTTP/2 this sends GOAWAY; what is under way is finished.
		w.Header().Set("Connection", "close")
	}
}

// probes reports whether a request asks how the server is.
func probes(r *http.Request) bool {
	for _, prefix := range []string{"/readyz", "/livez", "/healthz", "/metrics"} {
		if strings.HasPrefix(r.URL.Path, prefix) {
			return true
		}
	}
	return false
}

// refusedAtEnd refuses what is new once the server no longer serves, where that
// is wished. Probes are always answered.
func (s *Server) refusedAtEnd(w http.ResponseWriter, r *http.Request) bool {
	if !s.ShutdownRetryAfter || s.stopping.Err() == nil {
		return false
	}
	if probes(r) {
		return false
	}
	w.Header().Set("Connection", "close")
	w.Header().Set("Retry-After", "5")
	http.Error(w, "The apiserver is shutting down, please try again later.", http.StatusTooManyRequests)
	return true
}
