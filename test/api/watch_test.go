package api

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	s := start(t)
	t.Run("events", s.watchEvents)
	t.Run("initial events", s.watchInitial)
	t.Run("selection", s.watchSelection)
	t.Run("transformed", s.watchTransformed)
	t.Run("protobuf", s.watchProtobuf)
	t.Run("websocket", s.watchWebSocket)
	t.Run("old paths", s.watchOldPaths)
	t.Run("informer", s.watchInformer)
}

func (e event) String() string {
	meta, _ := e.Object["metadata"].(map[string]any)
	return fmt.Sprint(e.Type, " ", meta["name"])
}

func (e event) revision() string {
	meta, _ := e.Object["metadata"].(map[string]any)
	return fmt.Sprint(meta["resourceVersion"])
}

func (e *events) expect(want ...string) (last event) {
	e.t.Helper()
	for _, w := range want {
		last = e.next()
		if last.String() != w {
			e.t.Fatalf("got %s, not %s: %v", last, w, last.Object)
		}
	}
	return last
}

func (s *server) patchKey(namespace, name, value string) string {
	s.Helper()
	return s.ok(200, call{Method: "PATCH", Path: "/api/v1/namespaces/" + namespace + "/configmaps/" + name, Type: "application/merge-patch+json",
		Body: `{"data":{"key":"` + value + `"}}`}).object(s).GetResourceVersion()
}

func (s *server) watchEvents(t *testing.T) {
	s = s.in(t)
	s.namespace("events")
	path := "/api/v1/namespaces/events/configmaps"
	empty := s.list(path).ResourceVersion
	first := s.configMap("events", "a", "1").GetResourceVersion()
	s.configMap("events", "b", "1")
	w := s.stream(call{Method: "GET", Path: path + "?watch=true&resourceVersion=" + empty})
	w.expect("ADDED a", "ADDED b")
	rv := s.patchKey("events", "a", "2")
	if ev := w.expect("MODIFIED a"); ev.revision() != rv {
		t.Errorf("at %s, not %s", ev.revision(), rv)
	}
	s.ok(200, call{Method: "DELETE", Path: path + "/b"})
	if ev := w.expect("DELETED b"); ev.Object["data"] == nil || ev.revision() <= rv {
		t.Errorf("the deleted object: %v", ev.Object)
	}
	// A watch from the middle sees the rest; one from now sees what comes.
	s.stream(call{Method: "GET", Path: path + "?watch=1&resourceVersion=" + first}).expect("ADDED b", "MODIFIED a", "DELETED b")
	s.stream(call{Method: "GET", Path: path + "?watch=1"}).expect("ADDED a")
	s.stream(call{Method: "GET", Path: path + "?watch=1&resourceVersion=0"}).expect("ADDED a")
	// The time that the client wants to wait is kept.
	a := s.ok(200, call{Method: "GET", Path: path + "?watch=1&timeoutSeconds=1&resourceVersion=" + rv})
	if !strings.HasPrefix(string(a.Body), `{"type":"DELETED"`) || strings.Count(string(a.Body), "\n") != 1 {
		t.Errorf("until the end: %s", a.Body)
	}
}

func (s *server) watchInitial(t *testing.T) {
	s = s.in(t)
	s.namespace("initial")
	path := "/api/v1/namespaces/initial/configmaps?watch=1&"
	for _, name := range []string{"c", "a", "b"} {
		s.configMap("initial", name, "1")
	}
	listed := s.list("/api/v1/namespaces/initial/configmaps").ResourceVersion
	for what, query := range map[string]string{
		"consistent":  "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
		"any":         "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0",
		"not older":   "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=" + listed,
		"of old days": "allowWatchBookmarks=true",
	} {
		t.Run(what, func(t *testing.T) {
			w := s.in(t).stream(call{Method: "GET", Path: path + query})
			w.expect("ADDED a", "ADDED b", "ADDED c")
			end := w.expect("BOOKMARK <nil>")
			meta := end.Object["metadata"].(map[string]any)
			if a, _ := meta["annotations"].(map[string]any); a[metav1.InitialEventsAnnotationKey] != "true" || end.Object["kind"] != "ConfigMap" || end.revision() < listed {
				t.Errorf("the end of the initial events: %v", end.Object)
			}
		})
	}
	w := s.stream(call{Method: "GET", Path: path + "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=0"})
	s.configMap("initial", "d", "1")
	w.expect("ADDED d")
}

// watchSelection shows objects coming into the selection and leaving it.
func (s *server) watchSelection(t *testing.T) {
	s = s.in(t)
	s.namespace("selection")
	path := "/api/v1/namespaces/selection/configmaps"
	label := func(value string) {
		s.ok(200, call{Method: "PATCH", Path: path + "/x", Type: "application/merge-patch+json", Body: `{"metadata":{"labels":{"color":` + value + `}}}`})
	}
	w := s.stream(call{Method: "GET", Path: path + "?watch=1&" + encode("labelSelector", "color=red")})
	one := s.stream(call{Method: "GET", Path: path + "?watch=1&" + encode("fieldSelector", "metadata.name=x")})
	s.configMap("selection", "other", "1")
	s.configMap("selection", "x", "1")
	label(`"red"`)
	w.expect("ADDED x")
	label(`"blue"`)
	if left := w.expect("DELETED x"); fmt.Sprint(left.Object["metadata"].(map[string]any)["labels"]) != "map[color:red]" {
		t.Errorf("what left: %v", left.Object)
	}
	label(`"red"`)
	w.expect("ADDED x")
	s.ok(200, call{Method: "DELETE", Path: path + "/x"})
	w.expect("DELETED x")
	one.expect("ADDED x", "MODIFIED x", "MODIFIED x", "MODIFIED x", "DELETED x")

	// Pods of a node are watched by an index.
	s.serviceAccount("selection")
	pods := "/api/v1/namespaces/selection/pods"
	byNode := s.stream(call{Method: "GET", Path: "/api/v1/pods?watch=1&" + encode("fieldSelector", "spec.nodeName=n1")})
	s.ok(201, call{Method: "POST", Path: pods, Body: `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`})
	s.ok(201, call{Method: "POST", Path: pods + "/p/binding", Body: `{"metadata":{"name":"p"},"target":{"kind":"Node","name":"n1"}}`})
	byNode.expect("ADDED p")
	s.ok(200, call{Method: "DELETE", Path: pods + "/p?gracePeriodSeconds=0"})
	byNode.expect("DELETED p")
}

