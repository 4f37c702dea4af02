package conformance

import (
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// flowControl, together with what other files hold, are the entries that do
// with objects of one resource all that the API offers.
var flowControl = entries{
	"should support FlowSchema API operations": func(s *server) {
		s.lifecycle(`
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
spec:
  matchingPrecedence: 10000
  priorityLevelConfiguration: {name: global-default}
  distinguisherMethod: {type: ByUser}
  rules:
  - subjects: [{kind: User, user: {name: example-e2e-non-existent-user}}]
    nonResourceRules: [{verbs: [get], nonResourceURLs: ["*"]}]
`, "flowschemas", `{"spec":{"matchingPrecedence":9999}}`, true)
	},
	"should support PriorityLevelConfiguration API operations": func(s *server) {
		s.lifecycle(`
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
spec:
  type: Limited
  limited: {nominalConcurrencyShares: 2, limitResponse: {type: Reject}}
`, "prioritylevelconfigurations", `{"spec":{"limited":{"nominalConcurrencyShares":4}}}`, true)
	},
}

func (s *server) parse(text string) *unstructured.Unstructured {
	s.Helper()
	u := &unstructured.Unstructured{}
	s.ok(yaml.Unmarshal([]byte(text), &u.Object))
	return u
}

// served demands that discovery shows the resources of a group and version, in
// all its documents.
func (s *server) served(group, version string, resources ...string) {
	s.Helper()
	groups, err := s.kube.Discovery().ServerGroups()
	s.ok(err)
	has := func(g metav1.APIGroup) bool {
		return g.Name == group && slices.ContainsFunc(g.Versions, func(v metav1.GroupVersionForDiscovery) bool {
			return v.Version == version && v.GroupVersion == group+"/"+version
		})
	}
	if !slices.ContainsFunc(groups.Groups, has) {
		s.Errorf("discovery has no %s/%s: %v", group, version, groups.Groups)
	}
	one := metav1.APIGroup{}
	if code, _, body := s.request("GET", "/apis/"+group, ""); code != 200 || json.Unmarshal([]byte(body), &one) != nil || !has(one) {
		s.Errorf("/apis/%s: %d %s", group, code, body)
	}
	list := metav1.APIResourceList{}
	code, _, body := s.request("GET", "/apis/"+group+"/"+version, "")
	if code != 200 || json.Unmarshal([]byte(body), &list) != nil || list.GroupVersion != group+"/"+version {
		s.Errorf("/apis/%s/%s: %d %s", group, version, code, body)
	}
	for _, name := range resources {
		if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == name }) {
			s.Errorf("/apis/%s/%s has no %s", group, version, name)
		}
	}
}

// lifecycle finds the resource in discovery, makes three objects like the
// manifest, and gets, lists, watches, patches (with patch), updates and deletes
// them, one and all; with status, it does so with the status subresource too.
func (s *server) lifecycle(manifest, resource, patch string, status bool) {
	s.Helper()
	template := s.parse(manifest)
	kind := template.GroupVersionKind()
	s.served(kind.Group, kind.Version, resource)
	template.SetGenerateName("conformance-")
	template.SetLabels(map[string]string{"of": s.ns})
	objects := make([]*unstructured.Unstructured, 3)
	for i := range objects {
		objects[i] = template.DeepCopy()
		s.create(objects[i])
	}
	last := objects[2]
	read := template.DeepCopy()
	s.ok(s.api.Get(s.ctx, client.ObjectKeyFromObject(last), read))
	if read.GetUID() != last.GetUID() || read.GetName() == "" {
		s.Errorf("got %v, made %v", read, last)
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kind)
	mine := client.MatchingLabels{"of": s.ns}
	s.list(list, mine)
	if len(list.Items) != 3 {
		s.Fatalf("listed %d of 3", len(list.Items))
	}
	seen := s.watch(list, mine, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}})

	s.ok(s.api.Patch(s.ctx, last, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`))))
	s.newer(read, last)
	s.ok(s.api.Patch(s.ctx, last, client.RawPatch(types.MergePatchType, []byte(patch))))
	if last.GetAnnotations()["patched"] != "true" || last.GetGeneration() != read.GetGeneration()+1 {
		s.Errorf("patched: %v, generation %d after %d", last.GetAnnotations(), last.GetGeneration(), read.GetGeneration())
	}
	if status {
		s.ok(s.api.Status().Patch(s.ctx, last, client.RawPatch(types.MergePatchType, []byte(
			`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"conditions":[{"type":"PatchStatus","status":"True","reason":"PatchStatus","message":"patched","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`))))
		// Of these kinds, upstream takes nothing but the status.
		if last.GetAnnotations()["patchedstatus"] != "" || !hasCondition(last, "PatchStatus") {
			s.Errorf("status patched: %v", last.Object)
		}
		s.changeStatus(last, last.GetName(), func() {
			conditions, _, _ := unstructured.NestedSlice(last.Object, "status", "conditions")
			conditions = append(conditions, map[string]any{
				"type": "UpdateStatus", "status": "True", "reason": "UpdateStatus", "message": "updated", "lastTransitionTime": "2026-01-01T00:00:00Z",
			})
			s.ok(unstructured.SetNestedSlice(last.Object, conditions, "status", "conditions"))
		})
		if !hasCondition(last, "UpdateStatus") {
			s.Errorf("status updated: %v", last.Object)
		}
	}
	s.change(last, last.GetName(), func() {
		a := last.GetAnnotations()
		a["updated"] = "true"
		last.SetAnnotations(a)
	})
	annotated := func(names ...string) func(client.Object) bool {
		return func(o client.Object) bool {
			return o.GetName() == last.GetName() && !slices.ContainsFunc(names, func(n string) bool { return o.GetAnnotations()[n] != "true" })
		}
	}
	seen.await(watch.Modified, annotated("patched"))
	seen.await(watch.Modified, annotated("patched", "updated"))

	s.delete(last)
	s.gone(last)
	seen.await(watch.Deleted, annotated("patched", "updated"))
	s.list(list, mine)
	if len(list.Items) != 2 {
		s.Errorf("after the deletion of one of 3 there are %d", len(list.Items))
	}
	all := &unstructured.Unstructured{}
	all.SetGroupVersionKind(kind)
	s.ok(s.api.DeleteAllOf(s.ctx, all, client.InNamespace(template.GetNamespace()), mine))
	s.until(fmt.Sprintf("no %s is left", kind.Kind), func() bool {
		s.list(list, mine)
		return len(list.Items) == 0
	})
	if err := s.api.Get(s.ctx, client.ObjectKeyFromObject(objects[0]), all); !apierrors.IsNotFound(err) {
		s.Errorf("deleted with the others: %v", err)
	}
}

func hasCondition(u *unstructured.Unstructured, kind string) bool {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool { return c.(map[string]any)["type"] == kind })
}
