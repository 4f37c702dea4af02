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
	// Inside is set if the path names the resource below a namespace, Watching if
	// it is one below /watch/.
	Inside, Watching bool
	// Selected is set if the name is from a field selector.
	Selected bool
	// Unclear is set if the URL is too short for what it begins with.
	Unclear bool
	Path    string
}

// Subresources of namespaces themselves, as opposed to resources inside one.
var namespaceSubresources = map[string]bool{"status": true, "finalize": true}

// verbs are what methods mean for resources; other methods mean nothing.
var verbOf = map[string]string{
	http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
	http.MethodGet: "get", http.MethodHead: "get",
}

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
	info.Verb = verbOf[r.Method]
	if parts[0] == "watch" || parts[0] == "proxy" {
		if len(parts) == 1 {
			info.Unclear = true
			return info
		}
		info.Verb, info.Watching = parts[0], parts[0] == "watch"
		parts = parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		info.Namespace = parts[1]
		if len(parts) > 2 && !namespaceSubresources[parts[2]] {
			parts, info.Inside = parts[2:], true
		}
	}
	info.Resource = parts[0]
	if len(parts) > 1 {
		info.Name = parts[1]
	}
	if len(parts) > 2 && info.Verb != "proxy" {
		info.Subresource = parts[2]
	}
	if len(parts) > 3 {
		info.Rest = "/" + strings.Join(parts[3:], "/")
		if strings.HasSuffix(r.URL.Path, "/") {
			info.Rest += "/"
		}
	}
	if info.Name != "" {
		return info
	}
	switch info.Verb {
	case "delete":
		info.Verb = "deletecollection"
	case "get":
		query := r.URL.Query()
		info.Verb = "list"
		if v, ok := query["watch"]; ok && !strings.EqualFold(v[0], "false") && v[0] != "0" {
			info.Verb = "watch"
		}
		// A selector of a single name counts as that name for authorization.
		for _, term := range strings.Split(query.Get("fieldSelector"), ",") {
			if k, v, ok := strings.Cut(term, "="); ok && k == "metadata.name" {
				info.Name = strings.TrimPrefix(v, "=")
			}
		}
		info.Selected = info.Name != ""
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
