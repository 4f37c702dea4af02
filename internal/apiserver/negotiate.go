package apiserver

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

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

// contentType is the answer's header.
func (m *mediaType) contentType() string {
	ct := m.Media
	if m.As != "" {
		ct += ";g=" + m.Group + ";v=" + m.Version + ";as=" + m.As
	}
	return ct
}

// accepted says whether an endpoint offers a serialisation and transformation.
type accepted func(m *mediaType) bool

func plainOnly(m *mediaType) bool { return m.As == "" }

// offered is what offers says, as far as objects of the version have such a
// form: custom resources have none in protobuf.
func offered(v *verbs.Version, offers accepted) accepted {
	if v.Resource().Custom == nil {
		return offers
	}
	return func(m *mediaType) bool { return (m.Media != mediaProtobuf || m.As != "") && offers(m) }
}

func metaKinds(kinds ...string) accepted {
	return func(m *mediaType) bool {
		if m.As == "" {
			return true
		}
		return m.Group == "meta.k8s.io" && (m.Version == "v1" || m.Version == "v1beta1") && slices.Contains(kinds, m.As)
	}
}

// negotiate picks the first of the request's accepted media types that can be
// served.
func negotiate(r *http.Request, offers accepted) (*mediaType, error) {
	header := strings.Join(r.Header.Values("Accept"), ",")
	pretty := r.URL.Query().Get("pretty")
	asked := pretty == "1" || pretty == "true"
	if header == "" {
		return &mediaType{Media: mediaJSON, Pretty: asked}, nil
	}
	var best *mediaType
	bestQ := 0.0
	for _, clause := range strings.Split(header, ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil {
			continue
		}
		q := 1.0
		if v, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(v, 64); err != nil {
				continue
			}
		}
		m := &mediaType{As: params["as"], Group: params["g"], Version: params["v"], Stream: params["stream"] == "watch"}
		switch t {
		case mediaJSON, "application/*", "*/*":
			m.Media = mediaJSON
		case mediaYAML:
			m.Media = mediaYAML
		case mediaProtobuf:
			m.Media = mediaProtobuf
		case mediaCBOR, mediaCBORSequence:
			if !offersCBOR(r.Context()) {
				continue
			}
			m.Media = mediaCBOR
		default:
			continue
		}
		if !offers(m) {
			continue
		}
		if q > bestQ {
			best, bestQ = m, q
		}
	}
	if best == nil {
		return nil, notAcceptable(r, acceptedMedia(r.Context()))
	}
	best.Pretty = asked
	if !asked && pretty == "" && best.Media == mediaJSON {
		// People at a terminal or in a browser read what they get.
		agent := r.UserAgent()
		best.Pretty = strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
	}
	return best, nil
}

// notAcceptable refuses a request whose client takes none of what there is.
func notAcceptable(r *http.Request, offered string) error {
	e := apierrors.NewGenericServerResponse(http.StatusNotAcceptable, r.Method, noResource, "", "", 0, false)
	e.ErrStatus.Message = "only the following media types are accepted: " + offered
	e.ErrStatus.Reason = "NotAcceptable"
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
