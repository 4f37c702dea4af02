package plugins_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/plugins"
)

const configurationHead = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"

// annotated is a namespace with annotations, given in pairs.
func annotated(name string, pairs ...string) *corev1.Namespace {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
	for i := 0; i < len(pairs); i += 2 {
		n.Annotations[pairs[i]] = pairs[i+1]
	}
	return n
}

func TestPodNodeSelector(t *testing.T) {
	file := write(t, "admission.yaml", configurationHead+`
- name: PodNodeSelector
  configuration: {podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: "pool=shared", strict: "pool=strict,disk=ssd"}}
`)
	const annotation = "scheduler.alpha.kubernetes.io/node-selector"
	e := startWith(t, plugins.Config{Enable: []string{"PodNodeSelector"}, File: file}, account("x", "default"),
		annotated("own", annotation, "pool=own"), account("own", "default"), annotated("strict", annotation, "pool=strict"), account("strict", "default"),
		annotated("bad", annotation, "a in (b)"), account("bad", "default"))
	in := func(namespace string, pairs ...string) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Namespace = namespace
			for i := 0; i < len(pairs); i += 2 {
				if p.Spec.NodeSelector == nil {
					p.Spec.NodeSelector = map[string]string{}
				}
				p.Spec.NodeSelector[pairs[i]] = pairs[i+1]
			}
		})
	}
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want string // the selector, or the refusal
	}{
		{"cluster's default", in("x"), "map[pool:shared]"},
		{"namespace's", in("own", "disk", "ssd"), "map[disk:ssd pool:own]"},
		{"conflict", in("own", "pool", "other"), `pods "p" is forbidden: pod node label selector conflicts with its namespace node label selector`},
		{"allowed", in("strict", "disk", "ssd"), "map[disk:ssd pool:strict]"},
		{"not allowed", in("strict", "disk", "hdd"), `pods "p" is forbidden: pod node label selector labels conflict with its namespace whitelist`},
		{"no labels", in("bad"), `pods "p" is forbidden: annotation scheduler.alpha.kubernetes.io/node-selector of namespace bad: invalid selector`},
	} {
		_, err := e.admit(admission.Attributes{Object: tt.pod}, "pods")
		got := fmt.Sprint(tt.pod.Spec.NodeSelector)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestPodTolerationRestriction(t *testing.T) {
	file := write(t, "admission.yaml", configurationHead+`
- name: PodTolerationRestriction
  configuration:
    apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1
    kind: Configuration
    default: [{key: shared, operator: Exists}]
    whitelist: [{key: shared, operator: Exists}, {key: a, operator: Equal, value: b}, {key: node.kubernetes.io/memory-pressure, operator: Exists}, {key: node.kubernetes.io/not-ready, operator: Exists}, {key: node.kubernetes.io/unreachable, operator: Exists}]
`)
	const defaults, allowed = "scheduler.alpha.kubernetes.io/defaultTolerations", "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
	e := startWith(t, plugins.Config{Enable: []string{"PodTolerationRestriction"}, Disable: []string{"DefaultTolerationSeconds"}, File: file}, account("x", "default"),
		annotated("own", defaults, `[{"key":"own","operator":"Equal","value":"v"}]`, allowed, `[{"key":"own","operator":"Exists"},{"key":"e","operator":"Exists","effect":"NoExecute","tolerationSeconds":60}]`), account("own", "default"),
		annotated("open", defaults, "", allowed, ""), account("open", "default"), annotated("bad", defaults, "{"), account("bad", "default"))
	in := func(namespace string, tolerations ...corev1.Toleration) *corev1.Pod {
		return pod(func(p *corev1.Pod) { p.Namespace, p.Spec.Tolerations = namespace, tolerations })
	}
	asking := in("x")
	asking.Spec.Containers[0].Resources.Requests = list("cpu", "1")
	const refused = `pods "p" is forbidden: pod tolerations (possibly merged with namespace default tolerations) conflict with its `
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"cluster's default", in("x"), "shared"},
		{"a pod that asks for something", asking, "shared node.kubernetes.io/memory-pressure"},
		{"cluster's list", in("x", corev1.Toleration{Key: "a", Operator: corev1.TolerationOpEqual, Value: "b"}), "a shared"},
		{"not on the cluster's list", in("x", corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists}), refused + "cluster whitelist"},
		{"namespace's default, covered", in("own", corev1.Toleration{Key: "own", Operator: corev1.TolerationOpExists}), "own"},
		{"short enough", in("own", corev1.Toleration{Key: "e", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](30)}), "e own"},
		{"too long", in("own", corev1.Toleration{Key: "e", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}), refused + "namespace whitelist"},
		{"everything goes", in("open", corev1.Toleration{Operator: corev1.TolerationOpExists}), ""},
		{"no JSON", in("bad"), `pods "p" is forbidden: annotation scheduler.alpha.kubernetes.io/defaultTolerations of namespace bad: unexpected end of JSON input`},
	} {
		_, err := e.admit(admission.Attributes{Object: tt.pod}, "pods")
		var keys []string
		for _, toleration := range tt.pod.Spec.Tolerations {
			keys = append(keys, toleration.Key)
		}
		got := strings.Join(keys, " ")
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestExtendedResourceToleration(t *testing.T) {
	e := startWith(t, plugins.Config{Enable: []string{"ExtendedResourceToleration", "LimitPodHardAntiAffinityTopology"}, Disable: []string{"DefaultTolerationSeconds"}}, account("x", "default"))
	p := pod(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = list("cpu", "1", "example.com/gpu", "1", "kubernetes.io/x", "1")
		p.Spec.InitContainers[0].Resources.Requests = list("example.com/fpga", "1", "example.com/gpu", "1")
		p.Spec.Tolerations = []corev1.Toleration{{Key: "example.com/gpu", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	})
	e.wantError(admission.Attributes{Object: p}, "pods", "")
	want := []corev1.Toleration{
		{Key: "example.com/gpu", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: "example.com/fpga", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	}
	if !slices.Equal(p.Spec.Tolerations, want) {
		t.Errorf("tolerations %v", p.Spec.Tolerations)
	}
	apart := func(key string) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: key}}}}
		})
	}
	e.wantError(admission.Attributes{Object: apart(corev1.LabelHostname)}, "pods", "")
	e.wantError(admission.Attributes{Object: apart(corev1.LabelTopologyZone)}, "pods",
		`pods "p" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey topology.kubernetes.io/zone but only key kubernetes.io/hostname is allowed`)
}

