package apiserver

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

// bookmarkInterval is how often a watcher that asked for it hears how far the
// resource has come.
const bookmarkInterval = time.Minute

// lastBookmark is how long before a watch's time is up its client hears, too,
// how far the resource has come: it can go on from there.
const lastBookmark = 2 * time.Second

// watchChunk is how many bytes of events are encoded before they are sent: a
// watch of very many objects holds no more of them.
const watchChunk = 256 << 10

// watch streams events until the client leaves or the time is up.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, m *mediaType, req *verbs.Request) error {
	o, timeout, err := listOptions(r)
	if err != nil {
		return err
	}
	if m.As == "Table" {
		if _, err := includeObject(r); err != nil {
			return err
		}
	}
	if m.Media == mediaYAML {
		return notAcceptable("application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch")
	}
	if timeout <= 0 {
		timeout = s.MinWatchTimeout + rand.N(s.MinWatchTimeout)
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	stream, err := s.Verbs.Watch(ctx, req, o)
	if err != nil {
		return err
	}
	defer stream.Stop()

	if !stream.Initial() {
		begun(r.Context())
	}
	enc := &eventEncoder{server: s, request: r, media: m, version: req.Version, told: s.metrics.watching(req.Version)}
	if stream.Initial() {
		enc.told.initial, enc.told.list = true, o.SendInitialEvents != nil && *o.SendInitialEvents
	}
	if websocket.IsWebSocketUpgrade(r) {
		s.watchSocket(ctx, w, stream, o.AllowBookmarks, enc)
		return nil
	}
	h := w.Header()
	h.Set("Content-Type", m.streamType())
	h.Set("Cache-Control", "no-cache, private")
	w.WriteHeader(http.StatusOK)
	s.sendEvents(ctx, w, stream, o.AllowBookmarks, enc)
	return nil
}

// streamType is the header of an answer of many objects.
func (m *mediaType) streamType() string {
	switch m.Media {
	case mediaProtobuf:
		return mediaProtobuf + ";stream=watch"
	case mediaCBOR:
		return mediaCBORSequence // many documents, one after the other
	}
	return m.Media
}

// sendEvents writes the events of a stream until it ends or the client leaves.
func (s *Server) sendEvents(ctx context.Context, w http.ResponseWriter, stream *verbs.Watch, bookmarks bool, enc *eventEncoder) {
	out := http.NewResponseController(w)
	if out.Flush() != nil {
		return
	}
	guard := newWriteGuard(out, s.WatchWriteTimeout)
	defer guard.end()
	var buf []byte
	for {
		events, err := s.nextEvents(ctx, stream, bookmarks)
		if err != nil {
			if ctx.Err() == nil {
				// Tell the client why, then end.
				if buf = enc.appendStatus(buf[:0], err); len(buf) > 0 {
					_, _ = w.Write(buf)
				}
			}
			return
		}
		guard.begin()
		enc.told.starting(len(events))
		buf = buf[:0]
		for i := range events {
			if buf, err = enc.append(buf, &events[i]); err != nil {
				s.Log.Error("a watch event could not be encoded", "resource", enc.version.Resource().GroupResource(), "error", err)
				_, _ = w.Write(enc.appendStatus(buf, err))
				return
			}
			if len(buf) < watchChunk && i < len(events)-1 {
				continue
			}
			if _, err := w.Write(buf); err != nil {
				return
			}
			guard.begin()
			buf = buf[:0]
		}
		if out.Flush() != nil {
			return
		}
		guard.end()
		enc.told.started(enc.request)
		begun(enc.request.Context())
		if cap(buf) > 1<<20 {
			buf = nil
		}
	}
}

// nextEvents waits for events; if none come for a while and the client wants
// bookmarks, it returns one.
func (s *Server) nextEvents(ctx context.Context, stream *verbs.Watch, bookmarks bool) ([]verbs.WatchEvent, error) {
	if !bookmarks {
		return stream.Next(ctx)
	}
	for {
		interval := bookmarkInterval
		if end, ok := ctx.Deadline(); ok {
			if left := time.Until(end) - lastBookmark; left > 0 {
				interval = min(interval, left)
			}
		}
		wait, cancel := context.WithTimeout(ctx, interval)
		events, err := stream.Next(wait)
		quiet := wait.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil || !quiet {
			return events, err
		}
		if ev, ok := stream.Bookmark(); ok {
			return []verbs.WatchEvent{ev}, nil
		}
	}
}

// eventEncoder writes events in one watcher's form.
type eventEncoder struct {
	server  *Server
	request *http.Request
	media   *mediaType
	version *verbs.Version
	// headed is set once a Table's columns have been sent.
	headed bool
	told   watching
}

// append appends an event and counts it.
func (e *eventEncoder) append(dst []byte, ev *verbs.WatchEvent) ([]byte, error) {
	out, err := e.appendEvent(dst, ev)
	if err == nil {
		e.told.events.Inc()
		e.told.sizes.Observe(float64(len(out) - len(dst)))
	}
	return out, err
}

