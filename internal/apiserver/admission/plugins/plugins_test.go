package plugins_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/plugins"
	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/authz/privileged"
	"skiff/internal/apiserver/authz/rbac"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

// env is the default chain over the state of a real API server.
type env struct {
	*testcluster.Cluster
	t     *testing.T
	cache client.Reader
	chain admission.Chain
	deps  plugins.Deps
}

func start(t *testing.T, objects ...client.Object) *env {
	t.Helper()
	return startWith(t, plugins.Config{}, objects...)
}

func startWith(t *testing.T, c plugins.Config, objects ...client.Object) *env {
	t.Helper()
	tc := testcluster.Start(t)
	set := tc.Set(identity.Loopback())
	roles := rbac.New()
	if err := roles.Follow(t.Context(), set.Cache); err != nil {
		t.Fatal(err)
	}
	deps := plugins.Deps{
		Cache: set.Cache, Informers: set.Cache, Live: set.Client, Rules: roles,
		Authorizer: authz.Union{privileged.Authorizer{}, roles}, Clock: clock.RealClock{}, Server: tc.Verbs,
	}
	chain, err := plugins.New(t.Context(), deps, c)
	if err != nil {
		t.Fatal(err)
	}
	e := &env{tc, t, set.Cache, chain, deps}
	e.create(namespace("x", nil))
	for _, obj := range objects {
		e.create(obj)
	}
	return e
}

func namespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// create makes the object, with its status, and waits until the cache has it.
func (e *env) create(obj client.Object) {
	e.t.Helper()
	wish := obj.DeepCopyObject().(client.Object)
	if err := e.Client.Create(e.t.Context(), obj); err != nil {
		e.t.Fatal(err)
	}
	if quota, ok := wish.(*corev1.ResourceQuota); ok {
		obj.(*corev1.ResourceQuota).Status = quota.Status
		if err := e.Client.Status().Update(e.t.Context(), obj); err != nil {
			e.t.Fatal(err)
		}
	}
	e.eventually(func() bool {
		have := wish.DeepCopyObject().(client.Object)
		err := e.cache.Get(e.t.Context(), client.ObjectKeyFromObject(obj), have)
		return err == nil && have.GetResourceVersion() == obj.GetResourceVersion()
	})
}

func (e *env) eventually(condition func() bool) {
	e.t.Helper()
	err := wait.PollUntilContextTimeout(e.t.Context(), time.Millisecond, 10*time.Second, true,
		func(context.Context) (bool, error) { return condition(), nil })
	if err != nil {
		e.t.Fatal("waited in vain")
	}
}

var bob = &identity.User{Name: "bob", Groups: []string{identity.GroupAuthenticated}}

// admit asks the chain about a write, and returns its warnings and refusal.
func (e *env) admit(a admission.Attributes, gvr string) (warnings []string, err error) {
	group, kind := "", gvr
	if i := strings.IndexByte(gvr, '.'); i >= 0 {
		kind, group = gvr[:i], gvr[i+1:]
	}
	kind, a.Subresource, _ = strings.Cut(kind, "/")
	a.Resource = &apis.Resource{Names: apis.Names{Group: group, Resource: kind}}
	a.Warn = func(text string) { warnings = append(warnings, text) }
	if a.User == nil {
		a.User = bob
	}
	if a.Operation == "" {
		a.Operation = admission.Create
	}
	if m, ok := a.Object.(metav1.Object); ok {
		if a.Name == "" {
			a.Name = m.GetName()
		}
		if a.Namespace == "" {
			a.Namespace = m.GetNamespace()
		}
	}
	if err = e.chain.Mutate(e.t.Context(), &a); err == nil {
		err = e.chain.Validate(e.t.Context(), &a)
	}
	return warnings, err
}

func (e *env) wantError(a admission.Attributes, gvr, want string) {
	e.t.Helper()
	_, err := e.admit(a, gvr)
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != want {
		e.t.Errorf("%s:\n got %s\nwant %s", gvr, got, want)
	}
}

func pod(change func(p *corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}, InitContainers: []corev1.Container{{Name: "i"}}},
	}
	if change != nil {
		change(p)
	}
	return p
}

