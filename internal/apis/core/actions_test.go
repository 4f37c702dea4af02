package core_test

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"skiff/internal/cluster/testcluster"
)

// TestServed runs what needs more than the declarations alone against a whole
// API server, each part in a namespace of its own.
func TestServed(t *testing.T) {
	c, err := kubernetes.NewForConfig(testcluster.Start(t).Config)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(t *testing.T, c *kubernetes.Clientset, ns string){
		"pods": testActionsOnPods, "eviction": testEviction, "namespace": testNamespaceDeletion, "events": testEventsInBothGroups,
		"generations": testGenerations, "statuses": testStatusWriters, "annotations": testOldAnnotations,
	} {
		t.Run(name, func(t *testing.T) {
			makeNamespace(t, c, name)
			test(t, c, name)
		})
	}
}

// makeNamespace makes a namespace that pods can be created in.
func makeNamespace(t *testing.T, c *kubernetes.Clientset, name string) {
	t.Helper()
	must(c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(t)
	must(c.CoreV1().ServiceAccounts(name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))(t)
}

func must[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "a"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "registry.local/app:1",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
		}}},
	}
}

func testActionsOnPods(t *testing.T, c *kubernetes.Clientset, ns string) {
	ctx, pods := t.Context(), c.CoreV1().Pods(ns)
	created := must(pods.Create(ctx, pod("p"), metav1.CreateOptions{}))(t)
	if created.Status.Phase != corev1.PodPending || created.Status.QOSClass != corev1.PodQOSBurstable || created.Generation != 1 {
		t.Errorf("a new pod has generation %d and status %+v", created.Generation, created.Status)
	}

	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	bound := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t)
	if bound.Spec.NodeName != "n" || len(bound.Status.Conditions) != 1 || bound.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Errorf("the bound pod is on %q with %+v", bound.Spec.NodeName, bound.Status.Conditions)
	}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("binding again: %v", err)
	}
	binding.Target.Name = ""
	// As with upstream, it is an error of the server.
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); err == nil || err.Error() != "target.name: Required value" {
		t.Errorf("binding to nothing: %v", err)
	}
	must(pods.Create(ctx, pod("q"), metav1.CreateOptions{}))(t)
	old := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Target: corev1.ObjectReference{Name: "m"}}
	if err := c.CoreV1().RESTClient().Post().Namespace(ns).Resource("bindings").Body(old).Do(ctx).Error(); err != nil {
		t.Errorf("binding the old way: %v", err)
	}
	if q := must(pods.Get(ctx, "q", metav1.GetOptions{}))(t); q.Spec.NodeName != "m" {
		t.Errorf("bound the old way the pod is on %q", q.Spec.NodeName)
	}
	byNode := must(pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n,status.phase=Pending"}))(t)
	if len(byNode.Items) != 1 {
		t.Errorf("%d pods by node", len(byNode.Items))
	}

	node := must(c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelOSStable: "linux"}}}, metav1.CreateOptions{}))(t)
	node.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("1Gi")}
	must(c.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}))(t)
	bound.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("2")
	resized := must(pods.UpdateResize(ctx, "p", bound, metav1.UpdateOptions{}))(t)
	if resized.Spec.Containers[0].Resources.Requests.Cpu().String() != "2" || resized.Generation != bound.Generation+1 {
		t.Errorf("the resized pod: generation %d, %+v", resized.Generation, resized.Spec.Containers[0].Resources)
	}
	resized.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d", Image: "x:1"}}}
	debugged := must(pods.UpdateEphemeralContainers(ctx, "p", resized, metav1.UpdateOptions{}))(t)
	if len(debugged.Spec.EphemeralContainers) != 1 || debugged.Spec.EphemeralContainers[0].TerminationMessagePolicy == "" {
		t.Errorf("ephemeral containers are %+v", debugged.Spec.EphemeralContainers)
	}
	debugged.Spec.NodeName = "other"
	if _, err := pods.Update(ctx, debugged, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("moving a pod: %v", err)
	}

	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ending := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t)
	if ending.DeletionTimestamp == nil || ptr.Deref(ending.DeletionGracePeriodSeconds, 0) != 30 {
		t.Errorf("a deleted pod: %+v", ending.ObjectMeta)
	}
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after deletion without grace: %v", err)
	}
}