func TestNamespacePlugins(t *testing.T) {
	e := startWith(t, plugins.Config{Enable: []string{"NamespaceAutoProvision", "AlwaysAdmit"}})
	e.wantError(admission.Attributes{Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "new", Name: "c"}}}, "configmaps", "")
	if err := e.Client.Get(t.Context(), client.ObjectKey{Name: "new"}, &corev1.Namespace{}); err != nil {
		t.Errorf("the namespace is not made: %v", err)
	}
	e = startWith(t, plugins.Config{Enable: []string{"NamespaceExists"}, Disable: []string{"NamespaceLifecycle"}})
	for namespace, want := range map[string]string{"x": "", "nowhere": `namespaces "nowhere" not found`} {
		e.wantError(admission.Attributes{Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "c"}}}, "configmaps", want)
	}
	e = startWith(t, plugins.Config{Enable: []string{"AlwaysDeny"}})
	e.wantError(admission.Attributes{Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "c"}}}, "configmaps",
		`configmaps "c" is forbidden: admission control is denying all modifications`)
}

func TestImagePolicyWebhook(t *testing.T) {
	var asked atomic.Int32
	var broken atomic.Bool
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if broken.Load() {
			http.Error(w, "broken", http.StatusNotFound)
			return
		}
		var review imagepolicyv1alpha1.ImageReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Kind != "ImageReview" || review.Spec.Namespace != "x" || review.Spec.Annotations["a.image-policy.k8s.io/ticket"] != "1" || len(review.Spec.Annotations) != 1 {
			t.Errorf("%v %+v", err, review)
		}
		review.Status.Allowed = true
		for _, c := range review.Spec.Containers {
			switch c.Image {
			case "bad":
				review.Status.Allowed, review.Status.Reason = false, "it is bad"
			case "unknown":
				review.Status.Allowed = false
			}
		}
		review.Status.AuditAnnotations = map[string]string{"seen": "yes"}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer hook.Close()
	kubeconfig := write(t, "hook.kubeconfig", fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: h}}]\nclusters: [{name: h, cluster: {server: %q, certificate-authority-data: %q}}]\n",
		hook.URL, pemBase64(hook)))
	configure := func(defaultAllow bool) string {
		return write(t, "admission.yaml", configurationHead+fmt.Sprintf("- name: ImagePolicyWebhook\n  configuration: {imagePolicy: {kubeConfigFile: %s, denyTTL: -1, retryBackoff: 1, defaultAllow: %v}}\n", kubeconfig, defaultAllow))
	}
	with := func(image string) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Annotations = map[string]string{"a.image-policy.k8s.io/ticket": "1", "other": "2"}
			p.Spec.Containers[0].Image, p.Spec.InitContainers[0].Image = image, "fine"
		})
	}
	e := startWith(t, plugins.Config{Enable: []string{"ImagePolicyWebhook"}, File: configure(false)}, account("x", "default"))
	var notes []string
	note := func(key, value string) { notes = append(notes, key+"="+value) }
	for range 2 {
		e.wantError(admission.Attributes{Object: with("good"), Annotate: note}, "pods", "")
	}
	if asked.Load() != 1 || !slices.Contains(notes, "imagepolicywebhook.image-policy.k8s.io/seen=yes") {
		t.Errorf("asked %d times, noted %q", asked.Load(), notes)
	}
	e.wantError(admission.Attributes{Object: with("bad")}, "pods", `pods "p" is forbidden: image policy webhook backend denied one or more images: it is bad`)
	e.wantError(admission.Attributes{Object: with("unknown")}, "pods", `pods "p" is forbidden: one or more images rejected by webhook backend`)
	e.wantError(admission.Attributes{Operation: admission.Update, Object: with("bad"), Old: with("bad")}, "pods", "")
	broken.Store(true)
	if _, err := e.admit(admission.Attributes{Object: with("other")}, "pods"); !apierrors.IsForbidden(err) {
		t.Errorf("while the webhook is broken: %v", err)
	}
	e = startWith(t, plugins.Config{Enable: []string{"ImagePolicyWebhook"}, File: configure(true)}, account("x", "default"))
	notes = nil
	e.wantError(admission.Attributes{Object: with("other"), Annotate: note}, "pods", "")
	if !slices.Contains(notes, "imagepolicywebhook.image-policy.k8s.io/failed-open=true") {
		t.Errorf("noted %q", notes)
	}
}

