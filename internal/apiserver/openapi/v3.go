package openapi

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"

	"skiff/internal/apiserver/verbs"
)

// document is the description of one group version in OpenAPI v3. It is made
// when it is asked for, and only its encodings are kept.
type document struct {
	// versions are what it describes; none for what another server does.
	versions []*verbs.Version
	made     time.Time
	// hash identifies the content, for clients that keep documents.
	hash  func() string
	json  func() ([]byte, error)
	proto func() ([]byte, error)
}

func newDocument(build func() *spec3.OpenAPI, now time.Time) *document {
	d := &document{made: now}
	d.json = sync.OnceValues(func() ([]byte, error) { return json.Marshal(build()) })
	d.proto = sync.OnceValues(func() ([]byte, error) {
		text, err := d.json()
		if err != nil {
			return nil, err
		}
		return handler3.ToV3ProtoBinary(text)
	})
	d.hash = sync.OnceValue(func() string {
		text, err := d.json()
		if err != nil {
			return ""
		}
		return hashOf(text)
	})
	return d
}

func hashOf(data []byte) string { return fmt.Sprintf("%X", sha512.Sum512(data)) }

// documentOf describes versions, all of one group version, or paths above. What custom
// resources say is known by their definitions' identities, so that their
// documents need not be made for their hash.
func documentOf(versions []*verbs.Version, above []string, now time.Time) *document {
	d := newDocument(func() *spec3.OpenAPI {
		return withAlternatives(withRequiredBodies(openapiconv.ConvertV2ToV3(describe(versions, above, false))))
	}, now)
	d.versions = versions
	var identity []byte
	if len(above) > 0 {
		return d
	}
	for _, v := range versions {
		c := v.Resource().Custom
		if c == nil {
			return d
		}
		identity = append(append(identity, c.ID...), '\n')
	}
	d.hash = sync.OnceValue(func() string { return hashOf(identity) })
	return d
}

// withRequiredBodies completes doc, which was converted from version 2: only
// deletions need no body.
func withRequiredBodies(doc *spec3.OpenAPI) *spec3.OpenAPI {
	for _, item := range doc.Paths.Paths {
		for _, o := range []*spec3.Operation{item.Post, item.Put, item.Patch} {
			if o != nil && o.RequestBody != nil {
				o.RequestBody.Required = true
			}
		}
	}
	return doc
}

// index is what /openapi/v3 answers: where the documents are.
func index(documents map[string]*document) ([]byte, error) {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := make(map[string]entry, len(documents))
	for path, d := range documents {
		paths[path] = entry{"/openapi/v3/" + path + "?hash=" + url.QueryEscape(d.hash())}
	}
	return json.Marshal(map[string]any{"paths": paths})
}

// serveV3 answers /openapi/v3 and below.
func serveV3(w http.ResponseWriter, r *http.Request, documents map[string]*document, now time.Time) {
	path, below := strings.CutPrefix(r.URL.Path, "/openapi/v3/")
	if !below {
		data, err := index(documents)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Etag", strconv.Quote(hashOf(data)))
		http.ServeContent(w, r, "", now, bytes.NewReader(data))
		return
	}
	d := documents[path]
	if d == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	d.ServeHTTP(w, r)
}

const (
	protoMedia    = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
	oldProtoMedia = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
)

// ServeHTTP implements http.Handler.
func (d *document) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	media, encode := "application/json", d.json
	if accept := r.Header.Get("Accept"); accept != "" {
		if media = accepted(accept, protoMedia, oldProtoMedia); media == protoMedia {
			encode = d.proto
		}
	}
	if media == "" {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	hash := d.hash()
	if asked := r.URL.Query().Get("hash"); asked != "" {
		if asked != hash {
			http.Redirect(w, r, r.URL.Path+"?hash="+url.QueryEscape(hash), http.StatusMovedPermanently)
			return
		}
		// The content of this URL never changes.
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", d.made.AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	data, err := encode()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Etag", strconv.Quote(hash))
	http.ServeContent(w, r, "", d.made, bytes.NewReader(data))
}

// accepted picks the first media type of an Accept header that there is: JSON,
// or protobuf by its present name or the one before.
func accepted(header, proto, oldProto string) string {
	for _, clause := range strings.Split(header, ",") {
		media, _, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil {
			// The older name of the protobuf form is not a proper media type.
			media, _, _ = strings.Cut(strings.TrimSpace(clause), ";")
		}
		switch media {
		case "application/json", "application/*", "*/*":
			return "application/json"
		case proto, oldProto:
			return proto
		}
	}
	return ""
}
