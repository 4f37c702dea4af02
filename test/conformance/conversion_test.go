package conformance

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// convert makes hostPort of v1 out of host and port of v2, and back.
func convert(w http.ResponseWriter, r *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		var o map[string]any
		if err := json.Unmarshal(raw.Raw, &o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		from := o["apiVersion"].(string)
		switch to := review.Request.DesiredAPIVersion; {
		case strings.HasSuffix(from, "/v1") && strings.HasSuffix(to, "/v2"):
			if joined, ok := o["hostPort"].(string); ok {
				o["host"], o["port"], _ = strings.Cut(joined, ":")
				delete(o, "hostPort")
			}
		case strings.HasSuffix(from, "/v2") && strings.HasSuffix(to, "/v1"):
			if host, ok := o["host"].(string); ok {
				port, _ := o["port"].(string)
				o["hostPort"] = host + ":" + port
				delete(o, "host")
				delete(o, "port")
			}
		}
		o["apiVersion"] = review.Request.DesiredAPIVersion
		out, _ := json.Marshal(o)
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Raw: out})
	}
	review.Request = nil
	_ = json.NewEncoder(w).Encode(review)
}

// converted is a definition with the versions v1 (stored) and v2, between which
// a webhook converts.
func (s *server) converted() *apiextensionsv1.CustomResourceDefinition {
	s.Helper()
	port, ca := s.outside("converter", http.HandlerFunc(convert))
	crd := s.definition("convs", "", "v1", "v2")
	for i, text := range []string{"{hostPort: {type: string}}", "{host: {type: string}, port: {type: string}}"} {
		d := s.definition("convs", "{type: object, properties: "+text+"}")
		crd.Spec.Versions[i].Schema = d.Spec.Versions[0].Schema
	}
	crd.Spec.Versions[0].SelectableFields = []apiextensionsv1.SelectableField{{JSONPath: ".hostPort"}}
	crd.Spec.Versions[1].SelectableFields = []apiextensionsv1.SelectableField{{JSONPath: ".host"}, {JSONPath: ".port"}}
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
		ClientConfig: &apiextensionsv1.WebhookClientConfig{
			Service: &apiextensionsv1.ServiceReference{Namespace: s.ns, Name: "converter", Port: &port, Path: ptr.To("/crdconvert")}, CABundle: ca,
		},
		ConversionReviewVersions: []string{"v1", "v1beta1"},
	}}
	return s.establish(crd)
}

// isV1 and isV2 demand an object in one of the two versions.
func (s *server) isV1(u *unstructured.Unstructured) {
	s.Helper()
	if !strings.HasSuffix(u.GetAPIVersion(), "/v1") || field(u, "hostPort") != "localhost:8080" || field(u, "host") != nil || field(u, "port") != nil {
		s.Errorf("not of v1: %v", u.Object)
	}
}

func (s *server) isV2(u *unstructured.Unstructured) {
	s.Helper()
	if !strings.HasSuffix(u.GetAPIVersion(), "/v2") || field(u, "hostPort") != nil || field(u, "host") != "localhost" || field(u, "port") != "8080" {
		s.Errorf("not of v2: %v", u.Object)
	}
}

var conversion = entries{
	"should be able to convert from CR v1 to CR v2": func(s *server) {
		crd := s.converted()
		s.isV1(s.make(crd, "v1", "one", `"hostPort":"localhost:8080"`))
		u, err := s.custom(crd, "v2").Get(s.ctx, "one", metav1.GetOptions{})
		s.ok(err)
		s.isV2(u)
	},
	"should be able to convert a non homogeneous list of CRs": func(s *server) {
		crd := s.converted()
		s.make(crd, "v1", "one", `"hostPort":"localhost:8080"`)
		s.ok(s.api.Patch(s.ctx, crd, client.RawPatch(types.JSONPatchType, []byte(
			`[{"op":"replace","path":"/spec/versions/0/storage","value":false},{"op":"replace","path":"/spec/versions/1/storage","value":true}]`))))
		if !slices.Equal(crd.Status.StoredVersions, []string{"v1", "v2"}) {
			s.Errorf("stored versions: %v", crd.Status.StoredVersions)
		}
		s.isV1(s.make(crd, "v1", "two", `"hostPort":"localhost:8080"`))
		for version, is := range map[string]func(*unstructured.Unstructured){"v1": s.isV1, "v2": s.isV2} {
			list, err := s.custom(crd, version).List(s.ctx, metav1.ListOptions{})
			s.ok(err)
			if len(list.Items) != 2 {
				s.Errorf("%d of 2 in %s", len(list.Items), version)
			}
			for i := range list.Items {
				is(&list.Items[i])
			}
		}
	},
}

