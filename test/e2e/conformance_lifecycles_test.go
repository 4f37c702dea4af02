//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"
)

var lifecycles = []conformant{
	{"[sig-apps] CronJob should support CronJob API operations", lifecycle("batch/v1", "cronjobs", `
kind: CronJob
spec:
  schedule: "@yearly"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: skiff.local/busybox:1}]}}}}
`, `{"lastScheduleTime":"2026-01-02T03:04:05Z"}`)},
	{"[sig-network] Ingress API should support creating Ingress API operations", lifecycle("networking.k8s.io/v1", "ingresses", `
kind: Ingress
spec: {defaultBackend: {service: {name: backend, port: {number: 80}}}}
`, `{"loadBalancer":{"ingress":[{"ip":"169.1.1.1"}]}}`)},
	{"[sig-network] IngressClass API should support creating IngressClass API operations", lifecycle("networking.k8s.io/v1", "ingressclasses", `
kind: IngressClass
spec: {controller: example.com/controller}
`, "")},
	{"[sig-network] EndpointSlice should support creating EndpointSlice API operations", lifecycle("discovery.k8s.io/v1", "endpointslices", `
kind: EndpointSlice
addressType: IPv4
endpoints: [{addresses: [1.2.3.4, 5.6.7.8]}]
`, "")},
	{"[sig-storage] CSIStorageCapacity should support CSIStorageCapacities API operations", lifecycle("storage.k8s.io/v1", "csistoragecapacities", `
kind: CSIStorageCapacity
nodeTopology: {}
storageClassName: some-class
`, "")},
	{"[sig-storage] CSINodes CSI Conformance should run through the lifecycle of a csinode", lifecycle("storage.k8s.io/v1", "csinodes", `
kind: CSINode
spec: {drivers: []}
`, "")},
	{"[sig-storage] StorageClasses CSI Conformance should run through the lifecycle of a StorageClass", lifecycle("storage.k8s.io/v1", "storageclasses", `
kind: StorageClass
provisioner: e2e-fake-provisioner
`, "")},
	{"[sig-storage] VolumeAttributesClass [FeatureGate:VolumeAttributesClass] should run through the lifecycle of a VolumeAttributesClass", lifecycle("storage.k8s.io/v1", "volumeattributesclasses", `
kind: VolumeAttributesClass
driverName: e2e-fake-csi-driver
parameters: {iops: "1000"}
`, "")},
	{"[sig-storage] VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment", lifecycle("storage.k8s.io/v1", "volumeattachments", volumeAttachment, "")},
	{"[sig-storage] VolumeAttachment Conformance should apply changes to a volumeattachment status", lifecycle("storage.k8s.io/v1", "volumeattachments", volumeAttachment, `{"attached":true}`)},
	{"[sig-node] RuntimeClass should support RuntimeClasses API operations", lifecycle("node.k8s.io/v1", "runtimeclasses", `
kind: RuntimeClass
handler: some-handler
`, "")},
	{"[sig-node] PodTemplates should run the lifecycle of PodTemplates", lifecycle("v1", "podtemplates", podTemplate, "")},
	{"[sig-node] PodTemplates should replace a pod template", lifecycle("v1", "podtemplates", podTemplate, "")},
	{"[sig-node] PodTemplates should delete a collection of pod templates", lifecycle("v1", "podtemplates", podTemplate, "")},
	{"[sig-node] Lease lease API should be available", lifecycle("coordination.k8s.io/v1", "leases", `
kind: Lease
spec: {holderIdentity: holder, leaseDurationSeconds: 30, acquireTime: "2026-01-02T03:04:05.000000Z", renewTime: "2026-01-02T03:04:06.000000Z", leaseTransitions: 1}
`, "")},
	{"[sig-network] ServiceCIDR and IPAddress API should support IPAddress API operations", (*space).testIPAddresses},
	{"[sig-network] ServiceCIDR and IPAddress API should support ServiceCIDR API operations", (*space).testServiceCIDR},
	{"[sig-storage] PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC", (*space).testVolumeLifecycle},
	{"[sig-storage] PersistentVolumes CSI Conformance should apply changes to a pv/pvc status", (*space).testVolumeStatus},
}