func account(namespace, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func TestNamespaceLifecycle(t *testing.T) {
	e := start(t)
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "y", Name: "c"}}
	e.wantError(admission.Attributes{Object: configMap}, "configmaps", `namespaces "y" not found`)
	for _, name := range []string{"default", "kube-system", "kube-public"} {
		e.wantError(admission.Attributes{Operation: admission.Delete, Name: name}, "namespaces",
			fmt.Sprintf("namespaces %q is forbidden: this namespace may not be deleted", name))
	}
	e.wantError(admission.Attributes{Operation: admission.Delete, Name: "x"}, "namespaces", "")

	ending := namespace("ending", nil)
	e.create(ending)
	if err := e.Client.Delete(t.Context(), ending); err != nil {
		t.Fatal(err)
	}
	configMap.Namespace = "ending"
	e.eventually(func() bool {
		_, err := e.admit(admission.Attributes{Object: configMap}, "configmaps")
		return err != nil
	})
	_, err := e.admit(admission.Attributes{Object: configMap}, "configmaps")
	if want := `configmaps "c" is forbidden: unable to create new content in namespace ending because it is being terminated`; err.Error() != want {
		t.Errorf("got %v", err)
	}
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("the cause is not said: %#v", err)
	}
	e.wantError(admission.Attributes{Operation: admission.Update, Object: configMap, Old: configMap}, "configmaps", "")
}

func TestServiceAccount(t *testing.T) {
	secretive := account("x", "secretive")
	secretive.Annotations = map[string]string{"kubernetes.io/enforce-mountable-secrets": "T"}
	secretive.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	secretive.AutomountServiceAccountToken = ptr.To(false)
	e := start(t, account("x", "default"), secretive)

	p := pod(nil)
	e.wantError(admission.Attributes{Object: p}, "pods", "")
	if p.Spec.ServiceAccountName != "default" || p.Spec.DeprecatedServiceAccount != "default" {
		t.Errorf("accounts %q, %q", p.Spec.ServiceAccountName, p.Spec.DeprecatedServiceAccount)
	}
	volume := p.Spec.Volumes[0]
	if !strings.HasPrefix(volume.Name, "kube-api-access-") || *volume.Projected.Sources[0].ServiceAccountToken.ExpirationSeconds != 3607 {
		t.Errorf("volume %v", volume)
	}
	for _, c := range append(p.Spec.Containers, p.Spec.InitContainers...) {
		if m := c.VolumeMounts; len(m) != 1 || m[0].Name != volume.Name || m[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" || !m[0].ReadOnly {
			t.Errorf("container %s mounts %v", c.Name, m)
		}
	}

	p = pod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "secretive" })
	e.wantError(admission.Attributes{Object: p}, "pods", "")
	if len(p.Spec.Volumes) != 0 || len(p.Spec.ImagePullSecrets) != 1 {
		t.Errorf("volumes %v, pull secrets %v", p.Spec.Volumes, p.Spec.ImagePullSecrets)
	}
	p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "other"}}}}
	e.wantError(admission.Attributes{Object: p}, "pods",
		`pods "p" is forbidden: volume with secret.secretName="other" is not allowed because service account secretive does not reference that secret`)

	debug := pod(func(p *corev1.Pod) {
		p.Spec.ServiceAccountName = "secretive"
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Env: []corev1.EnvVar{{
			Name: "a", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}}}}}}}
	})
	e.wantError(admission.Attributes{Operation: admission.Update, Object: debug, Old: pod(nil)}, "pods/ephemeralcontainers",
		`pods "p" is forbidden: ephemeral container e with envVar a referencing secret.secretName="other" is not allowed because service account secretive does not reference that secret`)
	debug.Spec.EphemeralContainers[0].Env = nil
	debug.Spec.EphemeralContainers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}}}
	e.wantError(admission.Attributes{Operation: admission.Update, Object: debug, Old: pod(nil)}, "pods/ephemeralcontainers",
		`pods "p" is forbidden: ephemeral container e with envFrom referencing secret.secretName="other" is not allowed because service account secretive does not reference that secret`)
	debug.Spec.ServiceAccountName = "default"
	e.wantError(admission.Attributes{Operation: admission.Update, Object: debug, Old: pod(nil)}, "pods/ephemeralcontainers", "")

	e.wantError(admission.Attributes{Object: pod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "none" })}, "pods",
		`pods "p" is forbidden: error looking up service account x/none: serviceaccount "none" not found`)
	mirror := func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "m"} }
	e.wantError(admission.Attributes{Object: pod(mirror)}, "pods", "")
	e.wantError(admission.Attributes{Object: pod(func(p *corev1.Pod) { mirror(p); p.Spec.ServiceAccountName = "default" })}, "pods",
		`pods "p" is forbidden: a mirror pod may not reference service accounts`)
	e.wantError(admission.Attributes{Object: pod(func(p *corev1.Pod) {
		mirror(p)
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &corev1.LocalObjectReference{Name: "s"}}}}}
	})}, "pods", `pods "p" is forbidden: a mirror pod may not reference secrets`)
	e.wantError(admission.Attributes{Object: pod(func(p *corev1.Pod) {
		mirror(p)
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}}}}
	})}, "pods", `pods "p" is forbidden: a mirror pod may not use ServiceAccountToken volume projections`)
}