func (s *server) watchTransformed(t *testing.T) {
	s = s.in(t)
	s.namespace("transformed")
	s.configMap("transformed", "a", "1")
	path := "/api/v1/namespaces/transformed/configmaps?watch=1"
	w := s.stream(call{Method: "GET", Path: path, Accept: "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"})
	if ev := w.expect("ADDED a"); ev.Object["kind"] != "PartialObjectMetadata" || ev.Object["data"] != nil {
		t.Errorf("partial: %v", ev.Object)
	}
	w = s.stream(call{Method: "GET", Path: path, Accept: "application/json;as=Table;g=meta.k8s.io;v=v1"})
	first := w.next()
	if first.Object["kind"] != "Table" || len(first.Object["columnDefinitions"].([]any)) != 3 || len(first.Object["rows"].([]any)) != 1 {
		t.Errorf("table: %v", first.Object)
	}
	s.patchKey("transformed", "a", "2")
	if second := w.next(); second.Type != "MODIFIED" || second.Object["columnDefinitions"] != nil {
		t.Errorf("table again: %v", second)
	}
}

// watchProtobuf reads length-prefixed frames.
func (s *server) watchProtobuf(t *testing.T) {
	s = s.in(t)
	s.namespace("frames")
	s.configMap("frames", "a", "1")
	a := s.ok(200, call{Method: "GET", Path: "/api/v1/namespaces/frames/configmaps?watch=1&timeoutSeconds=1", Accept: mediaProtobuf})
	if ct := a.Header.Get("Content-Type"); ct != mediaProtobuf+";stream=watch" {
		t.Errorf("content type %q", ct)
	}
	size := binary.BigEndian.Uint32(a.Body)
	var ev metav1.WatchEvent
	if err := ev.Unmarshal(a.Body[4 : 4+size]); err != nil {
		t.Fatal(err)
	}
	var u runtime.Unknown
	if err := u.Unmarshal(ev.Object.Raw[4:]); err != nil {
		t.Fatal(err)
	}
	var cm corev1.ConfigMap
	if err := cm.Unmarshal(u.Raw); err != nil || ev.Type != "ADDED" || cm.Name != "a" || u.Kind != "ConfigMap" {
		t.Errorf("%s %s %v %v", ev.Type, u.Kind, cm, err)
	}
}

func (s *server) watchWebSocket(t *testing.T) {
	s = s.in(t)
	s.namespace("sockets")
	s.configMap("sockets", "a", "1")
	conn := s.socket("/api/v1/namespaces/sockets/configmaps?watch=1")
	read := func() (ev event) {
		kind, data, err := conn.ReadMessage()
		if err != nil || kind != websocket.TextMessage {
			t.Fatalf("%d %v", kind, err)
		}
		if err := json.Unmarshal(data, &ev); err != nil {
			t.Fatal(err)
		}
		return ev
	}
	if ev := read(); ev.String() != "ADDED a" {
		t.Errorf("first: %s", ev)
	}
	s.configMap("sockets", "b", "1")
	if ev := read(); ev.String() != "ADDED b" {
		t.Errorf("second: %s", ev)
	}
}

// watchOldPaths: /watch/ before the resource, for one object too.
func (s *server) watchOldPaths(t *testing.T) {
	s = s.in(t)
	s.namespace("old")
	s.configMap("old", "a", "1")
	s.configMap("old", "b", "1")
	s.stream(call{Method: "GET", Path: "/api/v1/watch/namespaces/old/configmaps"}).expect("ADDED a", "ADDED b")
	s.stream(call{Method: "GET", Path: "/api/v1/watch/namespaces/old/configmaps/b"}).expect("ADDED b")
}

// watchInformer lets client-go's reflector stream its first list.
func (s *server) watchInformer(t *testing.T) {
	s = s.in(t)
	s.namespace("informed")
	s.configMap("informed", "a", "1")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithNamespace("informed"))
	maps := factory.Core().V1().ConfigMaps().Informer()
	seen := make(chan string, 10)
	_, err := maps.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { seen <- "add " + o.(*corev1.ConfigMap).Name },
		UpdateFunc: func(_, o any) { seen <- "update " + o.(*corev1.ConfigMap).Data["key"] },
		DeleteFunc: func(o any) { seen <- "delete " + o.(*corev1.ConfigMap).Name },
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), maps.HasSynced) {
		t.Fatal("the informer does not sync")
	}
	s.patchKey("informed", "a", "2")
	s.ok(200, call{Method: "DELETE", Path: "/api/v1/namespaces/informed/configmaps/a"})
	for _, want := range []string{"add a", "update 2", "delete a"} {
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("%s, not %s", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("no %s", want)
		}
	}
}
