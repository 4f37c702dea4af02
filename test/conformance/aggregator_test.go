package conformance

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// flunders is an extension server that keeps objects without looking at them.
type flunders struct {
	gv schema.GroupVersion

	mu      sync.Mutex
	objects map[string]map[string]any // by namespace/name
}

func (f *flunders) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := func(code int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	root := "/apis/" + f.gv.String()
	path, ok := strings.CutPrefix(r.URL.Path, root+"/namespaces/")
	namespace, rest, _ := strings.Cut(path, "/")
	kind, name, _ := strings.Cut(rest, "/")
	key := namespace + "/" + name
	switch {
	case r.URL.Path == root:
		answer(200, metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: f.gv.String(), APIResources: []metav1.APIResource{
				{Name: "flunders", SingularName: "flunder", Kind: "Flunder", Namespaced: true, Verbs: metav1.Verbs{"create", "delete", "get", "list"}},
			},
		})
	case !ok || kind != "flunders":
		http.NotFound(w, r)
	case r.Method == http.MethodPost:
		var o map[string]any
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.objects[namespace+"/"+o["metadata"].(map[string]any)["name"].(string)] = o
		answer(201, o)
	case r.Method == http.MethodDelete:
		delete(f.objects, key)
		answer(200, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Success"})
	default:
		items := []any{}
		for at, o := range f.objects {
			if strings.HasPrefix(at, namespace+"/") {
				items = append(items, o)
			}
		}
		answer(200, map[string]any{"kind": "FlunderList", "apiVersion": f.gv.String(), "metadata": map[string]any{}, "items": items})
	}
}

var aggregator = entries{
	"Should be able to support the 1.17 Sample API Server using the current Aggregator": func(s *server) {
		gv := schema.GroupVersion{Group: "wardle." + s.ns + ".example.com", Version: "v1alpha1"}
		port, ca := s.outside("sample-api", &flunders{gv: gv, objects: map[string]map[string]any{}})
		name := gv.Version + "." + gv.Group
		service := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: apiregistrationv1.APIServiceSpec{
			Service: &apiregistrationv1.ServiceReference{Namespace: s.ns, Name: "sample-api", Port: &port},
			Group:   gv.Group, Version: gv.Version, CABundle: ca, GroupPriorityMinimum: 2000, VersionPriority: 200,
		}}
		s.create(service)
		s.Cleanup(func() { _ = s.api.Delete(s.background(), service) })
		path := "/apis/" + gv.String() + "/namespaces/default/flunders"
		s.until("it is served", func() bool {
			code, _, body := s.request("GET", path, "")
			if code != 200 && code != 403 && code != 404 && code != 503 {
				s.Fatalf("%d %s", code, body)
			}
			return code == 200
		})
		code, _, body := s.request("POST", path, `{"apiVersion":"`+gv.String()+`","kind":"Flunder","metadata":{"labels":{"sample-label":"true"},"name":"rest","namespace":"default"}}`)
		if u := s.parse(body); code != 201 || u.GetAPIVersion() != gv.String() || u.GetKind() != "Flunder" || u.GetName() != "rest" {
			s.Errorf("created: %d %s", code, body)
		}
		count := func(want int) {
			s.Helper()
			var list struct{ Items []any }
			code, _, body := s.request("GET", path, "")
			if json.Unmarshal([]byte(body), &list) != nil || code != 200 || len(list.Items) != want {
				s.Errorf("listed %d %s, want %d", code, body, want)
			}
		}
		count(1)
		if code, _, body := s.request("DELETE", path+"/rest", ""); code != 200 {
			s.Errorf("deleted: %d %s", code, body)
		}
		count(0)

		resource := gv.WithResource("flunders")
		s.until("discovery has it", func() bool {
			lists, err := s.kube.Discovery().ServerPreferredNamespacedResources()
			if err != nil {
				return false
			}
			found, err := discovery.GroupVersionResources(lists)
			s.ok(err)
			_, ok := found[resource]
			return ok
		})
		flunder := s.dynamic.Resource(resource).Namespace(s.ns)
		_, err := flunder.Create(s.ctx, s.parse("{apiVersion: "+gv.String()+", kind: Flunder, metadata: {name: dynamic}}"), metav1.CreateOptions{})
		s.ok(err)
		for _, want := range []int{1, 0} {
			list, err := flunder.List(s.ctx, metav1.ListOptions{})
			s.ok(err)
			if len(list.Items) != want {
				s.Errorf("%d of %d", len(list.Items), want)
			}
			s.ok(flunder.Delete(s.ctx, "dynamic", metav1.DeleteOptions{}))
		}

		read := &apiregistrationv1.APIService{}
		s.until("its status", func() bool {
			_, _, body := s.request("GET", "/apis/apiregistration.k8s.io/v1/apiservices/"+name+"/status", "")
			*read = apiregistrationv1.APIService{}
			s.ok(json.Unmarshal([]byte(body), read))
			return len(read.Status.Conditions) > 0 && read.Status.Conditions[0].Message == "all checks passed"
		})
		patched := read.DeepCopy()
		s.ok(s.api.Patch(s.ctx, patched, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"versionPriority":400}}`))))
		s.newer(read, patched)
		if patched.Spec.VersionPriority != 400 {
			s.Errorf("patched: %+v", patched.Spec)
		}
		var list apiregistrationv1.APIServiceList
		s.list(&list)
		if !slices.ContainsFunc(list.Items, func(a apiregistrationv1.APIService) bool { return a.Name == name }) {
			s.Errorf("it is not listed")
		}
		s.ok(s.api.Patch(s.ctx, patched, client.RawPatch(types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"of":"`+s.ns+`"}}}`))))
		s.changeStatus(read, name, func() {
			read.Status.Conditions = append(read.Status.Conditions, apiregistrationv1.APIServiceCondition{Type: "StatusUpdated", Status: "True", Reason: "E2E", Message: "set by a test"})
		})
		s.ok(s.get(read, name))
		if !slices.ContainsFunc(read.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool {
			return c.Type == "StatusUpdated" && c.Reason == "E2E" && c.Message == "set by a test"
		}) {
			s.Errorf("its status: %+v", read.Status)
		}
		s.change(read, name, func() { read.Labels = map[string]string{"of": s.ns, name: "updated"} })
		if read.Labels[name] != "updated" {
			s.Errorf("labels: %v", read.Labels)
		}
		s.ok(s.api.DeleteAllOf(s.ctx, &apiregistrationv1.APIService{}, client.MatchingLabels{"of": s.ns}))
		s.gone(service)
		s.until("it is not served", func() bool {
			_, err := flunder.List(s.ctx, metav1.ListOptions{})
			return apierrors.IsNotFound(err)
		})
	},
}