func pemBase64(server *httptest.Server) string {
	data, _ := json.Marshal(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return strings.Trim(string(data), `"`)
}

func TestResize(t *testing.T) {
	const feature = "InPlacePodLevelResourcesVerticalScaling"
	node := func(name string, features ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
		n.Status.NodeInfo.KubeletVersion, n.Status.DeclaredFeatures, n.Status.Allocatable = "v1.36.0", features, list("cpu", "2", "memory", "1Gi")
		return n
	}
	able, plain, windows := node("able", feature), node("plain"), node("windows", feature)
	windows.Labels[corev1.LabelOSStable] = "windows"
	e := start(t)
	for _, n := range []*corev1.Node{able, plain, windows} {
		status := n.Status
		e.create(n)
		n.Status = status
		if err := e.Client.Status().Update(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	on := func(node, cpu string) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.Resources = node, &corev1.ResourceRequirements{Requests: list("cpu", cpu)}
		})
	}
	e.eventually(func() bool {
		_, err := e.admit(admission.Attributes{Operation: admission.Update, Object: on("able", "2"), Old: on("able", "1")}, "pods/resize")
		return err == nil
	})
	e.wantError(admission.Attributes{Operation: admission.Update, Object: on("plain", "1"), Old: on("plain", "1")}, "pods/resize", "")
	e.wantError(admission.Attributes{Operation: admission.Update, Object: on("", "2"), Old: on("", "1")}, "pods", "")
	e.eventually(func() bool {
		_, err := e.admit(admission.Attributes{Operation: admission.Update, Object: on("plain", "2"), Old: on("plain", "1")}, "pods/resize")
		return err != nil && err.Error() == `pods "p" is forbidden: pod update requires features `+feature+` which are not available on node "plain"`
	})
	e.wantError(admission.Attributes{Operation: admission.Update, Object: on("none", "2"), Old: on("none", "1")}, "pods/resize", `pods "p" is forbidden: node "none" not found`)

	for node, want := range map[string]metav1.StatusCause{
		"able":    {Type: "NodeCapacity", Message: "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000"},
		"windows": {Type: "UnsupportedPlatform", Message: `pod resize is only supported on linux nodes, node "windows" is "windows"`},
	} {
		cpu := map[string]string{"able": "3", "windows": "2"}[node]
		e.eventually(func() bool {
			_, err := e.admit(admission.Attributes{Operation: admission.Update, Object: on(node, cpu), Old: on(node, "1")}, "pods/resize")
			var status *apierrors.StatusError
			return errors.As(err, &status) && apierrors.IsForbidden(err) && slices.Contains(status.ErrStatus.Details.Causes, want)
		})
	}
}
