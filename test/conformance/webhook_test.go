package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// hooks is a server of webhooks as a test reaches it.
type hooks struct {
	*server
	port int32
	ca   []byte
}

// answers are what the webhooks answer, by path: why the object is refused, or
// a JSON patch.
var answers = map[string]func(*admissionv1.AdmissionRequest) (refused, patch string){
	"/always-deny": func(*admissionv1.AdmissionRequest) (string, string) { return "this webhook denies all requests", "" },
	"/add-label": func(*admissionv1.AdmissionRequest) (string, string) {
		return "", `[{"op":"add","path":"/metadata/labels","value":{"added-label":"yes"}}]`
	},
	"/pods": func(r *admissionv1.AdmissionRequest) (string, string) {
		var p corev1.Pod
		_ = json.Unmarshal(r.Object.Raw, &p)
		var why []string
		if p.Spec.Containers[0].Name == "webhook-disallow" {
			why = append(why, "the pod contains unwanted container name")
		}
		if p.Labels["webhook-e2e-test"] == "webhook-disallow" {
			why = append(why, "the pod contains unwanted label")
		}
		return strings.Join(why, "; "), ""
	},
	"/pods/attach": func(r *admissionv1.AdmissionRequest) (string, string) {
		if r.Name == "to-be-attached-pod" && r.SubResource == "attach" && r.Operation == admissionv1.Connect {
			return "attaching to pod 'to-be-attached-pod' is not allowed", ""
		}
		return "", ""
	},
	"/mutating-pods": func(*admissionv1.AdmissionRequest) (string, string) {
		return "", `[{"op":"add","path":"/spec/initContainers","value":[{"image":"example.com/init","name":"webhook-added-init-container","resources":{}}]}]`
	},
	"/configmaps": func(r *admissionv1.AdmissionRequest) (string, string) {
		switch data(r.Object.Raw, r.OldObject.Raw)["webhook-e2e-test"] {
		case "webhook-disallow":
			return "the configmap contains unwanted key and value", ""
		}
		return "", ""
	},
	"/mutating": func(r *admissionv1.AdmissionRequest) (string, string) {
		switch d := data(r.Object.Raw, nil); {
		case d["mutation-stage-1"] == "yes":
			return "", `[{"op":"add","path":"/data/mutation-stage-2","value":"yes"}]`
		case d["mutation-start"] == "yes":
			return "", `[{"op":"add","path":"/data/mutation-stage-1","value":"yes"}]`
		}
		return "", ""
	},
	"/custom-resource": func(r *admissionv1.AdmissionRequest) (string, string) {
		switch value := data(r.Object.Raw, r.OldObject.Raw)["webhook-e2e-test"]; {
		case value == "webhook-disallow":
			return "the custom resource contains unwanted data", ""
		case value == "webhook-nondeletable" && r.Operation == admissionv1.Delete:
			return "the custom resource cannot be deleted because it contains unwanted key and value", ""
		}
		return "", ""
	},
	"/crd": func(r *admissionv1.AdmissionRequest) (string, string) {
		var crd apiextensionsv1.CustomResourceDefinition
		_ = json.Unmarshal(r.Object.Raw, &crd)
		if crd.Labels["webhook-e2e-test"] == "webhook-disallow" {
			return "the crd contains unwanted label", ""
		}
		return "", ""
	},
}

// data is the data of an object, or of the one before if there is none.
func data(object, old []byte) map[string]string {
	var o struct{ Data map[string]string }
	if len(object) == 0 {
		object = old
	}
	_ = json.Unmarshal(object, &o)
	return o.Data
}

// latency is how long slow webhooks take.
const latency = 2 * time.Second

func admit(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch {
	case r.URL.Path == "/slow":
		select {
		case <-time.After(latency):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler) // or an empty answer may overtake the connection's end
		}
	case strings.HasPrefix(review.Request.Name, "wait-forever"):
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	out := &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	if answer := answers[r.URL.Path]; answer != nil {
		refused, patch := answer(review.Request)
		if refused != "" {
			out.Allowed, out.Result = false, &metav1.Status{Message: refused}
		}
		if patch != "" {
			out.Patch, out.PatchType = []byte(patch), ptr.To(admissionv1.PatchTypeJSONPatch)
		}
	}
	review.Request, review.Response = nil, out
	_ = json.NewEncoder(w).Encode(review)
}

