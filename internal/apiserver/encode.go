package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"

	"skiff/internal/apis"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

var noResource schema.GroupResource

// gzipThreshold is the size above which answers are compressed when the client
// accepts it (upstream's value).
const gzipThreshold = 128 << 10

// message is what generated protobuf types have.
type message interface {
	Size() int
	MarshalTo([]byte) (int, error)
	MarshalToSizedBuffer([]byte) (int, error)
}

// encodeItem returns an object's bytes in a served version, without type meta:
// the form that lists, watches and single objects all embed. It is made once
// for each revision, version and serialisation.
func encodeItem(ctx context.Context, e *cache.Entry, v *verbs.Version, media string) ([]byte, error) {
	if media == mediaYAML {
		media = mediaJSON
	}
	return e.Encoded(cache.Format{Version: v.GroupVersion().String(), Media: media}, func(apis.Object) ([]byte, error) {
		out, err := v.Object(ctx, e)
		if err != nil {
			return nil, err
		}
		if media == mediaProtobuf {
			m, ok := out.(interface{ Marshal() ([]byte, error) })
			if !ok {
				return nil, errNoProtobuf(v)
			}
			return m.Marshal()
		}
		if media == mediaCBOR {
			return direct.Marshal(out)
		}
		return json.Marshal(out)
	})
}

func errNoProtobuf(v *verbs.Version) error {
	return notShown(fmt.Sprintf("%s has no protobuf form: accept application/json", v.GVK()))
}

// appendEnvelope appends raw, the protobuf form of an object of the kind, in
// upstream's envelope.
func appendEnvelope(dst []byte, gvk schema.GroupVersionKind, raw []byte) []byte {
	dst = appendEnvelopeHead(dst, gvk, len(raw))
	dst = append(dst, raw...)
	return append(dst, envelopeTail...)
}

// envelopeTail are the empty content encoding and content type that end an
// envelope.
const envelopeTail = "\x1a\x00\x22\x00"

func appendEnvelopeHead(dst []byte, gvk schema.GroupVersionKind, size int) []byte {
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	dst = append(dst, 'k', '8', 's', 0)
	meta := runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}
	dst = appendTag(dst, 1, meta.Size())
	dst = appendField(dst, 1, apiVersion)
	dst = appendField(dst, 2, kind)
	return appendTag(dst, 2, size)
}

// appendTag appends the head of a length-delimited protobuf field.
func appendTag(dst []byte, field, size int) []byte {
	dst = append(dst, byte(field<<3|2))
	for size >= 0x80 {
		dst = append(dst, byte(size)|0x80)
		size >>= 7
	}
	return append(dst, byte(size))
}

func appendField[T string | []byte](dst []byte, field int, value T) []byte {
	return append(appendTag(dst, field, len(value)), value...)
}

func tagSize(size int) int {
	n := 2
	for size >= 0x80 {
		size >>= 7
		n++
	}
	return n
}

// encodeObject returns a whole object of a type of its own (a Status, a Scale,
// a review …) with apiVersion and kind.
func encodeObject(obj runtime.Object, gvk schema.GroupVersionKind, media string) ([]byte, error) {
	if media == mediaProtobuf {
		if m, ok := obj.(message); ok {
			raw := make([]byte, m.Size())
			n, err := m.MarshalToSizedBuffer(raw)
			if err != nil {
				return nil, err
			}
			return appendEnvelope(nil, gvk, raw[:n]), nil
		}
	}
	if media == mediaCBOR {
		return encodeCBOR(obj, gvk)
	}
	data, err := verbs.EncodeJSON(gvk, obj)
	if err == nil && media == mediaYAML {
		return yaml.JSONToYAML(data)
	}
	return data, err
}

// writeEntry answers with one stored object.
func writeEntry(w http.ResponseWriter, r *http.Request, m *mediaType, v *verbs.Version, e *cache.Entry, code int) error {
	item, err := encodeItem(r.Context(), e, v, m.Media)
	if err != nil {
		return err
	}
	switch m.Media {
	case mediaProtobuf:
		item = appendEnvelope(make([]byte, 0, len(item)+80), v.GVK(), item)
	case mediaCBOR:
		if item, err = cborEntry(v, item); err != nil {
			return err
		}
	case mediaYAML:
		if item, err = yaml.JSONToYAML(verbs.WithKind(v.GVK(), item)); err != nil {
			return err
		}
	default:
		item = append(verbs.WithKind(v.GVK(), item), '\n')
	}
	writeBytes(w, r, m, code, item)
	return nil
}

// listMeta is the metadata of a list. Lists of what is made up have no revision.
func listMeta(list *verbs.ListResult) metav1.ListMeta {
	meta := metav1.ListMeta{Continue: list.Continue, RemainingItemCount: list.Remaining}
	if list.Revision > 0 {
		meta.ResourceVersion = strconv.FormatInt(list.Revision, 10)
	}
	return meta
}

// encodeItems returns the entries' bytes, and how many they are with their
// tags.
func encodeItems(ctx context.Context, v *verbs.Version, list *verbs.ListResult, media string) (items [][]byte, size int, err error) {
	if err := v.Prepare(ctx, list.Entries); err != nil {
		return nil, 0, err
	}
	items = make([][]byte, len(list.Entries))
	for i, e := range list.Entries {
		item, err := encodeItem(ctx, e, v, media)
		if err != nil {
			return nil, 0, err
		}
		items[i] = item
		size += tagSize(len(item)) + len(item)
	}
	return items, size, nil
}

