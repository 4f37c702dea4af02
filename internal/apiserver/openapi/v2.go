package openapi

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/internal/apiserver/verbs"
)

// OpenAPI v2 is one document of everything. It is put together of parts that
// are kept in their encoded form: one for all built-in resources and one for
// each other group version, so that a change costs the part that it is about.

// part is a piece of the document of v2, made when it is asked for.
type part struct {
	// versions are what it describes; none for what another server does.
	versions  []*verbs.Version
	fragments func() (*fragments, error)
}

// fragments are encoded paths, definitions and shared parameters, by name.
type fragments struct {
	paths, definitions, parameters map[string]json.RawMessage
}

func newFragments() *fragments {
	return &fragments{map[string]json.RawMessage{}, map[string]json.RawMessage{}, map[string]json.RawMessage{}}
}

// customPart is a part of custom resources. What the built-in one has as well
// is taken from there, so that it need not be kept for each.
func customPart(versions []*verbs.Version, builtin *part) *part {
	return &part{versions: versions, fragments: sync.OnceValues(func() (*fragments, error) {
		have, err := builtin.fragments()
		if err != nil {
			return nil, err
		}
		f, err := encode(describe(slices.Clone(versions), nil, true))
		if err != nil {
			return nil, err
		}
		return &fragments{f.paths, without(f.definitions, have.definitions), without(f.parameters, have.parameters)}, nil
	})}
}

func without(all, some map[string]json.RawMessage) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for name, text := range all {
		if some[name] == nil {
			out[name] = text
		}
	}
	return out
}

func partOf(versions []*verbs.Version, above []string) *part {
	return &part{versions: versions, fragments: sync.OnceValues(func() (*fragments, error) {
		return encode(describe(slices.Clone(versions), above, true))
	})}
}

func encode(doc *spec.Swagger) (*fragments, error) {
	f := newFragments()
	for name, item := range doc.Paths.Paths {
		text, err := item.MarshalJSON()
		if err != nil {
			return nil, err
		}
		f.paths[name] = text
	}
	for name, s := range doc.Definitions {
		text, err := s.MarshalJSON()
		if err != nil {
			return nil, err
		}
		f.definitions[name] = text
	}
	for name, p := range doc.Parameters {
		text, err := p.MarshalJSON()
		if err != nil {
			return nil, err
		}
		f.parameters[name] = text
	}
	return f, nil
}

// whole is the document of v2, and implements http.Handler.
type whole struct {
	made time.Time
	// fragments are those of all parts; hash identifies them.
	fragments  func() (*fragments, error)
	hash       func() string
	compressed func() ([]byte, error)
	proto      func() ([]byte, error)
}

// assemble makes the document of the parts. Of definitions with the same name
// the first is taken; what other servers say comes last, and its own
// definitions are renamed where that does not fit.
func assemble(parts []*part, others []*foreign, now time.Time) *whole {
	w := &whole{made: now}
	w.fragments = sync.OnceValues(func() (*fragments, error) {
		if err := makeAll(parts); err != nil {
			return nil, err
		}
		all := newFragments()
		for _, p := range parts {
			f, _ := p.fragments()
			all.add(f)
		}
		for _, o := range others {
			if f := o.fitting(all.definitions); f != nil {
				all.add(f)
			}
		}
		return all, nil
	})
	w.hash = sync.OnceValue(func() string {
		text, err := w.encode()
		if err != nil {
			return ""
		}
		return hashOf(text)
	})
	w.compressed = sync.OnceValues(func() ([]byte, error) {
		text, err := w.encode()
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		if _, err := z.Write(text); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		return out.Bytes(), nil
	})
	w.proto = sync.OnceValues(func() ([]byte, error) {
		text, err := w.encode()
		if err != nil {
			return nil, err
		}
		return handler.ToProtoBinary(text)
	})
	return w
}

// makeAll makes the parts that are not made yet, on all processors.
func makeAll(parts []*part) error {
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range parts {
		group.Go(func() error {
			_, err := p.fragments()
			return err
		})
	}
	return group.Wait()
}

// size is about the length of the fragments.
func (f *fragments) size() (n int) {
	for _, m := range []map[string]json.RawMessage{f.paths, f.definitions, f.parameters} {
		for name, text := range m {
			n += len(name) + len(text) + len(`"":,`)
		}
	}
	return n
}

func (f *fragments) add(more *fragments) {
	missing := func(to, from map[string]json.RawMessage) {
		for name, text := range from {
			if to[name] == nil {
				to[name] = text
			}
		}
	}
	missing(f.paths, more.paths)
	missing(f.definitions, more.definitions)
	missing(f.parameters, more.parameters)
}

// encode writes the document out, which is not kept.
func (w *whole) encode() ([]byte, error) {
	f, err := w.fragments()
	if err != nil {
		return nil, err
	}
	const frame = 4096
	var out bytes.Buffer
	out.Grow(f.size() + frame)
	object := func(name string, fields map[string]json.RawMessage) {
		out.WriteString(`"` + name + `":{`)
		for i, key := range slices.Sorted(maps.Keys(fields)) {
			if i > 0 {
				out.WriteByte(',')
			}
			out.WriteString(strconv.Quote(key))
			out.WriteByte(':')
			out.Write(fields[key])
		}
		out.WriteByte('}')
	}
	info, err := json.Marshal(header.Info)
	if err != nil {
		return nil, err
	}
	definitions, err := json.Marshal(header.SecurityDefinitions)
	if err != nil {
		return nil, err
	}
	security, err := json.Marshal(header.Security)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&out, `{"swagger":%q,"info":%s,`, header.Swagger, info)
	object("paths", f.paths)
	out.WriteByte(',')
	object("definitions", f.definitions)
	out.WriteByte(',')
	object("parameters", f.parameters)
	fmt.Fprintf(&out, `,"securityDefinitions":%s,"security":%s}`, definitions, security)
	return out.Bytes(), nil
}

// The names of the protobuf form, now and before.
const (
	protoMediaV2    = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	oldProtoMediaV2 = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
)

// ServeHTTP implements http.Handler.
func (w *whole) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	h := rw.Header()
	h.Set("Vary", "Accept, Accept-Encoding")
	media := accepted(cmp.Or(r.Header.Get("Accept"), "*/*"), protoMediaV2, oldProtoMediaV2)
	if media == "" {
		rw.WriteHeader(http.StatusNotAcceptable)
		return
	}
	tag := strconv.Quote(w.hash())
	h.Set("Etag", tag)
	h.Set("Content-Type", media)
	if r.Header.Get("If-None-Match") == tag {
		rw.WriteHeader(http.StatusNotModified)
		return
	}
	encode := w.encode
	switch {
	case media == protoMediaV2:
		encode = w.proto
	case r.Header.Get("Range") == "" && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"):
		encode = w.compressed
		h.Set("Content-Encoding", "gzip")
	}
	data, err := encode()
	if err != nil {
		h.Del("Content-Encoding")
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	http.ServeContent(rw, r, "", w.made, bytes.NewReader(data))
}