// A pod that is made right after its namespace waits for the default account.
func TestServiceAccountComesLater(t *testing.T) {
	e := start(t)
	result := make(chan error)
	go func() {
		_, err := e.admit(admission.Attributes{Object: pod(nil)}, "pods")
		result <- err
	}()
	e.create(account("x", "default"))
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestPodDefaults(t *testing.T) {
	e := start(t, account("x", "default"),
		&schedulingv1.PriorityClass{ObjectMeta: meta("high"), Value: 100, PreemptionPolicy: ptr.To(corev1.PreemptNever)},
		&nodev1.RuntimeClass{ObjectMeta: meta("vm"), Handler: "vm", Overhead: &nodev1.Overhead{PodFixed: list("cpu", "100m")},
			Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}}},
		&corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Default: list("memory", "64Mi"), DefaultRequest: list("memory", "32Mi"),
			Max: list("memory", "128Mi"), Min: list("memory", "16Mi"), MaxLimitRequestRatio: list("memory", "4"),
		}}}})

	p := pod(func(p *corev1.Pod) { p.Spec.PriorityClassName, p.Spec.RuntimeClassName = "high", ptr.To("vm") })
	e.wantError(admission.Attributes{Object: p}, "pods", "")
	if *p.Spec.Priority != 100 || *p.Spec.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("priority %d, %s", *p.Spec.Priority, *p.Spec.PreemptionPolicy)
	}
	if cpu := p.Spec.Overhead["cpu"]; cpu.String() != "100m" || p.Spec.NodeSelector["vm"] != "yes" {
		t.Errorf("overhead %v, node selector %v", p.Spec.Overhead, p.Spec.NodeSelector)
	}
	if len(p.Spec.Tolerations) != 2 || *p.Spec.Tolerations[0].TolerationSeconds != 300 {
		t.Errorf("tolerations %v", p.Spec.Tolerations)
	}
	if r := p.Spec.Containers[0].Resources; r.Requests.Memory().String() != "32Mi" || r.Limits.Memory().String() != "64Mi" {
		t.Errorf("resources %v", r)
	}
	if got := p.Annotations["kubernetes.io/limit-ranger"]; got != "LimitRanger plugin set: memory request for container c; memory limit for container c; memory request for init container i; memory limit for init container i" {
		t.Errorf("annotation %s", got)
	}

	for name, tt := range map[string]struct {
		change func(p *corev1.Pod)
		err    string
	}{
		"class":         {func(p *corev1.Pod) { p.Spec.PriorityClassName = "none" }, `no PriorityClass with name none was found`},
		"system class":  {func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" }, ""},
		"priority":      {func(p *corev1.Pod) { p.Spec.Priority = ptr.To[int32](5) }, `the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name`},
		"runtime class": {func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr.To("none") }, `pod rejected: RuntimeClass "none" not found`},
		"overhead":      {func(p *corev1.Pod) { p.Spec.Overhead = list("cpu", "1") }, `pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead`},
		"too much": {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = list("memory", "129Mi") },
			`[maximum memory usage per Container is 128Mi, but limit is 129Mi, memory max limit to request ratio per Container is 4, but provided ratio is 4.031250]`},
		"too little": {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list("memory", "15Mi") },
			`[minimum memory usage per Container is 16Mi, but request is 15Mi, memory max limit to request ratio per Container is 4, but provided ratio is 4.266667]`},
	} {
		want := tt.err
		if want != "" {
			want = `pods "p" is forbidden: ` + want
		}
		t.Run(name, func(*testing.T) { e.wantError(admission.Attributes{Object: pod(tt.change)}, "pods", want) })
	}

	node := &corev1.Node{ObjectMeta: meta("n")}
	e.wantError(admission.Attributes{Object: node}, "nodes", "")
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
		t.Errorf("taints %v", node.Spec.Taints)
	}
}

