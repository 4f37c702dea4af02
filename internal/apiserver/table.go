package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff/internal/apis"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

var metaDocs = metav1.ObjectMeta{}.SwaggerDoc()

// defaultColumns are for resources that declare none.
func defaultColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: metaDocs["name"]},
		{Name: "Created At", Type: "date", Description: metaDocs["creationTimestamp"]},
	}
}

func defaultCells(obj apis.Object) []any {
	return []any{obj.GetName(), obj.GetCreationTimestamp().UTC().Format(time.RFC3339)}
}

// includeObject is what a table's client wants of the objects themselves.
func includeObject(r *http.Request) (metav1.IncludeObjectPolicy, error) {
	switch include := metav1.IncludeObjectPolicy(r.URL.Query().Get("includeObject")); include {
	case "":
		return metav1.IncludeMetadata, nil
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
		return include, nil
	default:
		return "", apierrors.NewBadRequest(fmt.Sprintf("Unable to convert to Table as requested: includeObject: Invalid value: %q: must be 'Metadata', 'Object', 'None', or empty", include))
	}
}

// table shows entries as rows (meta.k8s.io Table). meta is nil for a single
// object.
func (s *Server) table(r *http.Request, m *mediaType, v *verbs.Version, entries []*cache.Entry, meta *metav1.ListMeta) (*metav1.Table, error) {
	include, err := includeObject(r)
	if err != nil {
		return nil, err
	}
	d := v.Resource()
	columns, cells := d.Columns, d.Cells
	if v.Cells != nil {
		columns, cells = v.Columns, v.Cells
	}
	if cells == nil {
		columns, cells = defaultColumns(), defaultCells
	}
	t := &metav1.Table{ColumnDefinitions: columns}
	if len(entries) > 0 || d.Cells != nil || d.Custom != nil {
		t.Rows = make([]metav1.TableRow, 0, len(entries)) // otherwise null, as with upstream
	}
	if meta != nil {
		t.ListMeta = *meta
	}
	if v.Cells != nil || include == metav1.IncludeObject {
		if err := v.Prepare(r.Context(), entries); err != nil {
			return nil, err
		}
	}
	for _, e := range entries {
		obj, err := e.Object()
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		shown := obj
		if v.Cells != nil {
			// Columns of a version speak its type.
			if shown, err = v.Object(r.Context(), e); err != nil {
				return nil, err
			}
		}
		row := metav1.TableRow{Cells: cells(shown)}
		switch include {
		case metav1.IncludeMetadata:
			p := partialOf(obj)
			p.SetGroupVersionKind(metaGVK(m, "PartialObjectMetadata"))
			row.Object = runtime.RawExtension{Object: p}
		case metav1.IncludeObject:
			item, err := encodeItem(r.Context(), e, v, mediaJSON)
			if err != nil {
				return nil, err
			}
			row.Object = runtime.RawExtension{Raw: verbs.WithKind(v.GVK(), item)}
		}
		t.Rows = append(t.Rows, row)
		if meta == nil {
			t.ResourceVersion = obj.GetResourceVersion()
		}
	}
	return t, nil
}

func partialOf(obj apis.Object) *metav1.PartialObjectMetadata {
	if a, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			return &metav1.PartialObjectMetadata{ObjectMeta: *m}
		}
	}
	// Objects without a Go type carry metadata as a map.
	p := &metav1.PartialObjectMetadata{}
	if data, err := json.Marshal(obj); err == nil {
		_ = json.Unmarshal(data, p)
	}
	p.TypeMeta = metav1.TypeMeta{}
	return p
}

func partial(_ *verbs.Version, e *cache.Entry) (*metav1.PartialObjectMetadata, error) {
	obj, err := e.Object()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return partialOf(obj), nil
}

func partialList(v *verbs.Version, entries []*cache.Entry, meta *metav1.ListMeta) (*metav1.PartialObjectMetadataList, error) {
	out := &metav1.PartialObjectMetadataList{ListMeta: *meta}
	for _, e := range entries {
		p, err := partial(v, e)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, *p)
	}
	return out, nil
}