var selectableFields = entries{
	"CustomResourceFieldSelectors MUST list and watch custom resources matching the field selector": func(s *server) {
		crd := s.converted()
		type selection struct{ version, fields string }
		// What each selection finds, in the order of creation.
		finds := map[selection][]string{
			{"v2", "host=host1"}: {"a", "b"}, {"v2", "host=host1,port=80"}: {"a"}, {"v1", "hostPort=host1:80"}: {"a"}, {"v1", "hostPort=host1:8080"}: {"b"},
		}
		watches, informed := map[selection]events{}, map[selection]chan string{}
		for sel := range finds {
			w, err := s.custom(crd, sel.version).Watch(s.ctx, metav1.ListOptions{FieldSelector: sel.fields})
			s.ok(err)
			s.Cleanup(w.Stop)
			watches[sel] = events{s, w}
			seen := make(chan string, 10)
			informed[sel] = seen
			informer := dynamicinformer.NewFilteredDynamicInformer(s.dynamic, schema.GroupVersionResource{Group: crd.Spec.Group, Version: sel.version, Resource: "convs"},
				s.ns, 0, nil, func(o *metav1.ListOptions) { o.FieldSelector = sel.fields }).Informer()
			_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc:    func(o any) { seen <- "+" + o.(*unstructured.Unstructured).GetName() },
				DeleteFunc: func(o any) { seen <- "-" + o.(*unstructured.Unstructured).GetName() },
			})
			s.ok(err)
			go informer.RunWithContext(s.ctx)
			s.until("the informer has synced", informer.HasSynced)
		}
		listed := func(sel selection, want ...string) {
			s.Helper()
			list, err := s.custom(crd, sel.version).List(s.ctx, metav1.ListOptions{FieldSelector: sel.fields})
			s.ok(err)
			var got []string
			for _, item := range list.Items {
				got = append(got, item.GetName())
			}
			if !slices.Equal(got, want) {
				s.Errorf("%s %s finds %v, not %v", sel.version, sel.fields, got, want)
			}
		}
		for i, fields := range []string{`"host":"host1","port":"80"`, `"host":"host1","port":"8080"`, `"host":"host2"`} {
			s.make(crd, "v2", string(rune('a'+i)), fields)
		}
		for sel, want := range finds {
			listed(sel, want...)
		}
		v2 := s.custom(crd, "v2")
		s.ok(v2.DeleteCollection(s.ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}, metav1.ListOptions{FieldSelector: "host=host1,port=80"}))
		u, err := v2.Get(s.ctx, "b", metav1.GetOptions{})
		s.ok(err)
		u.Object["host"] = "host2"
		_, err = v2.Update(s.ctx, u, metav1.UpdateOptions{})
		s.ok(err)
		for sel, names := range finds {
			listed(sel)
			// First all of them come, then all of them go.
			for _, step := range []struct {
				kind watch.EventType
				sign string
			}{{watch.Added, "+"}, {watch.Deleted, "-"}} {
				for _, name := range names {
					if got := watches[sel].next(step.kind); got.GetName() != name {
						s.Errorf("%s %s: %s of %s, not of %s", sel.version, sel.fields, step.kind, got.GetName(), name)
					}
					select {
					case got := <-informed[sel]:
						if got != step.sign+name {
							s.Errorf("%s %s: the informer sees %s, not %s%s", sel.version, sel.fields, got, step.sign, name)
						}
					case <-s.ctx.Done():
						s.Fatalf("the informer of %s misses %s", sel.fields, name)
					}
				}
			}
		}
	},
}