func testNamespaceDeletion(t *testing.T, c *kubernetes.Clientset, name string) {
	ctx, namespaces := t.Context(), c.CoreV1().Namespaces()
	if err := namespaces.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ns := must(namespaces.Get(ctx, name, metav1.GetOptions{}))(t)
	if ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil {
		t.Fatalf("a deleted namespace is %+v", ns)
	}
	ns.Labels = map[string]string{"team": "a"}
	ns.Status.Phase = corev1.NamespaceActive
	ns = must(namespaces.Finalize(ctx, ns, metav1.UpdateOptions{}))(t)
	if ns.Labels["team"] != "a" || ns.Labels[corev1.LabelMetadataName] != name || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("finalize writes metadata and not the status: %+v", ns)
	}
	ns.Spec.Finalizers = nil
	if _, err := namespaces.Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := namespaces.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after finalization: %v", err)
	}
}

func testEventsInBothGroups(t *testing.T, c *kubernetes.Clientset, ns string) {
	ctx := t.Context()
	must(c.CoreV1().Events(ns).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "p"},
		Reason: "R", Message: "text", Type: "Normal",
	}, metav1.CreateOptions{}))(t)
	e := must(c.EventsV1().Events(ns).Get(ctx, "e", metav1.GetOptions{}))(t)
	if e.Note != "text" || e.Regarding.Name != "p" || e.APIVersion != "" && e.APIVersion != "events.k8s.io/v1" {
		t.Errorf("in events.k8s.io it is %+v", e)
	}
	list := must(c.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p,reason=R"}))(t)
	if len(list.Items) != 1 {
		t.Errorf("%d events by field", len(list.Items))
	}
	selects := func(selector string, old, own bool) {
		t.Helper()
		o := metav1.ListOptions{FieldSelector: selector}
		if _, err := c.CoreV1().Events(ns).List(ctx, o); (err == nil) != old {
			t.Errorf("events by %s: %v", selector, err)
		}
		if _, err := c.EventsV1().Events(ns).List(ctx, o); (err == nil) != own {
			t.Errorf("events of events.k8s.io by %s: %v", selector, err)
		}
	}
	selects("metadata.name=e,type=Normal,reason=R", true, true)
	selects("involvedObject.kind=Pod", true, false)
	selects("reportingComponent=c", true, false)
	selects("source=c", true, false)
	selects("regarding.kind=Pod", false, true)
	selects("reportingController=c", false, true)

	strict := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "strict"}, Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "p"},
		EventTime: metav1.NowMicro(), ReportingController: "test/c", ReportingInstance: "i", Action: "A", Reason: "R", Type: "Normal", Note: "text",
	}
	for text, change := range map[string]func(e *eventsv1.Event){
		"":                                    func(*eventsv1.Event) {},
		"reportingController: Required value": func(e *eventsv1.Event) { e.ReportingController = "" },
		"eventTime: Required value":           func(e *eventsv1.Event) { e.EventTime = metav1.MicroTime{} },
		"count: Invalid value: \"\": needs to be unset": func(e *eventsv1.Event) { e.DeprecatedCount = 1 },
		"series.count: Invalid value: \"\": should be at least 2": func(e *eventsv1.Event) {
			e.Series = &eventsv1.EventSeries{Count: 1, LastObservedTime: metav1.NowMicro()}
		},
	} {
		e := strict.DeepCopy()
		change(e)
		_, err := c.EventsV1().Events(ns).Create(ctx, e, metav1.CreateOptions{})
		if (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
	stored := must(c.EventsV1().Events(ns).Get(ctx, "strict", metav1.GetOptions{}))(t)
	stored.Series = &eventsv1.EventSeries{Count: 2, LastObservedTime: metav1.NowMicro()}
	stored = must(c.EventsV1().Events(ns).Update(ctx, stored, metav1.UpdateOptions{}))(t)
	stored.Note = "other"
	if _, err := c.EventsV1().Events(ns).Update(ctx, stored, metav1.UpdateOptions{}); err == nil || !strings.Contains(err.Error(), "message: Invalid value") {
		t.Errorf("another note: %v", err)
	}
}

// testOldAnnotations: annotations that stand for fields of older versions must
// be what those were.
func testOldAnnotations(t *testing.T, c *kubernetes.Clientset, ns string) {
	ctx, p := t.Context(), pod("")
	selector, template := &metav1.LabelSelector{MatchLabels: p.Labels}, corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}
	for annotation, want := range map[string]string{
		appsv1.DeprecatedTemplateGeneration: `DaemonSet in version "v1" cannot be handled as a DaemonSet: strconv.ParseInt: parsing "x": invalid syntax`,
		appsv1.DeprecatedRollbackTo:         `Deployment in version "v1" cannot be handled as a Deployment: failed to parse annotation[deprecated.deployment.rollback.to]=x as int64: strconv.ParseInt: parsing "x": invalid syntax`,
	} {
		for value, ok := range map[string]bool{"x": false, "7": true} {
			meta := metav1.ObjectMeta{Name: "a", Annotations: map[string]string{annotation: value}}
			var err error
			if strings.HasPrefix(want, "DaemonSet") {
				_, err = c.AppsV1().DaemonSets(ns).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}, metav1.CreateOptions{})
			} else {
				_, err = c.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}, metav1.CreateOptions{})
			}
			if ok && err != nil || !ok && (!apierrors.IsBadRequest(err) || err.Error() != want) {
				t.Errorf("%s=%s: %v", annotation, value, err)
			}
		}
	}
}

