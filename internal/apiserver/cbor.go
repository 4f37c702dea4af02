package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/watch"

	"skiff/internal/apiserver/verbs"
)

// CBOR (KEP-4222) is served where the feature gate says so. Requests in it are
// read by way of JSON, so that the same is right and wrong in both; answers are
// written as the library does, but for the parts that are made once for all
// readers.

const (
	mediaCBOR         = "application/cbor"
	mediaCBORSequence = "application/cbor-seq"
)

// selfDescribed is the tag that begins every document.
const selfDescribed = "\xd9\xd9\xf7"

type cborKey struct{}

// offersCBOR reports whether the server speaks CBOR.
func offersCBOR(ctx context.Context) bool { return ctx.Value(cborKey{}) != nil }

// servedMedia are the serialisations that answers can have.
func servedMedia(ctx context.Context) []string {
	if offersCBOR(ctx) {
		return []string{mediaJSON, mediaYAML, mediaProtobuf, mediaCBOR}
	}
	return []string{mediaJSON, mediaYAML, mediaProtobuf}
}

// acceptedMedia are those that error messages name.
func acceptedMedia(ctx context.Context) string { return strings.Join(servedMedia(ctx), ", ") }

// jsonOfCBOR returns a document as JSON.
func jsonOfCBOR(data []byte) ([]byte, error) {
	var v any
	if err := direct.Unmarshal(data, &v); err != nil {
		return nil, apierrors.NewBadRequest("error decoding CBOR: " + err.Error())
	}
	if _, ok := v.(map[string]any); !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding CBOR: the document is a %T, not a map", v))
	}
	out, err := json.Marshal(v)
	if err != nil {
		return nil, apierrors.NewBadRequest("error decoding CBOR: " + err.Error())
	}
	return out, nil
}

// encodeCBOR returns an object of a type of its own with apiVersion and kind.
func encodeCBOR(obj runtime.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	data, err := direct.Marshal(obj)
	if err != nil {
		return nil, err
	}
	if obj.GetObjectKind().GroupVersionKind().Kind == "" {
		if data, err = cborWithKind(gvk, data); err != nil {
			return nil, err
		}
	}
	return append([]byte(selfDescribed), data...), nil
}

// cborEntry returns an item, made by encodeItem, as a document of its own.
func cborEntry(v *verbs.Version, item []byte) ([]byte, error) {
	if v.Resource().Custom == nil {
		var err error
		if item, err = cborWithKind(v.GVK(), item); err != nil {
			return nil, err
		}
	}
	return append([]byte(selfDescribed), item...), nil
}

// cborWithKind puts apiVersion and kind in front of the fields of a map.
func cborWithKind(gvk schema.GroupVersionKind, data []byte) ([]byte, error) {
	n, rest, ok := cborHead(data)
	if !ok || data[0]>>5 != cborMap {
		return nil, fmt.Errorf("%s is not encoded as a map", gvk)
	}
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	out := make([]byte, 0, len(data)+len(apiVersion)+len(kind)+32)
	out = appendCBORHead(out, cborMap, n+2)
	out = appendCBORString(out, "apiVersion")
	out = appendCBORString(out, apiVersion)
	out = appendCBORString(out, "kind")
	out = appendCBORString(out, kind)
	return append(out, rest...), nil
}

// encodeCBORList returns a list of stored objects.
func encodeCBORList(ctx context.Context, v *verbs.Version, list *verbs.ListResult) ([]byte, error) {
	items, size, err := encodeItems(ctx, v, list, mediaCBOR)
	if err != nil {
		return nil, err
	}
	var shown any = listMeta(list)
	if v.Resource().Custom != nil {
		shown = customListMeta(list)
	}
	meta, err := direct.Marshal(shown)
	if err != nil {
		return nil, err
	}
	apiVersion, kind := v.GroupVersion().WithKind(v.Resource().ListKind).ToAPIVersionAndKind()
	out := append(make([]byte, 0, size+len(meta)+256), selfDescribed...)
	out = appendCBORHead(out, cborMap, 4)
	out = appendCBORString(out, "kind")
	out = appendCBORString(out, kind)
	out = appendCBORString(out, "items")
	out = appendCBORHead(out, cborArray, uint64(len(items)))
	for _, item := range items {
		out = append(out, item...)
	}
	out = appendCBORString(out, "metadata")
	out = append(out, meta...)
	out = appendCBORString(out, "apiVersion")
	return appendCBORString(out, apiVersion), nil
}

// appendCBOREvent appends an event whose object is a document.
func appendCBOREvent(dst []byte, t watch.EventType, object []byte) []byte {
	dst = append(dst, selfDescribed...)
	dst = appendCBORHead(dst, cborMap, 2)
	dst = appendCBORString(dst, "type")
	dst = appendCBORString(dst, string(t))
	dst = appendCBORString(dst, "object")
	return append(dst, object...)
}

// The major types that are written here. Text is written as bytes, as the
// library does: not every string is UTF-8.
const (
	cborBytes = 2
	cborArray = 4
	cborMap   = 5
)

func appendCBORString(dst []byte, s string) []byte {
	return append(appendCBORHead(dst, cborBytes, uint64(len(s))), s...)
}

// appendCBORHead appends the head of an item with so many bytes or entries.
func appendCBORHead(dst []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(dst, major|byte(n))
	case n <= math.MaxUint8:
		return append(dst, major|24, byte(n))
	case n <= math.MaxUint16:
		return append(dst, major|25, byte(n>>8), byte(n))
	default:
		return append(dst, major|26, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

// cborHead reads the head of an item of a definite length.
func cborHead(data []byte) (n uint64, rest []byte, ok bool) {
	if len(data) == 0 {
		return 0, nil, false
	}
	info := data[0] & 0x1f
	if info < 24 {
		return uint64(info), data[1:], true
	}
	size := 1 << (info - 24)
	if info > 26 || len(data) < 1+size {
		return 0, nil, false
	}
	for _, b := range data[1 : 1+size] {
		n = n<<8 | uint64(b)
	}
	return n, data[1+size:], true
}
