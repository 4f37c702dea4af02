package plugins_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/plugins"
	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// write writes a file of the test's and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOptionalPlugins(t *testing.T) {
	file := write(t, "admission.yaml", `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: EventRateLimit
  configuration:
    apiVersion: eventratelimit.admission.k8s.io/v1alpha1
    kind: Configuration
    limits: [{type: Namespace, qps: 1, burst: 2}]
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: v1.30}
    exemptions: {usernames: [alice], namespaces: [free], runtimeClasses: []}
`)
	e := startWith(t, plugins.Config{
		Enable: []string{"AlwaysPullImages", "EventRateLimit", "OwnerReferencesPermissionEnforcement", "DenyServiceExternalIPs"}, File: file,
	}, namespace("free", nil), account("x", "default"), account("free", "default"),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r", "other": "o"}}})

	t.Run("AlwaysPullImages", func(t *testing.T) {
		p := pod(func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever })
		if _, err := e.admit(admission.Attributes{Object: p}, "pods"); err != nil || p.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways || p.Spec.InitContainers[0].ImagePullPolicy != corev1.PullAlways {
			t.Errorf("got %+v, %v", p.Spec, err)
		}
	})
	t.Run("EventRateLimit", func(t *testing.T) {
		event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "e"}}
		for range 2 {
			e.wantError(admission.Attributes{Object: event}, "events", "")
		}
		_, err := e.admit(admission.Attributes{Object: event}, "events")
		if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "limit reached on type Namespace for key x") {
			t.Errorf("got %v", err)
		}
		event.Namespace = "free"
		e.wantError(admission.Attributes{Object: event}, "events", "")
	})
	t.Run("PodSecurity", func(t *testing.T) {
		bad := pod(func(p *corev1.Pod) { p.Spec.HostNetwork = true })
		var annotations []string
		note := func(key, value string) { annotations = append(annotations, key+"="+value) }
		e.wantError(admission.Attributes{Object: bad.DeepCopy(), Annotate: note}, "pods", `pods "p" is forbidden: violates PodSecurity "baseline:v1.30": host namespaces (hostNetwork=true)`)
		e.wantError(admission.Attributes{Object: bad.DeepCopy(), Annotate: note, User: &identity.User{Name: "alice"}}, "pods", "")
		bad.Namespace = "free"
		e.wantError(admission.Attributes{Object: bad.DeepCopy(), Annotate: note}, "pods", "")
		for _, want := range []string{"enforce-policy=baseline:v1.30", "exempt=user", "exempt=namespace"} {
			if !slices.Contains(annotations, "pod-security.kubernetes.io/"+want) {
				t.Errorf("annotations %q, want %s", annotations, want)
			}
		}
	})
	t.Run("PodTopologyLabels", func(t *testing.T) {
		binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
		bound := pod(func(p *corev1.Pod) {
			p.Spec.NodeName = "n"
			p.Labels = map[string]string{corev1.LabelTopologyZone: "wrong"}
		})
		e.wantError(admission.Attributes{Object: binding}, "pods/binding", "")
		e.wantError(admission.Attributes{Object: bound}, "pods", "")
		for _, labels := range []map[string]string{binding.Labels, bound.Labels} {
			if len(labels) != 2 || labels[corev1.LabelTopologyZone] != "z" || labels[corev1.LabelTopologyRegion] != "r" {
				t.Errorf("got %v", labels)
			}
		}
	})
	t.Run("DenyServiceExternalIPs", func(t *testing.T) {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "s"}, Spec: corev1.ServiceSpec{ExternalIPs: []string{"1.2.3.4"}}}
		e.wantError(admission.Attributes{Object: service}, "services", `services "s" is forbidden: Use of external IPs is denied by admission control.`)
		e.wantError(admission.Attributes{Object: service, Old: service, Operation: admission.Update}, "services", "")
	})
	t.Run("OwnerReferencesPermissionEnforcement", func(t *testing.T) {
		owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "c", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: "1", BlockOwnerDeletion: ptr.To(true)}}}}
		want := func(text string) {
			t.Helper()
			_, err := e.admit(admission.Attributes{Object: owned}, "configmaps")
			if text == "" && err != nil || text != "" && (err == nil || !strings.HasPrefix(err.Error(), `configmaps "c" is forbidden: `+text)) {
				t.Errorf("got %v, want %s", err, text)
			}
		}
		grant := func(name string, rule rbacv1.PolicyRule) {
			e.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}, Rules: []rbacv1.PolicyRule{rule}})
			e.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
				Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "bob"}}})
		}
		want("cannot set an ownerRef on a resource you can't delete: ")
		grant("delete", rbacv1.PolicyRule{Verbs: []string{"delete"}, APIGroups: []string{""}, Resources: []string{"configmaps"}})
		e.eventually(func() bool {
			_, err := e.admit(admission.Attributes{Object: owned}, "configmaps")
			return err == nil || !strings.Contains(err.Error(), "you can't delete")
		})
		want("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: ")
		grant("finalize", rbacv1.PolicyRule{Verbs: []string{"update"}, APIGroups: []string{"apps"}, Resources: []string{"replicasets/finalizers"}})
		e.eventually(func() bool { _, err := e.admit(admission.Attributes{Object: owned}, "configmaps"); return err == nil })
		owned.OwnerReferences[0].Kind = "Nothing"
		want("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion apps/v1 Kind Nothing: ")
	})
}

func TestConfiguration(t *testing.T) {
	e := start(t)
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n"
	for name, c := range map[string]struct {
		config plugins.Config
		want   string
	}{
		"no file":       {plugins.Config{File: "/nowhere"}, "reading the admission configuration: open /nowhere"},
		"another kind":  {plugins.Config{File: write(t, "a", "kind: Other")}, "it must be an AdmissionConfiguration of version apiserver.config.k8s.io/v1"},
		"unknown field": {plugins.Config{File: write(t, "a", head+"x: 1")}, `unknown field "x"`},
		"not to be set": {plugins.Config{File: write(t, "a", head+"plugins: [{name: Priority}]")}, `plug-in "Priority" takes no configuration`},
		"level":         {plugins.Config{File: write(t, "a", head+"plugins: [{name: PodSecurity, configuration: {defaults: {warn: strict}}}]")}, `defaults.warn: Invalid value: "strict": must be one of privileged, baseline, restricted`},
		"limits":        {plugins.Config{Enable: []string{"EventRateLimit"}}, "limits: Required value"},
		"limit":         {plugins.Config{Enable: []string{"EventRateLimit"}, File: write(t, "a", head+"plugins: [{name: EventRateLimit, path: "+write(t, "b", "limits: [{type: Moon, qps: 1, burst: 1}]")+"}]")}, `limits[0].type: Unsupported value: "Moon"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := plugins.New(t.Context(), e.deps, c.config)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	// A plug-in that is disabled has no say.
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{Admission: plugins.Config{Disable: []string{"NamespaceLifecycle"}}}})
	if err := tc.Client.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "nowhere", Name: "c"}}); err != nil {
		t.Error(err)
	}
}