const volumeAttachment = `
kind: VolumeAttachment
spec: {attacher: e2e-test.storage.k8s.io, nodeName: e2econform-2, source: {persistentVolumeName: e2e-no-volume}}
`

const podTemplate = `
kind: PodTemplate
template: {spec: {containers: [{name: c, image: skiff.local/busybox:1}]}}
`

// walk is the way of three objects of one kind through the API's verbs.
type walk struct {
	*space
	resource schema.GroupVersionResource
	in       dynamic.ResourceInterface
	selector string
	events   *watcher
}

// lifecycle walks with objects like the manifest's, whose status is patched if
// they have one.
func lifecycle(version, resource, manifest, status string) func(*space) {
	return func(s *space) {
		gv, err := schema.ParseGroupVersion(version)
		s.ok(err)
		var obj unstructured.Unstructured
		s.ok(yaml.Unmarshal([]byte(manifest), &obj.Object))
		obj.SetAPIVersion(version)
		w := walk{space: s, resource: gv.WithResource(resource), selector: "special-label=" + s.ns + "-" + resource}
		w.discover()
		w.create(&obj)
		w.change()
		if status != "" {
			w.status(status)
		}
		w.remove()
	}
}

// discover demands that the discovery documents have the resource, and finds
// out whether it is namespaced.
func (w *walk) discover() {
	w.Helper()
	d := w.client.Discovery()
	if w.resource.Group != "" {
		groups, err := d.ServerGroups()
		w.ok(err)
		w.condition("/apis has the group and the version", slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool {
			return g.Name == w.resource.Group && slices.ContainsFunc(g.Versions, func(v metav1.GroupVersionForDiscovery) bool { return v.Version == w.resource.Version })
		}), groups)
		var group metav1.APIGroup
		raw, err := d.RESTClient().Get().AbsPath("/apis/"+w.resource.Group).SetHeader("Accept", "application/json").DoRaw(w.Context())
		w.ok(err)
		w.ok(yaml.Unmarshal(raw, &group))
		w.condition("the group has the version", slices.ContainsFunc(group.Versions, func(v metav1.GroupVersionForDiscovery) bool {
			return v.GroupVersion == w.resource.GroupVersion().String()
		}), group)
	}
	list, err := d.ServerResourcesForGroupVersion(w.resource.GroupVersion().String())
	w.ok(err)
	for _, r := range list.APIResources {
		if r.Name == w.resource.Resource {
			w.in = w.dynamic.Resource(w.resource)
			if r.Namespaced {
				w.in = w.of(w.resource)
			}
		}
	}
	if w.in == nil {
		w.Fatalf("%s is not served", w.resource)
	}
}

func (w *walk) name(i int) string { return fmt.Sprintf("%s-%d", w.ns, i) }

// is waits for an event of the first object.
func (w *walk) is(what string, kind watch.EventType, wanted func(*unstructured.Unstructured) bool) {
	w.Helper()
	w.events.until(what, func(e watch.Event) bool {
		obj, ok := e.Object.(*unstructured.Unstructured)
		return ok && e.Type == kind && obj.GetName() == w.name(0) && wanted(obj)
	})
}

func (w *walk) listed(want int) {
	w.Helper()
	for _, in := range []dynamic.ResourceInterface{w.in, w.dynamic.Resource(w.resource)} {
		w.eventually(fmt.Sprintf("%d are listed", want), func(ctx context.Context) error {
			list, err := in.List(ctx, metav1.ListOptions{LabelSelector: w.selector})
			if err == nil && len(list.Items) != want {
				err = fmt.Errorf("there are %d", len(list.Items))
			}
			return err
		})
	}
}

