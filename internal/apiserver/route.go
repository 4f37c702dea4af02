package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"skiff/internal/apiserver/verbs"
)

// methods are the HTTP methods of a built-in resource's path, none if there is
// no such path. What upstream answers to anything else depends on it: a path that
// is there without the method is 405, one that is not is 404.
func (s *Server) methods(info *requestInfo, v *verbs.Version) (out []string) {
	res := v.Resource()
	named := info.Name != "" && !info.Selected
	add := func(verb, method string) {
		if res.Serves(verb) {
			out = append(out, method)
		}
	}
	everywhere := res.Namespaced && !info.Inside
	switch {
	case info.Inside && !res.Namespaced, everywhere && named, info.Rest != "" && info.Subresource != "proxy":
	case info.Watching:
		if info.Subresource == "" {
			add("watch", http.MethodGet)
		}
	case info.Subresource != "":
		for _, sub := range subresources(v) {
			if sub.name != info.Subresource {
				continue
			}
			for _, verb := range sub.verbs {
				out = append(out, methodOf[verb])
			}
			if sub.name == "proxy" {
				out = append(out, http.MethodHead, http.MethodOptions)
			}
		}
	case named:
		for _, verb := range []string{"get", "update", "patch", "delete"} {
			add(verb, methodOf[verb])
		}
	default:
		add("list", http.MethodGet)
		if !everywhere {
			add("create", http.MethodPost)
			add("deletecollection", http.MethodDelete)
		}
	}
	return out
}

var methodOf = map[string]string{
	"get": http.MethodGet, "create": http.MethodPost, "update": http.MethodPut, "patch": http.MethodPatch, "delete": http.MethodDelete,
}

// routed refuses what no path or no method of it is there for.
func (s *Server) routed(r *http.Request, info *requestInfo, v *verbs.Version) error {
	methods := s.methods(info, v)
	if len(methods) == 0 {
		return notFound()
	}
	if !slices.Contains(methods, r.Method) {
		return noMethod(info.Verb)
	}
	if r.Method == http.MethodPatch && info.Subresource != "proxy" && !listed(patchMedia(r.Context()), r.Header.Get("Content-Type")) {
		return refused(http.StatusUnsupportedMediaType, "415: Unsupported Media Type")
	}
	return produced(r, produces(r.Context(), info, v))
}

// patchMedia are the media types of patches.
func patchMedia(ctx context.Context) []string {
	media := []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}
	if offersCBOR(ctx) {
		media = append(media, string(types.ApplyCBORPatchType))
	}
	return media
}

// produces are the media types of a path's answers, nil if there may be any.
func produces(ctx context.Context, info *requestInfo, v *verbs.Version) []string {
	media := servedMedia(ctx)
	if info.Subresource != "" {
		if sub := v.Resource().Subresource(info.Subresource); sub != nil && sub.Prepare == nil && sub.Create == nil {
			if sub.Name != "log" {
				return nil
			}
			return append([]string{"text/plain"}, media...)
		}
		return media
	}
	if info.Verb == "list" || info.Verb == "watch" {
		media = append(media, mediaJSON+";stream=watch", mediaProtobuf+";stream=watch")
		if offersCBOR(ctx) {
			media = append(media, mediaCBORSequence)
		}
	}
	return media
}

// produced refuses a request whose client names none of the media types. What
// else it says of them is looked at later.
func produced(r *http.Request, media []string) error {
	accept := r.Header.Get("Accept")
	if accept == "" || media == nil || listed(append([]string{"*/*"}, media...), accept) {
		return nil
	}
	return refused(http.StatusNotAcceptable, "406: Not Acceptable\n\nAvailable representations: "+strings.Join(media, ", "))
}

// listed reports whether a header names one of the media types.
func listed(media []string, header string) bool {
	for clause := range strings.SplitSeq(header, ",") {
		name, _, _ := strings.Cut(clause, ";")
		if slices.Contains(media, strings.Trim(name, " ")) {
			return true
		}
	}
	return false
}

func refused(code int, text string) error {
	return apierrors.NewGenericServerResponse(code, "", noResource, "", text, 0, false)
}

// noMethod is the answer to a method that a path does not have.
func noMethod(verb string) error {
	return apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, verb, noResource, "", "", 0, false)
}

// getOnly reports whether the request's method is GET, and otherwise refuses it.
func getOnly(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	writeError(w, r, noMethod(r.Method))
	return false
}