// encodeList returns a list of stored objects as JSON.
func encodeList(ctx context.Context, v *verbs.Version, list *verbs.ListResult) ([]byte, error) {
	items, size, err := encodeItems(ctx, v, list, mediaJSON)
	if err != nil {
		return nil, err
	}
	if v.Resource().Custom != nil {
		return encodeCustomList(v, list, items, size)
	}
	head, err := json.Marshal(listMeta(list))
	if err != nil {
		return nil, err
	}
	buf := verbs.AppendKind(make([]byte, 0, size+len(head)+256), v.GroupVersion().WithKind(v.Resource().ListKind))
	buf = append(buf, `,"metadata":`...)
	buf = append(buf, head...)
	buf = append(buf, `,"items":[`...)
	buf = append(appendItems(buf, items), "]}\n"...)
	return buf, nil
}

func appendItems(buf []byte, items [][]byte) []byte {
	for i, item := range items {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = append(buf, item...)
	}
	return buf
}

// customMeta is the metadata of a list that has no Go type with upstream.
type customMeta struct {
	Continue        string `json:"continue"`
	Remaining       *int64 `json:"remainingItemCount,omitempty"`
	ResourceVersion string `json:"resourceVersion"`
}

func customListMeta(list *verbs.ListResult) customMeta {
	meta := listMeta(list)
	return customMeta{meta.Continue, meta.RemainingItemCount, meta.ResourceVersion}
}

// encodeCustomList returns such a list, which shows in its text:
// keys are in order of their names, and whether there is more is told in any case.
func encodeCustomList(v *verbs.Version, list *verbs.ListResult, items [][]byte, size int) ([]byte, error) {
	head, err := json.Marshal(customListMeta(list))
	if err != nil {
		return nil, err
	}
	buf := fmt.Appendf(make([]byte, 0, size+len(head)+256), `{"apiVersion":%q,"items":[`, v.GroupVersion())
	return fmt.Appendf(appendItems(buf, items), "],\"kind\":%q,\"metadata\":%s}\n", v.Resource().ListKind, head), nil
}

// encodeProtobufList returns a list of stored objects in upstream's envelope.
func encodeProtobufList(ctx context.Context, v *verbs.Version, list *verbs.ListResult) ([]byte, error) {
	items, size, err := encodeItems(ctx, v, list, mediaProtobuf)
	if err != nil {
		return nil, err
	}
	meta := listMeta(list)
	raw, err := meta.Marshal()
	if err != nil {
		return nil, err
	}
	size += tagSize(len(raw)) + len(raw)
	buf := appendEnvelopeHead(make([]byte, 0, size+128), v.GroupVersion().WithKind(v.Resource().ListKind), size)
	buf = appendField(buf, 1, raw)
	for _, item := range items {
		buf = appendField(buf, 2, item)
	}
	return append(buf, envelopeTail...), nil
}

// writeList answers with a list of stored objects.
func writeList(w http.ResponseWriter, r *http.Request, m *mediaType, v *verbs.Version, list *verbs.ListResult) error {
	var buf []byte
	var err error
	switch m.Media {
	case mediaProtobuf:
		buf, err = encodeProtobufList(r.Context(), v, list)
	case mediaCBOR:
		buf, err = encodeCBORList(r.Context(), v, list)
	default:
		buf, err = encodeList(r.Context(), v, list)
		if err == nil && m.Media == mediaYAML {
			buf, err = yaml.JSONToYAML(buf)
		}
	}
	if err != nil {
		return err
	}
	writeBytes(w, r, m, http.StatusOK, buf)
	return nil
}

// writeObject answers with an object that is not a stored one.
func writeObject(w http.ResponseWriter, r *http.Request, m *mediaType, code int, obj runtime.Object, gvk schema.GroupVersionKind) {
	recordAnswer(r.Context(), obj, gvk)
	data, err := encodeObject(obj, gvk, m.Media)
	if err != nil {
		writeError(w, r, apierrors.NewInternalError(err))
		return
	}
	if m.Media == mediaProtobuf && !bytes.HasPrefix(data, []byte("k8s\x00")) {
		m = &mediaType{Media: mediaJSON}
	}
	if m.Media == mediaJSON {
		data = append(data, '\n')
	}
	writeBytes(w, r, m, code, data)
}

// writeError answers with a Status.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	m, unknown := negotiate(r, plainOnly)
	if unknown != nil {
		m = &mediaType{Media: mediaJSON, Pretty: true}
	}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	writeObject(w, r, m, int(status.Code), status, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
}

func statusOf(err error) *metav1.Status {
	if s, ok := err.(apierrors.APIStatus); ok {
		status := s.Status()
		if status.Code == 0 {
			status.Code = http.StatusInternalServerError
		}
		return &status
	}
	return &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
}

// acceptsGzip reports whether the client takes compressed answers. As with
// upstream, it must say so without a weight.
func acceptsGzip(r *http.Request) bool {
	for encoding := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(encoding) == "gzip" {
			return true
		}
	}
	return false
}

func writeBytes(w http.ResponseWriter, r *http.Request, m *mediaType, code int, data []byte) {
	if m.Pretty && m.Media == mediaJSON {
		var out bytes.Buffer
		if json.Indent(&out, bytes.TrimSpace(data), "", "  ") == nil {
			data = out.Bytes()
		}
	}
	h := w.Header()
	h.Set("Content-Type", m.contentType())
	if len(data) > gzipThreshold && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		w.WriteHeader(code)
		gz, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err == nil {
			// A client that went away is not our error.
			_, _ = gz.Write(data)
			_ = gz.Close()
		}
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, bytes.NewReader(data))
	}
}

func writeJSON(w http.ResponseWriter, r *http.Request, code int, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		writeError(w, r, apierrors.NewInternalError(err))
		return
	}
	writeBytes(w, r, &mediaType{Media: mediaJSON}, code, data)
}
