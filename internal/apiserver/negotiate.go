package apiserver

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apiserver/verbs"
)

const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
)

// mediaType is what a client accepts: a serialisation and what the object is
// to be shown as.
type mediaType struct {
	Media string
	// As is a kind of meta.k8s.io (Table, PartialObjectMetadata …) or of
	// apidiscovery.k8s.io, with its group and version.
	As, Group, Version string
	Stream             bool
	Pretty             bool
}

// contentType is the answer's header. What the object is shown as is part of it
// only in discovery.
func (m *mediaType) contentType() string {
	ct := m.Media
	if m.As == discoveryKind {
		ct += ";g=" + m.Group + ";v=" + m.Version + ";as=" + m.As
	}
	return ct
}

// accepted says whether an endpoint offers a serialisation and transformation.
type accepted func(m *mediaType) bool

func plainOnly(m *mediaType) bool { return m.As == "" }

// offered is how what is asked for can be shown: custom resources have no form in
// protobuf, answers that nobody can read again only their own, and views of an
// object no table.
func offered(req *verbs.Request) accepted {
	v := req.Version
	if virtual := v.Resource().Virtual; virtual != nil && virtual.Get == nil {
		return plainOnly
	}
	view := req.Subresource != "" && req.Subresource != "status"
	return func(m *mediaType) bool {
		if m.As == "" {
			return v.Resource().Custom == nil || m.Media != mediaProtobuf
		}
		if m.Group != "meta.k8s.io" || m.Version != "v1" && m.Version != "v1beta1" {
			return false
		}
		switch m.As {
		case "Table":
			return !view && (m.Media == mediaJSON || m.Media == mediaYAML)
		case "PartialObjectMetadata", "PartialObjectMetadataList":
			return true
		}
		return false
	}
}

// negotiate picks the first of the request's accepted media types that can be
// served.
func negotiate(r *http.Request, offers accepted) (*mediaType, error) {
	header := r.Header.Get("Accept")
	if header == "" {
		header = mediaJSON
	}
	for _, clause := range goautoneg.ParseAccept(header) {
		for _, media := range servedMedia(r.Context()) {
			if m := clauseAs(&clause, media); m != nil && offers(m) {
				m.Pretty = media == mediaJSON && (m.Pretty || pretty(r))
				return m, nil
			}
		}
	}
	return nil, notAcceptable(acceptedMedia(r.Context()))
}

// clauseAs is what a clause of an Accept header wishes of a serialisation, nil if
// that is not meant or cannot be.
func clauseAs(clause *goautoneg.Accept, media string) *mediaType {
	mainType, subType, _ := strings.Cut(media, "/")
	switch {
	case clause.Type == "*" && clause.SubType == "*":
	case clause.Type != mainType:
		return nil
	case clause.SubType == subType, clause.SubType == "*", media == mediaCBOR && clause.SubType == "cbor-seq":
	default:
		return nil
	}
	p := clause.Params
	m := &mediaType{Media: media, As: p["as"], Group: p["g"], Version: p["v"], Stream: p["stream"] == "watch", Pretty: p["pretty"] == "1"}
	switch {
	case m.As == "" && (m.Group != "" || m.Version != ""), p["stream"] != "" && (!m.Stream || media == mediaYAML):
		return nil
	}
	return m
}

// pretty reports whether people will read the answer: they say so, or are at a
// terminal or in a browser.
func pretty(r *http.Request) bool {
	if asked := r.URL.Query().Get("pretty"); asked != "" {
		yes, _ := strconv.ParseBool(asked)
		return yes
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// notAcceptable refuses a request whose client takes none of what there is.
func notAcceptable(offered string) error {
	return notShown("only the following media types are accepted: " + offered)
}

// notShown refuses to show something in the form that the client wants.
func notShown(text string) error {
	e := apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "", noResource, "", "", 0, false)
	e.ErrStatus.Message = text
	e.ErrStatus.Reason = metav1.StatusReasonNotAcceptable
	e.ErrStatus.Details = nil
	return e
}

// bodyMedia is the serialisation of a request's body.
func bodyMedia(r *http.Request) (string, error) {
	ct := r.Header.Get("Content-Type")
	if ct == "" {
		return mediaJSON, nil
	}
	t, _, err := mime.ParseMediaType(ct)
	if err == nil {
		switch t {
		case mediaJSON, mediaYAML, mediaProtobuf:
			return t, nil
		case mediaCBOR:
			if offersCBOR(r.Context()) {
				return t, nil
			}
		}
	}
	e := apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, r.Method, noResource, "", "", 0, false)
	e.ErrStatus.Message = "the body of the request was in an unknown format - accepted media types include: " + acceptedMedia(r.Context())
	e.ErrStatus.Reason = "UnsupportedMediaType"
	e.ErrStatus.Details = nil
	return "", e
}