func (e *eventEncoder) appendEvent(dst []byte, ev *verbs.WatchEvent) ([]byte, error) {
	if ev.Type == watch.Bookmark && ev.Entry == nil {
		return e.appendBookmark(dst, ev)
	}
	switch e.media.As {
	case "Table":
		t, err := e.server.table(e.request, e.media, e.version, []*cache.Entry{ev.Entry}, nil)
		if err != nil {
			return dst, err
		}
		if e.headed {
			t.ColumnDefinitions = nil
		}
		e.headed = true
		return e.appendObject(dst, ev.Type, t, metaGVK(e.media, "Table"))
	case "PartialObjectMetadata":
		p, err := partial(e.version, ev.Entry)
		if err != nil {
			return dst, err
		}
		return e.appendObject(dst, ev.Type, p, metaGVK(e.media, "PartialObjectMetadata"))
	case "PartialObjectMetadataList":
		return dst, notShown("you requested PartialObjectMetadataList, but the requested object is not a list (" + internalType(e.version, "") + ")")
	}
	item, err := encodeItem(e.request.Context(), ev.Entry, e.version, e.media.Media)
	if err != nil {
		return dst, err
	}
	gvk := e.version.GVK()
	if e.media.Media == mediaProtobuf {
		head := appendEnvelopeHead(nil, gvk, len(item))
		return appendFrame(dst, ev.Type, len(head)+len(item)+len(envelopeTail), head, item, []byte(envelopeTail)), nil
	}
	if e.media.Media == mediaCBOR {
		object, err := cborEntry(e.version, item)
		if err != nil {
			return dst, err
		}
		return appendCBOREvent(dst, ev.Type, object), nil
	}
	dst = append(dst, `{"type":"`...)
	dst = append(dst, ev.Type...)
	dst = append(dst, `","object":`...)
	if len(item) > 1 && item[1] == '"' && (hasKind(item)) {
		dst = append(dst, item...)
	} else {
		dst = verbs.AppendKind(dst, gvk)
		if len(item) > 2 {
			dst = append(dst, ',')
		}
		dst = append(dst, item[1:]...)
	}
	return append(dst, "}\n"...), nil
}

// hasKind tells encodings that carry their own type meta (custom resources).
func hasKind(item []byte) bool {
	return len(item) > 8 && (string(item[1:7]) == `"kind"` || string(item[1:8]) == `"apiVer`)
}

func (e *eventEncoder) appendBookmark(dst []byte, ev *verbs.WatchEvent) ([]byte, error) {
	rv := strconv.FormatInt(ev.Revision, 10)
	var annotations map[string]string
	if ev.InitialEventsEnd {
		annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	switch e.media.As {
	case "Table":
		obj := e.version.Resource().Hub.New()
		obj.SetResourceVersion(rv)
		obj.SetAnnotations(annotations)
		return e.appendEvent(dst, &verbs.WatchEvent{Type: ev.Type, Entry: cache.DetachedEntry("", obj)})
	case "PartialObjectMetadata":
		p := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{ResourceVersion: rv, Annotations: annotations}}
		return e.appendObject(dst, ev.Type, p, metaGVK(e.media, "PartialObjectMetadata"))
	}
	obj := e.version.Version.New()
	obj.SetResourceVersion(rv)
	obj.SetAnnotations(annotations)
	return e.appendObject(dst, ev.Type, obj, e.version.GVK())
}

// appendStatus tells the client why its watch ends; nothing when it can go on
// at once where it was.
func (e *eventEncoder) appendStatus(dst []byte, err error) []byte {
	if errors.Is(err, cache.ErrClosed) {
		return nil
	}
	out, encodeErr := e.appendObject(dst, watch.Error, statusOf(err), schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	if encodeErr != nil {
		return nil
	}
	return out
}

func (e *eventEncoder) appendObject(dst []byte, t watch.EventType, obj runtime.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	media := e.media.Media
	data, err := encodeObject(obj, gvk, media)
	if err != nil {
		return dst, err
	}
	if media == mediaProtobuf {
		return appendFrame(dst, t, len(data), data), nil
	}
	if media == mediaCBOR {
		return appendCBOREvent(dst, t, data), nil
	}
	event, err := json.Marshal(metav1.WatchEvent{Type: string(t), Object: runtime.RawExtension{Raw: data}})
	if err != nil {
		return dst, err
	}
	return append(append(dst, event...), '\n'), nil
}

// appendFrame appends a length-prefixed WatchEvent message whose object is the
// concatenation of parts, of the given total size.
func appendFrame(dst []byte, t watch.EventType, size int, parts ...[]byte) []byte {
	raw := tagSize(size) + size
	total := tagSize(len(t)) + len(t) + tagSize(raw) + raw
	dst = binary.BigEndian.AppendUint32(dst, uint32(total))
	dst = appendField(dst, 1, string(t))
	dst = appendTag(dst, 2, raw)
	dst = appendTag(dst, 1, size)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}