func (w *walk) create(like *unstructured.Unstructured) {
	w.Helper()
	key, value, _ := strings.Cut(w.selector, "=")
	w.events = w.watch(w.in, map[string]string{key: value})
	for i := range 3 {
		obj := like.DeepCopy()
		obj.SetName(w.name(i))
		obj.SetLabels(map[string]string{key: value})
		created, err := w.in.Create(w.Context(), obj, metav1.CreateOptions{})
		w.ok(err)
		got, err := w.in.Get(w.Context(), w.name(i), metav1.GetOptions{})
		w.ok(err)
		w.condition("what is read is what was made", got.GetUID() == created.GetUID() && got.GetKind() == like.GetKind() && fmt.Sprint(got.Object["spec"]) == fmt.Sprint(created.Object["spec"]), got)
	}
	w.is("it is made", watch.Added, func(*unstructured.Unstructured) bool { return true })
	w.listed(3)
}

func (w *walk) change() {
	w.Helper()
	for _, kind := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
		before, err := w.in.Get(w.Context(), w.name(0), metav1.GetOptions{})
		w.ok(err)
		patched, err := w.in.Patch(w.Context(), w.name(0), kind, fmt.Appendf(nil, `{"metadata":{"annotations":{"patched":%q}}}`, kind), metav1.PatchOptions{})
		w.ok(err)
		w.condition("it is patched", patched.GetAnnotations()["patched"] == string(kind) && patched.GetResourceVersion() != before.GetResourceVersion(), patched)
	}
	w.is("it is patched", watch.Modified, func(obj *unstructured.Unstructured) bool {
		return obj.GetAnnotations()["patched"] == string(types.StrategicMergePatchType)
	})
	w.ok(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		obj, err := w.in.Get(w.Context(), w.name(0), metav1.GetOptions{})
		if err != nil {
			return err
		}
		obj.SetAnnotations(map[string]string{"updated": "true"})
		obj, err = w.in.Update(w.Context(), obj, metav1.UpdateOptions{})
		if err == nil && obj.GetAnnotations()["updated"] != "true" {
			err = fmt.Errorf("the annotations are %v", obj.GetAnnotations())
		}
		return err
	}))
	w.is("it is updated", watch.Modified, func(obj *unstructured.Unstructured) bool {
		return obj.GetAnnotations()["updated"] == "true" && obj.GetAnnotations()["patched"] == ""
	})
}

func (w *walk) status(status string) {
	w.Helper()
	obj, err := w.in.Get(w.Context(), w.name(0), metav1.GetOptions{}, "status")
	w.ok(err)
	w.condition("the subresource is the object", obj.GetName() == w.name(0) && obj.GetUID() != "", obj)
	var want map[string]any
	w.ok(yaml.Unmarshal([]byte(status), &want))
	has := func(obj *unstructured.Unstructured) bool {
		got, _ := obj.Object["status"].(map[string]any)
		for key, value := range want {
			if fmt.Sprint(got[key]) != fmt.Sprint(value) {
				return false
			}
		}
		return true
	}
	patched, err := w.in.Patch(w.Context(), w.name(0), types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":`+status+`}`), metav1.PatchOptions{}, "status")
	w.ok(err)
	// An attachment's status is all that is written there.
	marked := patched.GetAnnotations()["patchedstatus"] == "true"
	w.condition("the status is patched", has(patched) && marked == (w.resource.Resource != "volumeattachments"), patched)
	w.is("the status is patched", watch.Modified, has)
	// Back to what it was, by an update.
	w.ok(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		now, err := w.in.Get(w.Context(), w.name(0), metav1.GetOptions{})
		if err != nil {
			return err
		}
		now.Object["status"] = obj.Object["status"]
		_, err = w.in.UpdateStatus(w.Context(), now, metav1.UpdateOptions{})
		return err
	}))
	w.is("the status is updated", watch.Modified, func(obj *unstructured.Unstructured) bool { return !has(obj) })
}

