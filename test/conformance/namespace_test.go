package conformance

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var namespaces = entries{
	"should ensure that all pods are removed when a namespace is deleted": func(s *server) {
		ns := s.emptied(func() client.Object {
			p := pod("test", nil)
			s.create(p)
			s.running(p)
			return p
		})
		if err := s.get(&corev1.Pod{}, ns+"/test"); !apierrors.IsNotFound(err) {
			s.Errorf("a pod of the namespace that was: %v", err)
		}
	},
	"should ensure that all services are removed when a namespace is deleted": func(s *server) {
		ns := s.emptied(func() client.Object {
			o := &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: "test"},
				Spec:       corev1.ServiceSpec{Selector: map[string]string{"foo": "bar"}, Ports: []corev1.ServicePort{{Port: 80}}},
			}
			s.create(o)
			return o
		})
		if err := s.get(&corev1.Service{}, ns+"/test"); !apierrors.IsNotFound(err) {
			s.Errorf("a Service of the namespace that was: %v", err)
		}
	},
	"should patch a Namespace": func(s *server) {
		before, after := &corev1.Namespace{}, &corev1.Namespace{}
		s.ok(s.get(before, s.ns))
		patched, err := s.kube.CoreV1().Namespaces().Patch(s.ctx, s.ns, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"l":"v"}}}`), metav1.PatchOptions{})
		s.ok(err)
		s.newer(before, patched)
		s.ok(s.get(after, s.ns))
		if after.Labels["l"] != "v" || after.Labels[corev1.LabelMetadataName] != s.ns {
			s.Errorf("the labels: %v", after.Labels)
		}
	},
	"should apply changes to a namespace status": func(s *server) {
		namespaces := s.kube.CoreV1().Namespaces()
		u, err := s.dynamic.Resource(corev1.SchemeGroupVersion.WithResource("namespaces")).Get(s.ctx, s.ns, metav1.GetOptions{}, "status")
		s.ok(err)
		if phase := field(u, "status", "phase"); phase != "Active" || u.GetKind() != "Namespace" {
			s.Errorf("its status: %v", u.Object)
		}
		ns, err := namespaces.Patch(s.ctx, s.ns, types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"by":"patch"}},"status":{"conditions":[{"type":"StatusPatch","status":"True","reason":"E2E","message":"patched"}]}}`),
			metav1.PatchOptions{}, "status")
		s.ok(err)
		if c := ns.Status.Conditions; ns.Annotations["by"] != "patch" || len(c) != 1 || c[0].Reason != "E2E" || c[0].Message != "patched" {
			s.Errorf("patched: %v %+v", ns.Annotations, c)
		}
		s.changeStatus(ns, s.ns, func() {
			ns.Status.Conditions = append(ns.Status.Conditions, corev1.NamespaceCondition{Type: "StatusUpdate", Status: "True", Reason: "E2E", Message: "updated"})
		})
		if c := ns.Status.Conditions; len(c) != 2 || c[1].Type != "StatusUpdate" || c[1].Message != "updated" {
			s.Errorf("updated: %+v", c)
		}
	},
	"should apply an update to a Namespace": func(s *server) {
		ns := &corev1.Namespace{}
		s.change(ns, s.ns, func() { ns.Labels[s.ns] = "updated" })
		if ns.Labels[s.ns] != "updated" {
			s.Errorf("the labels: %v", ns.Labels)
		}
	},
	"should apply a finalizer to a Namespace": func(s *server) {
		const finalizer = corev1.FinalizerName("example.com/one")
		finalize := func(change func([]corev1.FinalizerName) []corev1.FinalizerName) []corev1.FinalizerName {
			ns := &corev1.Namespace{}
			var now []corev1.FinalizerName
			s.ok(s.tryChange(ns, s.ns, func() { ns.Spec.Finalizers = change(ns.Spec.Finalizers) }, func(client.Object) error {
				out, err := s.kube.CoreV1().Namespaces().Finalize(s.ctx, ns, metav1.UpdateOptions{})
				now = out.Spec.Finalizers
				return err
			}))
			return now
		}
		all := finalize(func(f []corev1.FinalizerName) []corev1.FinalizerName { return append(f, finalizer) })
		if !slices.Equal(all, []corev1.FinalizerName{corev1.FinalizerKubernetes, finalizer}) {
			s.Errorf("with one more finalizer: %v", all)
		}
		all = finalize(func(f []corev1.FinalizerName) []corev1.FinalizerName {
			return slices.DeleteFunc(f, func(n corev1.FinalizerName) bool { return n == finalizer })
		})
		if !slices.Equal(all, []corev1.FinalizerName{corev1.FinalizerKubernetes}) {
			s.Errorf("without it: %v", all)
		}
	},
}

var orderedDeletion = entries{
	"namespace deletion should delete pod first": func(s *server) {
		p := pod("test", nil)
		p.Finalizers = []string{"example.com/finalizer"}
		s.create(p)
		s.running(p)
		s.create(configMap("test", "key", "value"))
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
		s.delete(ns)
		s.until("the namespace says that content remains", func() bool {
			s.ok(s.get(ns, s.ns))
			failure := func(c corev1.NamespaceCondition) bool { return c.Type == corev1.NamespaceDeletionContentFailure }
			return ns.Status.Phase == corev1.NamespaceTerminating && slices.ContainsFunc(ns.Status.Conditions, failure)
		})
		s.until("the pod is being deleted", func() bool {
			s.ok(s.get(&corev1.ConfigMap{}, "test"))
			s.ok(s.get(p, "test"))
			return p.DeletionTimestamp != nil
		})
		s.change(p, "test", func() { p.Finalizers = nil })
		s.gone(ns)
	},
}

// emptied deletes the test's namespace with what fill puts into it, waits until
// it is gone, and makes it anew.
func (s *server) emptied(fill func() client.Object) string {
	s.Helper()
	o := fill()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}
	s.delete(ns)
	s.gone(ns)
	if err := s.api.Get(s.ctx, client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
		s.Errorf("it outlives its namespace: %v", err)
	}
	s.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}})
	return s.ns
}
