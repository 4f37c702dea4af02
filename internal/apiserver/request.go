package apiserver

import (
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// requestInfo is what a URL asks for, by upstream's rules.
type requestInfo struct {
	// Verb is the API verb for resource requests, the lower-case method for
	// others.
	Verb string
	// Resource requests have a GroupVersion and Resource; others only Path.
	IsResource   bool
	GroupVersion schema.GroupVersion
	Namespace    string
	Resource     string
	Name         string
	Subresource  string
	// Rest is the path after the subresource (proxy).
	Rest string
	Path string
}

// Subresources of namespaces themselves, as opposed to resources inside one.
var namespaceSubresources = map[string]bool{"status": true, "finalize": true}

// parseRequest reads a request's URL and method.
func parseRequest(r *http.Request) *requestInfo {
	info := &requestInfo{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		info.GroupVersion = schema.GroupVersion{Version: parts[1]}
		parts = parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		info.GroupVersion = schema.GroupVersion{Group: parts[1], Version: parts[2]}
		parts = parts[3:]
	default:
		return info
	}
	info.IsResource = true
	watch := false
	if parts[0] == "watch" && len(parts) > 1 {
		watch, parts = true, parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		info.Namespace = parts[1]
		if len(parts) > 2 && !namespaceSubresources[parts[2]] {
			parts = parts[2:]
		}
	}
	info.Resource = parts[0]
	if len(parts) > 1 {
		info.Name = parts[1]
	}
	if len(parts) > 2 {
		info.Subresource = parts[2]
	}
	if len(parts) > 3 {
		info.Rest = "/" + strings.Join(parts[3:], "/")
		if strings.HasSuffix(r.URL.Path, "/") {
			info.Rest += "/"
		}
	}
	query := r.URL.Query()
	switch r.Method {
	case http.MethodPost:
		info.Verb = "create"
	case http.MethodPut:
		info.Verb = "update"
	case http.MethodPatch:
		info.Verb = "patch"
	case http.MethodDelete:
		info.Verb = "delete"
		if info.Name == "" {
			info.Verb = "deletecollection"
		}
	case http.MethodGet, http.MethodHead:
		info.Verb = "get"
		if info.Name == "" || watch {
			info.Verb = "list"
			if v, ok := query["watch"]; watch || (ok && v[0] != "false" && v[0] != "0") {
				info.Verb = "watch"
			}
		}
	}
	if info.Name == "" && (info.Verb == "list" || info.Verb == "watch" || info.Verb == "deletecollection") {
		// A selector of a single name counts as that name for authorization.
		for _, term := range strings.Split(query.Get("fieldSelector"), ",") {
			if k, v, ok := strings.Cut(term, "="); ok && k == "metadata.name" {
				info.Name = strings.TrimPrefix(v, "=")
			}
		}
	}
	return info
}

// longRunning tells requests that end when the client wants: they have no
// time limit and do not count as in flight.
func (i *requestInfo) longRunning() bool {
	if i.Verb == "watch" {
		return true
	}
	switch i.Subresource {
	case "exec", "attach", "portforward", "log", "proxy":
		return true
	}
	return false
}