func (w *walk) remove() {
	w.Helper()
	w.ok(w.in.Delete(w.Context(), w.name(0), metav1.DeleteOptions{}))
	w.is("it is deleted", watch.Deleted, func(*unstructured.Unstructured) bool { return true })
	_, err := w.in.Get(w.Context(), w.name(0), metav1.GetOptions{})
	w.condition("it is gone", apierrors.IsNotFound(err), err)
	w.listed(2)
	w.ok(w.in.DeleteCollection(w.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: w.selector}))
	w.listed(0)
}

func (s *space) testServiceCIDR() {
	r := schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "servicecidrs"}
	in := s.dynamic.Resource(r)
	w := walk{space: s, resource: r}
	w.discover()
	obj, err := in.Get(s.Context(), "kubernetes", metav1.GetOptions{})
	s.ok(err)
	status, err := in.Get(s.Context(), "kubernetes", metav1.GetOptions{}, "status")
	s.ok(err)
	s.condition("the subresource is the object", status.GetKind() == "ServiceCIDR" && status.GetUID() == obj.GetUID(), status)
	list, err := in.List(s.Context(), metav1.ListOptions{})
	s.ok(err)
	s.condition("it is listed", len(list.Items) > 0, list)
	events, err := in.Watch(s.Context(), metav1.ListOptions{})
	s.ok(err)
	events.Stop()
	patched, err := in.Patch(s.Context(), "kubernetes", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}}}`), metav1.PatchOptions{}, "status")
	s.ok(err)
	s.condition("metadata is not the status", patched.GetAnnotations()["patchedstatus"] == "", patched)
	_, err = in.UpdateStatus(s.Context(), patched, metav1.UpdateOptions{})
	s.ok(err)
}

func (s *space) testIPAddresses() {
	addresses := s.client.NetworkingV1().IPAddresses()
	for name, kind := range map[string]string{"255.255.255.255": "broadcast", "fe80::42:1dff:fe84:f9e2": "link-local"} {
		s.create(fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: IPAddress
metadata: {name: %q, labels: {type: %s}}
spec: {parentRef: {group: mygroup, resource: myresources, namespace: foo, name: bar}}
`, name, kind))
	}
	a, err := addresses.Patch(s.Context(), "255.255.255.255", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`), metav1.PatchOptions{})
	s.ok(err)
	a.Annotations["updated"] = "true"
	a, err = addresses.Update(s.Context(), a, metav1.UpdateOptions{})
	s.ok(err)
	s.condition("it is patched and updated", a.Annotations["patched"] == "true" && a.Annotations["updated"] == "true", a)
	list, err := addresses.List(s.Context(), metav1.ListOptions{LabelSelector: "type=broadcast"})
	s.ok(err)
	s.condition("one is listed", len(list.Items) == 1, list)
	s.ok(addresses.Delete(s.Context(), "255.255.255.255", metav1.DeleteOptions{}))
	s.ok(addresses.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "type=link-local"}))
	list, err = addresses.List(s.Context(), metav1.ListOptions{LabelSelector: "type in (broadcast, link-local)"})
	s.ok(err)
	s.condition("none is left", len(list.Items) == 0, list)
}

var (
	volumesResource = corev1.SchemeGroupVersion.WithResource("persistentvolumes")
	claimsResource  = corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
)

// volume makes a volume of a driver that is not there, a claim for it, and
// waits until they are bound.
func (s *space) volume(name string) {
	s.Helper()
	s.create(fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s, labels: {e2e-volume: %[2]s}}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 2Gi}
  storageClassName: %[2]s
  csi: {driver: e2e-driver.example.com, volumeHandle: %[1]s}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s, labels: {e2e-volume: %[2]s}}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
  storageClassName: %[2]s
`, name, s.ns))
	s.becomes(claimsResource, name, "Bound", "status", "phase")
}