func TestStorageAndIngress(t *testing.T) {
	old := metav1.ObjectMeta{Name: "a", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}}
	e := start(t,
		&storagev1.StorageClass{ObjectMeta: old, Provisioner: "x.example/p", AllowVolumeExpansion: ptr.To(true)},
		&storagev1.StorageClass{ObjectMeta: meta("fixed"), Provisioner: "x.example/p"},
		&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
			Spec: networkingv1.IngressClassSpec{Controller: "x.example/c"}})
	claim := func(class *string, size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: class, Resources: corev1.VolumeResourceRequirements{Requests: list("storage", size)}}}
	}
	c := claim(nil, "1Gi")
	e.wantError(admission.Attributes{Object: c}, "persistentvolumeclaims", "")
	if *c.Spec.StorageClassName != "a" || len(c.Finalizers) != 1 || c.Finalizers[0] != "kubernetes.io/pvc-protection" {
		t.Errorf("class %v, finalizers %v", c.Spec.StorageClassName, c.Finalizers)
	}
	none := claim(ptr.To(""), "1Gi")
	e.wantError(admission.Attributes{Object: none}, "persistentvolumeclaims", "")
	if *none.Spec.StorageClassName != "" {
		t.Errorf("class %q where none was wished", *none.Spec.StorageClassName)
	}
	grow := func(class, phase, want string) {
		t.Helper()
		old := claim(&class, "1Gi")
		old.Status.Phase = corev1.PersistentVolumeClaimPhase(phase)
		e.wantError(admission.Attributes{Operation: admission.Update, Object: claim(&class, "2Gi"), Old: old}, "persistentvolumeclaims", want)
	}
	grow("a", "Bound", "")
	grow("a", "Pending", `persistentvolumeclaims "c" is forbidden: Only bound persistent volume claims can be expanded`)
	grow("fixed", "Bound", `persistentvolumeclaims "c" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize`)

	ingress := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "i"}}
	e.wantError(admission.Attributes{Object: ingress}, "ingresses.networking.k8s.io", "")
	if *ingress.Spec.IngressClassName != "web" {
		t.Errorf("class %v", ingress.Spec.IngressClassName)
	}
}

func TestPodSecurity(t *testing.T) {
	strict := namespace("strict", map[string]string{"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"})
	e := start(t, strict, account("strict", "default"), account("x", "default"))
	in := func(p *corev1.Pod) *corev1.Pod { p.Namespace = "strict"; return p }
	e.wantError(admission.Attributes{Object: in(pod(func(p *corev1.Pod) { p.Spec.HostNetwork = true }))}, "pods",
		`pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`)
	warnings, err := e.admit(admission.Attributes{Object: in(pod(nil))}, "pods")
	if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], `would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false (containers "i", "c" must set`) {
		t.Errorf("got %q, %v", warnings, err)
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "strict", Name: "d"}}
	deployment.Spec.Template.Spec = corev1.PodSpec{HostNetwork: true}
	warnings, err = e.admit(admission.Attributes{Object: deployment}, "deployments.apps")
	if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], `would violate PodSecurity "restricted:latest": host namespaces (hostNetwork=true)`) {
		t.Errorf("got %q, %v", warnings, err)
	}
	e.wantError(admission.Attributes{Object: namespace("bad", map[string]string{"pod-security.kubernetes.io/enforce": "x"})}, "namespaces",
		`Namespace "bad" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "x": must be one of privileged, baseline, restricted`)

	host := pod(func(p *corev1.Pod) {
		p.Spec.HostNetwork, p.Spec.Containers[0].Image = true, "i"
		p.Spec.InitContainers = nil
	})
	e.create(host)
	warnings, err = e.admit(admission.Attributes{
		Operation: admission.Update, Old: namespace("x", nil), Object: namespace("x", map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}),
	}, "namespaces")
	if err != nil || len(warnings) != 2 || warnings[1] != "p: host namespaces" {
		t.Errorf("got %q, %v", warnings, err)
	}
}