func (s *server) hooks() *hooks {
	s.Helper()
	port, ca := s.outside("hooks", http.HandlerFunc(admit))
	return &hooks{s, port, ca}
}

// mutating is a webhook at the path for what is written to the resources (with
// their group before a slash, if they are in one) in the test's namespace.
func (h *hooks) mutating(name, path, resources string, operations ...admissionregistrationv1.OperationType) admissionregistrationv1.MutatingWebhook {
	group := ""
	if g, r, ok := strings.Cut(resources, "|"); ok {
		group, resources = g, r
	}
	return admissionregistrationv1.MutatingWebhook{
		Name: name + ".k8s.io",
		Rules: []admissionregistrationv1.RuleWithOperations{{Operations: operations, Rule: admissionregistrationv1.Rule{
			APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: strings.Split(resources, ","),
		}}},
		ClientConfig: admissionregistrationv1.WebhookClientConfig{
			Service: &admissionregistrationv1.ServiceReference{Namespace: h.ns, Name: "hooks", Port: &h.port, Path: &path}, CABundle: h.ca,
		},
		SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1", "v1beta1"},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{h.ns: "true"}},
	}
}

func (h *hooks) validating(name, path, resources string, operations ...admissionregistrationv1.OperationType) admissionregistrationv1.ValidatingWebhook {
	m := h.mutating(name, path, resources, operations...)
	return admissionregistrationv1.ValidatingWebhook{
		Name: m.Name, Rules: m.Rules, ClientConfig: m.ClientConfig, SideEffects: m.SideEffects,
		AdmissionReviewVersions: m.AdmissionReviewVersions, NamespaceSelector: m.NamespaceSelector,
	}
}

func (h *hooks) validate(webhooks ...admissionregistrationv1.ValidatingWebhook) *admissionregistrationv1.ValidatingWebhookConfiguration {
	h.Helper()
	c := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: h.ns}, Webhooks: webhooks}
	h.create(c)
	h.Cleanup(func() { _ = h.api.Delete(h.background(), c) })
	return c
}

func (h *hooks) mutate(webhooks ...admissionregistrationv1.MutatingWebhook) *admissionregistrationv1.MutatingWebhookConfiguration {
	h.Helper()
	c := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: h.ns}, Webhooks: webhooks}
	h.create(c)
	h.Cleanup(func() { _ = h.api.Delete(h.background(), c) })
	return c
}

const (
	onCreate  = admissionregistrationv1.Create
	onUpdate  = admissionregistrationv1.Update
	onDelete  = admissionregistrationv1.Delete
	onConnect = admissionregistrationv1.Connect
)

// unwanted is a ConfigMap that the webhook at /configmaps refuses.
func unwanted(name string) *corev1.ConfigMap {
	return configMap(name, "webhook-e2e-test", "webhook-disallow")
}

// stages demands which webhooks at /mutating see a new ConfigMap.
func (s *server) stages(name string, want ...string) {
	s.Helper()
	c := configMap(name, "mutation-start", "yes")
	s.create(c)
	if len(c.Data) != 1+len(want) {
		s.Errorf("mutated to %v, not with %v", c.Data, want)
	}
	for _, stage := range want {
		if c.Data[stage] != "yes" {
			s.Errorf("mutated to %v, not with %v", c.Data, want)
		}
	}
}