// testStatusWriters: who writes a status comes to own what the write changes,
// and nothing that it leaves as it was.
func testStatusWriters(t *testing.T, c *kubernetes.Clientset, ns string) {
	ctx, p := t.Context(), pod("p")
	must(c.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{}))(t)
	must(c.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: p.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}},
	}, metav1.CreateOptions{}))(t)
	const owner = `[{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"}]`
	for _, tt := range []struct {
		resource, name, patch string
		owned                 string
	}{
		{"deployments", "d", `{"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "status": {"replicas": 1}}`,
			`{"f:metadata":{"f:annotations":{".":{},"f:c":{}}},"f:status":{"f:replicas":{}}}`},
		{"pods", "p", `{"metadata": {"labels": {"a": "b"}, "ownerReferences": ` + owner + `}, "status": {"message": "m"}}`,
			`{"f:metadata":{"f:labels":{"f:a":{}}},"f:status":{"f:message":{}}}`},
	} {
		client := c.CoreV1().RESTClient()
		if tt.resource == "deployments" {
			client = c.AppsV1().RESTClient()
		}
		obj := &metav1.PartialObjectMetadata{}
		data := must(client.Patch(types.MergePatchType).Namespace(ns).Resource(tt.resource).Name(tt.name).SubResource("status").
			VersionedParams(&metav1.PatchOptions{FieldManager: "reporter"}, metav1.ParameterCodec).Body([]byte(tt.patch)).SetHeader("Accept", "application/json").DoRaw(ctx))(t)
		if err := json.Unmarshal(data, obj); err != nil {
			t.Fatal(err)
		}
		var owned string
		for _, m := range obj.ManagedFields {
			if m.Manager == "reporter" {
				owned = string(m.FieldsV1.Raw)
			}
		}
		if owned != tt.owned {
			t.Errorf("who reports on %s owns %s, want %s", tt.resource, owned, tt.owned)
		}
		if (tt.resource == "deployments") != (obj.Labels["a"] == "") || len(obj.OwnerReferences) != 0 {
			t.Errorf("the metadata of %s is %+v", tt.resource, obj.ObjectMeta)
		}
	}
}

// testGenerations: what counts as a new generation differs.
func testGenerations(t *testing.T, c *kubernetes.Clientset, ns string) {
	ctx := t.Context()
	deployments, drivers := c.AppsV1().Deployments(ns), c.StorageV1().CSIDrivers()
	p := pod("")
	must(deployments.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: p.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}},
	}, metav1.CreateOptions{}))(t)
	for _, step := range []struct {
		patch string
		want  int64
	}{
		{`{"metadata": {"labels": {"a": "b"}}}`, 1},
		{`{"metadata": {"annotations": {"a": "b"}}}`, 2},
		{`{"metadata": {"annotations": {"a": "c"}}, "spec": {"replicas": 2}}`, 3},
		{`{"spec": {"replicas": 2}}`, 3},
	} {
		if d := must(deployments.Patch(ctx, "d", types.MergePatchType, []byte(step.patch), metav1.PatchOptions{}))(t); d.Generation != step.want {
			t.Errorf("after %s the Deployment has generation %d, want %d", step.patch, d.Generation, step.want)
		}
	}
	driver := must(drivers.Create(ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "csi"}}, metav1.CreateOptions{}))(t)
	if driver.Generation != 0 {
		t.Errorf("a new driver has generation %d", driver.Generation)
	}
	for _, step := range []struct {
		patch string
		want  int64
	}{
		{`{"metadata": {"annotations": {"a": "b"}}}`, 0},
		{`{"spec": {"requiresRepublish": true}}`, 1},
		{`{"spec": {"storageCapacity": true}}`, 2},
		{`{"spec": {"storageCapacity": true}}`, 2},
	} {
		if driver = must(drivers.Patch(ctx, "csi", types.MergePatchType, []byte(step.patch), metav1.PatchOptions{}))(t); driver.Generation != step.want {
			t.Errorf("after %s the driver has generation %d, want %d", step.patch, driver.Generation, step.want)
		}
	}
}