// TestPodSecurityMetrics counts what is held against which standard.
func TestPodSecurityMetrics(t *testing.T) {
	labels := func(of ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(of); i += 2 {
			m["pod-security.kubernetes.io/"+of[i]] = of[i+1]
		}
		return m
	}
	tc := testcluster.Start(t)
	create := func(obj client.Object, refused bool) {
		t.Helper()
		if err := tc.Client.Create(t.Context(), obj); (err != nil) != refused {
			t.Fatal(err)
		}
	}
	for name, l := range map[string]map[string]string{
		"open":   nil,
		"strict": labels("enforce", "baseline", "enforce-version", "v1.30", "audit", "restricted", "warn", "restricted", "warn-version", "v1.99"),
	} {
		create(namespace(name, l), false)
		create(account(name, "default"), false)
	}
	in := func(namespace, name string, host bool) *corev1.Pod {
		p := pod(func(p *corev1.Pod) {
			p.Spec.HostNetwork, p.Spec.Containers[0].Image, p.Spec.InitContainers = host, "i", nil
		})
		p.Namespace, p.Name = namespace, name
		return p
	}
	free := in("open", "a", true)
	create(free, false)
	create(in("strict", "a", false), false)
	create(in("strict", "b", true), true)
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: in("strict", "", true).Spec}
	for _, ns := range []string{"open", "strict"} {
		create(&appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "d"},
			Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}, Template: template},
		}, false)
	}
	free.Labels = map[string]string{"a": "b"}
	if err := tc.Client.Update(t.Context(), free); err != nil {
		t.Fatal(err)
	}
	const evaluations = "pod_security_evaluations_total"
	for _, c := range []struct {
		labels string
		want   float64
	}{
		{"decision=allow policy_level=privileged policy_version=latest mode=enforce request_operation=create resource=pod subresource=", 1},
		{"decision=allow policy_level=privileged policy_version=latest mode=enforce request_operation=update resource=pod subresource=", 1},
		{"decision=allow policy_level=baseline policy_version=v1.30 mode=enforce request_operation=create resource=pod subresource=", 1},
		{"decision=deny policy_level=baseline policy_version=v1.30 mode=enforce request_operation=create resource=pod subresource=", 1},
		{"decision=deny policy_level=restricted policy_version=latest mode=audit request_operation=create resource=pod", 2},
		{"decision=deny policy_level=restricted policy_version=future mode=warn request_operation=create resource=pod", 1},
		{"decision=deny policy_level=restricted policy_version=latest mode=audit request_operation=create resource=controller", 1},
		{"decision=deny policy_level=restricted policy_version=future mode=warn request_operation=create resource=controller", 1},
		{"", 9},
	} {
		if got := testcluster.Metric(t, tc.Metrics, evaluations, strings.Fields(c.labels)...); got != c.want {
			t.Errorf("%s: %v evaluations, want %v", c.labels, got, c.want)
		}
	}
	if n := testcluster.Metric(t, tc.Metrics, "pod_security_exemptions_total") + testcluster.Metric(t, tc.Metrics, "pod_security_errors_total"); n != 0 {
		t.Errorf("%v exemptions and errors", n)
	}
}

func TestCertificateRequests(t *testing.T) {
	e := start(t)
	request := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: meta("r"), Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: "x.example/s", Request: []byte("x")},
	}
	const csr = ".certificates.k8s.io"
	e.wantError(admission.Attributes{Operation: admission.Update, Object: request, Old: request}, "certificatesigningrequests/approval"+csr,
		`certificatesigningrequests.certificates.k8s.io "r" is forbidden: user not permitted to approve requests with signerName "x.example/s"`)
	signed := request.DeepCopy()
	signed.Status.Certificate = []byte("cert")
	e.wantError(admission.Attributes{Operation: admission.Update, Object: signed, Old: request}, "certificatesigningrequests/status"+csr,
		`certificatesigningrequests.certificates.k8s.io "r" is forbidden: user not permitted to sign requests with signerName "x.example/s"`)
	e.wantError(admission.Attributes{Operation: admission.Update, Object: request, Old: request}, "certificatesigningrequests/status"+csr, "")
	noted := request.DeepCopy()
	noted.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: "Seen", Status: "True"}}
	e.wantError(admission.Attributes{Operation: admission.Update, Object: noted, Old: request}, "certificatesigningrequests/status"+csr,
		`certificatesigningrequests.certificates.k8s.io "r" is forbidden: user not permitted to sign requests with signerName "x.example/s"`)
	e.wantError(admission.Attributes{Operation: admission.Update, Object: signed, Old: request, User: identity.Loopback()}, "certificatesigningrequests/status"+csr, "")
}

func TestNobodyAsksForMasters(t *testing.T) {
	e := start(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := func(signer string, groups ...string) *certificatesv1.CertificateSigningRequest {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve", Organization: groups}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: meta("r"), Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		}}
	}
	const resource = "certificatesigningrequests.certificates.k8s.io"
	e.wantError(admission.Attributes{Object: request("kubernetes.io/kube-apiserver-client", "devs", "system:masters")}, resource,
		`certificatesigningrequests.certificates.k8s.io "r" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed`)
	e.wantError(admission.Attributes{Object: request("kubernetes.io/kube-apiserver-client", "devs")}, resource, "")
	e.wantError(admission.Attributes{Object: request("x.example/s", "system:masters")}, resource, "")
}

func TestErrorsAreAPIErrors(t *testing.T) {
	e := start(t)
	_, err := e.admit(admission.Attributes{Object: pod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "none"; p.Name, p.GenerateName = "", "web-" })}, "pods")
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != 403 || status.Status().Details.Name != "web-" {
		t.Errorf("got %#v", err)
	}
}