var webhooks = entries{
	"should include webhook resources in discovery documents": func(s *server) {
		s.served("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "validatingwebhookconfigurations")
	},
	"should be able to deny pod and configmap creation": func(s *server) {
		h := s.hooks()
		pods := h.validating("deny-pods", "/pods", "pods", onCreate)
		pods.TimeoutSeconds = ptr.To[int32](1)
		maps := h.validating("deny-configmaps", "/configmaps", "configmaps", onCreate, onUpdate, onDelete)
		maps.NamespaceSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "skip-webhook-admission", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"yes"}}}
		// Without the CA the call fails, which does not matter.
		open := h.validating("fail-open", "/configmaps", "configmaps", onCreate)
		open.ClientConfig.CABundle, open.FailurePolicy = nil, ptr.To(admissionregistrationv1.Ignore)
		h.validate(pods, maps, open)

		p := pod("disallowed", map[string]string{"webhook-e2e-test": "webhook-disallow"})
		p.Spec.Containers[0].Name = "webhook-disallow"
		err := s.try(p)
		s.refused(err, `admission webhook "deny-pods.k8s.io" denied the request`, "the pod contains unwanted container name", "the pod contains unwanted label")
		s.refused(s.try(pod("wait-forever", nil)), "webhook", "deadline")
		if err := s.get(&corev1.Pod{}, "wait-forever"); !apierrors.IsNotFound(err) {
			s.Errorf("a refused pod: %v", err)
		}
		const why = "the configmap contains unwanted key and value"
		s.refused(s.try(unwanted("disallowed")), why)
		c := configMap("allowed", "admit", "this")
		s.create(c)
		s.refused(s.tryChange(c, "allowed", func() { c.Data["webhook-e2e-test"] = "webhook-disallow" }, func(o client.Object) error { return s.api.Update(s.ctx, o) }), why)
		_, err = s.kube.CoreV1().ConfigMaps(s.ns).Patch(s.ctx, "allowed", types.StrategicMergePatchType, []byte(`{"data":{"webhook-e2e-test":"webhook-disallow"}}`), metav1.PatchOptions{})
		s.refused(err, why)
		exempted := unwanted("disallowed")
		exempted.Namespace = s.namespace("exempted-", map[string]string{"skip-webhook-admission": "yes", s.ns: "true"})
		s.create(exempted)
	},
	"should be able to deny attaching pod": func(s *server) {
		h := s.hooks()
		h.validate(h.validating("deny-attaching", "/pods/attach", "pods/attach", onConnect))
		p := pod("to-be-attached-pod", nil)
		s.create(p)
		s.running(p)
		attach := s.kube.CoreV1().RESTClient().Post().Namespace(s.ns).Resource("pods").Name(p.Name).SubResource("attach").
			VersionedParams(&corev1.PodAttachOptions{Container: "main", Stdin: true, Stdout: true}, scheme.ParameterCodec)
		for name, make := range map[string]func() (remotecommand.Executor, error){
			"SPDY": func() (remotecommand.Executor, error) {
				return remotecommand.NewSPDYExecutor(s.config, "POST", attach.URL())
			},
			"WebSocket": func() (remotecommand.Executor, error) {
				return remotecommand.NewWebSocketExecutor(s.config, "GET", attach.URL().String())
			},
		} {
			e, err := make()
			s.ok(err)
			err = e.StreamWithContext(s.ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard})
			if err == nil || !strings.Contains(err.Error(), "attaching to pod 'to-be-attached-pod' is not allowed") {
				s.Errorf("%s: %v", name, err)
			}
		}
	},
	"should be able to deny custom resource creation, update and deletion": func(s *server) {
		h := s.hooks()
		crd := s.define("boats", "")
		h.validate(h.validating("deny-custom", "/custom-resource", crd.Spec.Group+"|boats", onCreate, onUpdate, onDelete))
		boats := s.custom(crd, "v1")
		const why = "the custom resource contains unwanted data"
		_, err := boats.Create(s.ctx, instance(crd, "v1", "one", `"data":{"webhook-e2e-test":"webhook-disallow"}`), metav1.CreateOptions{})
		s.refused(err, why)
		u := s.make(crd, "v1", "two", `"data":{"webhook-e2e-test":"webhook-nondeletable"}`)
		set := func(value string) error {
			s.ok(unstructured.SetNestedField(u.Object, value, "data", "webhook-e2e-test"))
			_, err := boats.Update(s.ctx, u, metav1.UpdateOptions{})
			return err
		}
		s.refused(set("webhook-disallow"), why)
		s.refused(boats.Delete(s.ctx, "two", metav1.DeleteOptions{}), "the custom resource cannot be deleted because it contains unwanted key and value")
		s.ok(set("webhook-allow"))
		s.ok(boats.Delete(s.ctx, "two", metav1.DeleteOptions{}))
	},
	"should unconditionally reject operations on fail closed webhook": func(s *server) {
		h := s.hooks()
		closed := h.validating("fail-closed", "/configmaps", "configmaps", onCreate)
		closed.ClientConfig.CABundle, closed.FailurePolicy = nil, ptr.To(admissionregistrationv1.Fail)
		closed.NamespaceSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "fail-closed-webhook", Operator: metav1.LabelSelectorOpIn, Values: []string{"yes"}}}
		h.validate(closed)
		c := configMap("foo")
		c.Namespace = s.namespace("fail-closed-", map[string]string{"fail-closed-webhook": "yes", s.ns: "true"})
		if err := s.try(c); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `failed calling webhook "fail-closed.k8s.io"`) {
			s.Errorf("refused with %v", err)
		}
		s.create(configMap("foo"))
	},
	"should mutate configmap": func(s *server) {
		h := s.hooks()
		h.mutate(h.mutating("stage-1", "/mutating", "configmaps", onCreate), h.mutating("stage-2", "/mutating", "configmaps", onCreate))
		s.stages("to-be-mutated", "mutation-stage-1", "mutation-stage-2")
	},
	"should mutate pod and apply defaults after mutation": func(s *server) {
		h := s.hooks()
		h.mutate(h.mutating("adding-init-container", "/mutating-pods", "pods", onCreate))
		p := pod("to-be-mutated", nil)
		s.create(p)
		if c := p.Spec.InitContainers; len(c) != 1 || c[0].Name != "webhook-added-init-container" || c[0].TerminationMessagePolicy != corev1.TerminationMessageReadFile {
			s.Errorf("its init containers: %+v", c)
		}
	},
	"should not be able to mutate or prevent deletion of webhook configuration objects": func(s *server) {
		h := s.hooks()
		const configurations = "admissionregistration.k8s.io|validatingwebhookconfigurations,mutatingwebhookconfigurations"
		deny, label := h.validating("deny-deletions", "/always-deny", configurations, onDelete), h.mutating("add-label", "/add-label", configurations, onCreate)
		deny.NamespaceSelector, label.NamespaceSelector = nil, nil
		h.validate(deny)
		h.mutate(label)
		none := h.validating("dummy", "", "invalid", onCreate)
		none.ClientConfig.CABundle, none.FailurePolicy = nil, ptr.To(admissionregistrationv1.Ignore)
		v := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{GenerateName: s.ns}, Webhooks: []admissionregistrationv1.ValidatingWebhook{none}}
		dummy := h.mutating("dummy", "", "invalid", onCreate)
		dummy.ClientConfig.CABundle, dummy.FailurePolicy = nil, ptr.To(admissionregistrationv1.Ignore)
		m := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{GenerateName: s.ns}, Webhooks: []admissionregistrationv1.MutatingWebhook{dummy}}
		for _, c := range []client.Object{v, m} {
			s.create(c)
			if len(c.GetLabels()) > 0 {
				s.Errorf("%T was mutated: %v", c, c.GetLabels())
			}
			s.delete(c)
			s.gone(c)
		}
	},
	"should mutate custom resource": func(s *server) {
		h := s.hooks()
		crd := s.define("boats", "")
		h.mutateCustom(crd)
		u := s.make(crd, "v1", "one", `"data":{"mutation-start":"yes"}`)
		if got := fmt.Sprint(field(u, "data")); got != "map[mutation-stage-1:yes mutation-stage-2:yes mutation-start:yes]" {
			s.Errorf("mutated to %s", got)
		}
	},
	"should deny crd creation": func(s *server) {
		h := s.hooks()
		deny := h.validating("deny-crd", "/crd", "apiextensions.k8s.io|customresourcedefinitions", onCreate)
		deny.NamespaceSelector, deny.ObjectSelector = nil, &metav1.LabelSelector{MatchLabels: map[string]string{s.ns: "true"}}
		h.validate(deny)
		crd := s.definition("boats", "")
		crd.Labels = map[string]string{s.ns: "true", "webhook-e2e-test": "webhook-disallow"}
		s.refused(s.try(crd), "the crd contains unwanted label")
	},
	"should mutate custom resource with different stored version": func(s *server) {
		h := s.hooks()
		crd := s.define("boats", "", "v1", "v2")
		h.mutateCustom(crd)
		s.make(crd, "v1", "one", `"data":{"mutation-start":"yes"}`)
		const all = `{"openAPIV3Schema":{"x-kubernetes-preserve-unknown-fields":true,"type":"object"}}`
		_, err := s.dynamic.Resource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")).Patch(s.ctx, crd.Name, types.StrategicMergePatchType,
			[]byte(`{"spec":{"versions":[{"name":"v1","storage":false,"served":true,"schema":`+all+`},{"name":"v2","storage":true,"served":true,"schema":`+all+`}]}}`), metav1.PatchOptions{})
		s.ok(err)
		u, err := s.custom(crd, "v2").Patch(s.ctx, "one", types.JSONPatchType, []byte(`[{"op":"add","path":"/dummy","value":"test"}]`), metav1.PatchOptions{})
		s.ok(err)
		if got := fmt.Sprintf("%v %v", field(u, "data"), field(u, "dummy")); got != "map[mutation-stage-1:yes mutation-stage-2:yes mutation-start:yes] test" {
			s.Errorf("mutated to %s", got)
		}
	},
	"should mutate custom resource with pruning": func(s *server) {
		h := s.hooks()
		crd := s.define("boats", "{type: object, properties: {data: {type: object, properties: {mutation-start: {type: string}, mutation-stage-1: {type: string}}}}}", "v1", "v2")
		h.mutateCustom(crd)
		u := s.make(crd, "v1", "one", `"data":{"mutation-start":"yes"}`)
		if got := fmt.Sprint(field(u, "data")); got != "map[mutation-stage-1:yes mutation-start:yes]" {
			s.Errorf("mutated to %s", got)
		}
	},
	"should honor timeout": func(s *server) {
		h := s.hooks()
		for _, c := range []struct {
			policy  admissionregistrationv1.FailurePolicyType
			timeout *int32
			late    bool
		}{
			{admissionregistrationv1.Fail, ptr.To[int32](1), true}, {admissionregistrationv1.Ignore, ptr.To[int32](1), false},
			{admissionregistrationv1.Fail, ptr.To[int32](10), false}, {admissionregistrationv1.Fail, nil, false},
		} {
			slow := h.validating("slow", "/slow", "configmaps", onCreate)
			slow.FailurePolicy, slow.TimeoutSeconds = &c.policy, c.timeout
			conf := h.validate(slow)
			if got := conf.Webhooks[0].TimeoutSeconds; c.timeout == nil && *got != 10 {
				s.Errorf("the default timeout is %d", *got)
			}
			o := configMap("slow")
			err := s.try(o)
			if c.late {
				s.refused(err, "deadline exceeded", "/slow?timeout=1s")
			} else {
				s.ok(err)
				s.delete(o)
			}
			s.delete(conf)
		}
	},
	"patching/updating a validating webhook should work": func(s *server) {
		h := s.hooks()
		conf := h.validate(h.validating("deny-configmaps", "/configmaps", "configmaps", onCreate, onUpdate, onDelete))
		s.refused(s.try(unwanted("one")), "denied")
		s.change(conf, s.ns, func() {
			conf.Webhooks[0].Rules[0].Operations = []admissionregistrationv1.OperationType{onUpdate}
		})
		s.create(unwanted("two"))
		before := conf.DeepCopy()
		s.ok(s.api.Patch(s.ctx, conf, client.RawPatch(types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/rules/0/operations","value":["CREATE"]}]`))))
		s.newer(before, conf)
		s.refused(s.try(unwanted("three")), "denied")
	},
	"patching/updating a mutating webhook should work": func(s *server) {
		h := s.hooks()
		conf := h.mutate(h.mutating("stage-1", "/mutating", "configmaps", onCreate))
		s.stages("one", "mutation-stage-1")
		s.change(conf, s.ns, func() {
			conf.Webhooks[0].Rules[0].Operations = []admissionregistrationv1.OperationType{onUpdate}
		})
		s.stages("two")
		before := conf.DeepCopy()
		s.ok(s.api.Patch(s.ctx, conf, client.RawPatch(types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/rules/0/operations","value":["CREATE"]}]`))))
		s.newer(before, conf)
		s.stages("three", "mutation-stage-1")
	},
	"listing validating webhooks should work": func(s *server) {
		h := s.hooks()
		for i := range 10 {
			s.create(&admissionregistrationv1.ValidatingWebhookConfiguration{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(s.ns, "-", i), Labels: map[string]string{"of": s.ns}},
				Webhooks:   []admissionregistrationv1.ValidatingWebhook{h.validating("deny-configmaps", "/configmaps", "configmaps", onCreate, onUpdate, onDelete)},
			})
		}
		var list admissionregistrationv1.ValidatingWebhookConfigurationList
		s.list(&list, client.MatchingLabels{"of": s.ns})
		if len(list.Items) != 10 {
			s.Errorf("listed %d of 10", len(list.Items))
		}
		s.refused(s.try(unwanted("one")), "denied")
		s.ok(s.api.DeleteAllOf(s.ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{}, client.MatchingLabels{"of": s.ns}))
		s.create(unwanted("two"))
	},
	"listing mutating webhooks should work": func(s *server) {
		h := s.hooks()
		for i := range 10 {
			s.create(&admissionregistrationv1.MutatingWebhookConfiguration{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(s.ns, "-", i), Labels: map[string]string{"of": s.ns}},
				Webhooks:   []admissionregistrationv1.MutatingWebhook{h.mutating("stage-1", "/mutating", "configmaps", onCreate)},
			})
		}
		var list admissionregistrationv1.MutatingWebhookConfigurationList
		s.list(&list, client.MatchingLabels{"of": s.ns})
		if len(list.Items) != 10 {
			s.Errorf("listed %d of 10", len(list.Items))
		}
		s.stages("one", "mutation-stage-1", "mutation-stage-2")
		s.ok(s.api.DeleteAllOf(s.ctx, &admissionregistrationv1.MutatingWebhookConfiguration{}, client.MatchingLabels{"of": s.ns}))
		s.stages("two")
	},
	"should be able to create and update validating webhook configurations with match conditions": func(s *server) {
		h := s.hooks()
		w := h.validating("conditional", "/always-deny", "configmaps", onCreate)
		w.MatchConditions = conditions("object.metadata.namespace == 'production'")
		conf := h.validate(w)
		for _, want := range [][]admissionregistrationv1.MatchCondition{w.MatchConditions, conditions("object.metadata.namespace == 'production'", "object.metadata.namespace == 'staging'")} {
			s.change(conf, s.ns, func() { conf.Webhooks[0].MatchConditions = want })
			s.ok(s.get(conf, s.ns))
			if got := conf.Webhooks[0].MatchConditions; fmt.Sprint(got) != fmt.Sprint(want) {
				s.Errorf("match conditions: %v, not %v", got, want)
			}
		}
		s.create(configMap("elsewhere"))
	},
	"should be able to create and update mutating webhook configurations with match conditions": func(s *server) {
		h := s.hooks()
		w := h.mutating("conditional", "/mutating", "configmaps", onCreate)
		w.MatchConditions = conditions("object.metadata.namespace == 'production'")
		conf := h.mutate(w)
		for _, want := range [][]admissionregistrationv1.MatchCondition{w.MatchConditions, conditions("object.metadata.namespace == 'production'", "object.metadata.namespace == 'staging'")} {
			s.change(conf, s.ns, func() { conf.Webhooks[0].MatchConditions = want })
			s.ok(s.get(conf, s.ns))
			if got := conf.Webhooks[0].MatchConditions; fmt.Sprint(got) != fmt.Sprint(want) {
				s.Errorf("match conditions: %v, not %v", got, want)
			}
		}
		s.stages("elsewhere")
	},
	"should reject validating webhook configurations with invalid match conditions": func(s *server) {
		w := s.hooks().validating("conditional", "/always-deny", "configmaps", onCreate)
		w.MatchConditions = conditions("... [] bad expression")
		err := s.try(&admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: s.ns}, Webhooks: []admissionregistrationv1.ValidatingWebhook{w}})
		s.refused(err, "compilation failed", "webhooks[0].matchConditions[0].expression: Invalid value")
	},
	"should reject mutating webhook configurations with invalid match conditions": func(s *server) {
		w := s.hooks().mutating("conditional", "/mutating", "configmaps", onCreate)
		w.MatchConditions = conditions("... [] bad expression")
		err := s.try(&admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: s.ns}, Webhooks: []admissionregistrationv1.MutatingWebhook{w}})
		s.refused(err, "compilation failed", "webhooks[0].matchConditions[0].expression: Invalid value")
	},
	"should mutate everything except 'skip-me' configmaps": func(s *server) {
		h := s.hooks()
		w := h.mutating("stage-1", "/mutating", "configmaps", onCreate)
		w.MatchConditions = conditions("object.metadata.name != 'skip-me'")
		h.mutate(w)
		s.stages("another", "mutation-stage-1")
		s.stages("skip-me")
	},
}

func (h *hooks) mutateCustom(crd *apiextensionsv1.CustomResourceDefinition) {
	h.Helper()
	resource := crd.Spec.Group + "|" + crd.Spec.Names.Plural
	h.mutate(h.mutating("stage-1", "/mutating", resource, onCreate, onUpdate), h.mutating("stage-2", "/mutating", resource, onCreate))
}

func conditions(expressions ...string) (out []admissionregistrationv1.MatchCondition) {
	for i, e := range expressions {
		out = append(out, admissionregistrationv1.MatchCondition{Name: fmt.Sprint("expression-", i), Expression: e})
	}
	return out
}