func (s *space) testVolumeLifecycle() {
	s.volume(s.ns + "-1")
	volumes, claims := s.dynamic.Resource(volumesResource), s.of(claimsResource)
	listed := func(want int) {
		s.Helper()
		for _, in := range []dynamic.ResourceInterface{volumes, claims} {
			s.eventually(fmt.Sprintf("%d are listed", want), func(ctx context.Context) error {
				list, err := in.List(ctx, metav1.ListOptions{LabelSelector: "e2e-volume=" + s.ns})
				if err == nil && len(list.Items) != want {
					err = fmt.Errorf("there are %s", text(list.Items))
				}
				return err
			})
		}
	}
	listed(1)
	for _, in := range []dynamic.ResourceInterface{volumes, claims} {
		obj, err := in.Patch(s.Context(), s.ns+"-1", types.MergePatchType, []byte(`{"metadata":{"labels":{"patched":"true"}}}`), metav1.PatchOptions{})
		s.ok(err)
		got, err := in.Get(s.Context(), s.ns+"-1", metav1.GetOptions{})
		s.ok(err)
		s.condition("it is patched", got.GetLabels()["patched"] == "true" && got.GetUID() == obj.GetUID(), got)
	}
	s.ok(claims.Delete(s.Context(), s.ns+"-1", metav1.DeleteOptions{}))
	s.ok(volumes.Delete(s.Context(), s.ns+"-1", metav1.DeleteOptions{}))
	listed(0)

	s.volume(s.ns + "-2")
	for _, in := range []dynamic.ResourceInterface{volumes, claims} {
		s.ok(retry.RetryOnConflict(retry.DefaultRetry, func() error {
			obj, err := in.Get(s.Context(), s.ns+"-2", metav1.GetOptions{})
			if err != nil {
				return err
			}
			set := obj.GetLabels()
			set["updated"] = "true"
			obj.SetLabels(set)
			_, err = in.Update(s.Context(), obj, metav1.UpdateOptions{})
			return err
		}))
	}
	s.ok(claims.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "updated=true"}))
	s.ok(volumes.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "updated=true,e2e-volume=" + s.ns}))
	listed(0)
}

func (s *space) testVolumeStatus() {
	s.volume(s.ns)
	volumes := s.dynamic.Resource(volumesResource)
	var claim corev1.PersistentVolumeClaim
	s.get(claimsResource, s.ns, &claim, "status")
	s.condition("the claim's phase is read", claim.Status.Phase == corev1.ClaimBound, claim)
	volume, err := volumes.Get(s.Context(), s.ns, metav1.GetOptions{}, "status")
	s.ok(err)
	phase, _, err := unstructured.NestedString(volume.Object, "status", "phase")
	s.ok(err)
	s.condition("the volume's phase is read", phase == string(corev1.VolumeBound), volume)

	s.statuses(claimsResource, s.ns, map[string]string{"e2e-volume": s.ns})
	patched, err := volumes.Patch(s.Context(), s.ns, types.MergePatchType, []byte(`{"status":{"message":"StatusPatched","reason":"E2E patchStatus"}}`), metav1.PatchOptions{}, "status")
	s.ok(err)
	reason, _, err := unstructured.NestedString(patched.Object, "status", "reason")
	s.ok(err)
	s.condition("the volume's status is patched", reason == "E2E patchStatus", patched)
	s.ok(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		obj, err := volumes.Get(s.Context(), s.ns, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := unstructured.SetNestedField(obj.Object, "StatusUpdated", "status", "reason"); err != nil {
			return err
		}
		obj, err = volumes.UpdateStatus(s.Context(), obj, metav1.UpdateOptions{})
		if err == nil {
			reason, _, _ = unstructured.NestedString(obj.Object, "status", "reason")
		}
		return err
	}))
	s.condition("the volume's status is updated", reason == "StatusUpdated", reason)
	s.ok(s.of(claimsResource).Delete(s.Context(), s.ns, metav1.DeleteOptions{}))
	s.ok(volumes.Delete(s.Context(), s.ns, metav1.DeleteOptions{}))
}
