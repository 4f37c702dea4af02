package openapi

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"time"

	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/internal/apiserver/aggregate"
)

// staleAfter is how long another server is not asked again for a document that
// it gave.
const staleAfter = 2 * time.Second

// foreign is what another server says of its group version. It is asked anew,
// by the tag of what it said last, whenever somebody asks for it after a while.
// While it does not answer, its last words hold.
type foreign struct {
	extension *aggregate.Extension

	mu         sync.Mutex
	v2, v3     said
	document   *document
	definition *spec.Swagger
}

// said is a document of another server.
type said struct {
	data []byte
	tag  string
	at   time.Time
}

// renew asks for the document at path if it is old, and reports whether it is
// another one now.
func (s *said) renew(ctx context.Context, e *aggregate.Extension, path string, now time.Time) (changed bool) {
	if _, stale := e.Resources(); stale || now.Sub(s.at) < staleAfter && !s.at.IsZero() {
		return false
	}
	s.at = now
	data, tag, err := e.Read(ctx, path, "application/json", s.tag)
	if err != nil || data == nil || bytes.Equal(data, s.data) {
		return false
	}
	s.data, s.tag = data, tag
	return true
}

// renew looks whether the server says something else than before. Servers that
// do not speak version 3 are asked in version 2.
func (f *foreign) renew(ctx context.Context, v2 bool, now time.Time) (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !v2 {
		changed = f.v3.renew(ctx, f.extension, "/openapi/v3/"+pathOf(f.extension.GroupVersion), now)
	}
	if v2 || f.v3.data == nil {
		if f.v2.renew(ctx, f.extension, "/openapi/v2", now) {
			f.definition, changed = nil, true
			if doc := (&spec.Swagger{}); json.Unmarshal(f.v2.data, doc) == nil && doc.Paths != nil {
				f.definition = aggregator.FilterSpecByPathsWithoutSideEffects(doc, []string{"/" + pathOf(f.extension.GroupVersion) + "/"})
			}
		}
	}
	if changed || f.document == nil {
		f.document = newDocument(f.v3Document(), now)
	}
	return changed
}

func (f *foreign) v3Document() func() *spec3.OpenAPI {
	data, definition := f.v3.data, f.definition
	return func() *spec3.OpenAPI {
		doc := &spec3.OpenAPI{}
		switch {
		case data != nil && json.Unmarshal(data, doc) == nil:
			return doc
		case definition != nil:
			return openapiconv.ConvertV2ToV3(definition)
		}
		return &spec3.OpenAPI{Version: "3.0.0", Info: &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "unversioned"}}}
	}
}

// current is the document of version 3.
func (f *foreign) current() *document {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.document
}

// fitting returns the part of version 2, with definitions renamed that others
// have already and that say something else; nil if there is none.
func (f *foreign) fitting(have map[string]json.RawMessage) *fragments {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.definition == nil {
		return nil
	}
	own, err := encode(f.definition)
	if err != nil {
		return nil
	}
	merged := &spec.Swagger{SwaggerProps: spec.SwaggerProps{Paths: &spec.Paths{Paths: map[string]spec.PathItem{}}, Definitions: spec.Definitions{}}}
	for name, text := range own.definitions {
		if have[name] == nil || bytes.Equal(have[name], text) {
			continue
		}
		var s spec.Schema
		if s.UnmarshalJSON(have[name]) != nil {
			return nil
		}
		merged.Definitions[name] = s
	}
	if len(merged.Definitions) == 0 {
		return own
	}
	if aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(merged, f.definition) != nil {
		return nil
	}
	if own, err = encode(merged); err != nil {
		return nil
	}
	return own
}
