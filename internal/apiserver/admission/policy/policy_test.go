package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
)

type env struct {
	*testcluster.Cluster
	t *testing.T
}

func start(t *testing.T) *env { return &env{testcluster.Start(t), t} }

// apply creates objects written in YAML, all of the type T.
func apply[T client.Object](e *env, obj T, text string) T {
	e.t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		e.t.Fatal(err)
	}
	if err := e.Client.Create(e.t.Context(), obj); err != nil {
		e.t.Fatal(err)
	}
	return obj
}

const rules = "matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]}"

// validating makes a policy of the name p and a binding b; the texts are the
// rest of their specs.
func (e *env) validating(policy, binding string) {
	e.t.Helper()
	apply(e, &admissionregistrationv1.ValidatingAdmissionPolicy{}, "metadata: {name: p}\nspec:\n  "+rules+"\n"+policy)
	apply(e, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}, "metadata: {name: b}\nspec:\n  policyName: p\n"+binding)
}

func (e *env) mutating(policy, binding string) {
	e.t.Helper()
	apply(e, &admissionregistrationv1.MutatingAdmissionPolicy{}, "metadata: {name: p}\nspec:\n  "+rules+"\n"+policy)
	apply(e, &admissionregistrationv1.MutatingAdmissionPolicyBinding{}, "metadata: {name: b}\nspec:\n  policyName: p\n"+binding)
}

// reset removes all policies and bindings.
func (e *env) reset() {
	e.t.Helper()
	for _, obj := range []client.Object{
		&admissionregistrationv1.ValidatingAdmissionPolicy{}, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{},
		&admissionregistrationv1.MutatingAdmissionPolicy{}, &admissionregistrationv1.MutatingAdmissionPolicyBinding{},
	} {
		if err := e.Client.DeleteAllOf(e.t.Context(), obj); err != nil {
			e.t.Fatal(err)
		}
	}
}

func deployment(replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": "x"}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
}

const deny = "  validationActions: [Deny]\n"

func TestValidating(t *testing.T) {
	e := start(t)
	apply(e, &corev1.ConfigMap{}, "metadata: {name: limits, namespace: default, labels: {use: limits}}\ndata: {max: '3'}")
	byName := "  paramRef: {name: limits, parameterNotFoundAction: Deny}\n"
	params := "  paramKind: {apiVersion: v1, kind: ConfigMap}\n"
	refused := "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
	for name, c := range map[string]struct {
		policy, binding string
		want            string
		warning         string
	}{
		"true":            {"  validations: [{expression: 'object.spec.replicas <= 5'}]", deny, "", ""},
		"false":           {"  validations: [{expression: 'object.spec.replicas <= 3 '}]", deny, refused + "failed expression: object.spec.replicas <= 3", ""},
		"message":         {"  validations: [{expression: 'object.spec.replicas <= 3', message: ' too many '}]", deny, refused + "too many", ""},
		"expressed":       {"  validations: [{expression: 'object.spec.replicas <= 3', messageExpression: '\"replicas \" + string(object.spec.replicas)'}]", deny, refused + "replicas 4", ""},
		"bad message":     {"  validations: [{expression: 'false', message: plain, messageExpression: 'string(object.none.none)'}]", deny, refused + "plain", ""},
		"error":           {"  validations: [{expression: 'object.none == 1'}]", deny, refused + "expression 'object.none == 1' resulted in error: no such key: none", ""},
		"ignored":         {"  failurePolicy: Ignore\n  validations: [{expression: 'object.none == 1'}]", deny, "", ""},
		"warn":            {"  validations: [{expression: 'false', message: careful}]", "  validationActions: [Warn]\n", "", "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': careful"},
		"condition":       {"  matchConditions: [{name: a, expression: 'object.metadata.name != \"d\"'}]\n  validations: [{expression: 'false'}]", deny, "", ""},
		"bad condition":   {"  matchConditions: [{name: a, expression: 'object.none == 1'}]\n  validations: [{expression: 'true'}]", deny, refused + "expression 'object.none == 1' resulted in error: no such key: none", ""},
		"variables":       {"  variables: [{name: count, expression: object.spec.replicas}, {name: odd, expression: 'variables.count % 2 == 1'}]\n  validations: [{expression: variables.odd}]", deny, refused + "failed expression: variables.odd", ""},
		"namespace":       {"  validations: [{expression: \"namespaceObject.metadata.name == 'default' && oldObject == null\"}]", deny, "", ""},
		"request":         {"  validations: [{expression: \"request.operation == 'CREATE' && request.userInfo.username == 'system:apiserver' && request.resource.resource == 'deployments' && request.options.kind == 'CreateOptions'\"}]", deny, "", ""},
		"authorizer":      {"  validations: [{expression: \"authorizer.requestResource.check('create').allowed() && !authorizer.serviceAccount('default', 'nobody').group('').resource('pods').check('get').allowed()\"}]", deny, "", ""},
		"params":          {params + "  validations: [{expression: 'object.spec.replicas <= int(params.data.max)'}]", deny + byName, refused + "failed expression: object.spec.replicas <= int(params.data.max)", ""},
		"params' kind":    {params + "  validations: [{expression: \"params.kind == 'ConfigMap' && params.apiVersion == 'v1'\"}]", deny + byName, "", ""},
		"params selected": {params + "  validations: [{expression: 'params.data.max == \"3\"'}]", deny + "  paramRef: {selector: {matchLabels: {use: limits}}, parameterNotFoundAction: Deny}\n", "", ""},
		"no params":       {params + "  validations: [{expression: 'true'}]", deny + "  paramRef: {name: none, parameterNotFoundAction: Deny}\n", refused + "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction", ""},
		"allowed none":    {params + "  validations: [{expression: 'false'}]", deny + "  paramRef: {name: none, parameterNotFoundAction: Allow}\n", "", ""},
		"unknown params":  {"  paramKind: {apiVersion: example.com/v1, kind: None}\n  validations: [{expression: 'true'}]", deny + byName, "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=None'", ""},
		"binding's match": {"  validations: [{expression: 'false'}]", deny + "  matchResources: {namespaceSelector: {matchLabels: {none: none}}}\n", "", ""},
		"binding's rules": {"  validations: [{expression: 'false'}]", deny + "  matchResources: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments], resourceNames: [other]}]}\n", "", ""},
		"beyond budget":   {"  validations: [{expression: '[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, [0,1,2,3,4,5,6,7,8,9].all(d, [0,1,2,3,4,5,6,7,8,9].all(e, [0,1,2,3,4,5,6,7,8,9].all(f, [0,1,2,3,4,5,6,7,8,9].all(g, true)))))))'}]", deny, refused + "expression '[0,1,2", ""},
		"excluded":        {"  validations: [{expression: 'false'}]", deny + "  matchResources: {excludeResourceRules: [{apiGroups: ['*'], apiVersions: ['*'], operations: ['*'], resources: ['*']}]}\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e.validating(c.policy, c.binding)
			defer e.reset()
			var warnings []string
			ctx := verbs.WithWarnings(t.Context(), func(text string) { warnings = append(warnings, text) })
			err := e.Client.Create(ctx, deployment(4), client.DryRunAll)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
			if err != nil && (!apierrors.IsInvalid(err) || err.(*apierrors.StatusError).ErrStatus.Code != 422) {
				t.Errorf("the wrong kind of error: %#v", err)
			}
			if c.warning != "" && !slices.Contains(warnings, c.warning) {
				t.Errorf("warnings %q", warnings)
			}
		})
	}
	e.validating("  validations: [{expression: 'false', reason: Forbidden}]", deny)
	if err := e.Client.Create(t.Context(), deployment(1), client.DryRunAll); !apierrors.IsForbidden(err) || err.(*apierrors.StatusError).ErrStatus.Code != 403 {
		t.Errorf("got %#v", err)
	}
	// Controllers in the process are subject to policies as everybody is.
	controller := e.Set(&identity.User{Name: "system:serviceaccount:kube-system:x", Groups: []string{identity.GroupMasters}}).Client
	if err := controller.Create(t.Context(), deployment(1)); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
	// Questions about rights and the policies themselves are exempt; a policy
	// without binding does nothing.
	if err := e.Client.Delete(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}}); err != nil {
		t.Fatal(err)
	}
	if err := e.Client.Create(t.Context(), deployment(1)); err != nil {
		t.Error(err)
	}
}

func TestMutating(t *testing.T) {
	e := start(t)
	apply(e, &corev1.ConfigMap{}, "metadata: {name: limits, namespace: default}\ndata: {max: '3'}")
	refused := "policy 'p' with binding 'b' denied request: "
	for name, c := range map[string]struct {
		policy, binding string
		replicas        int32
		labels          map[string]string
		want            string
	}{
		"apply":  {"  reinvocationPolicy: Never\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: object.spec.replicas + 1}}'}}]", "", 5, nil, ""},
		"labels": {"  reinvocationPolicy: Never\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{metadata: Object.metadata{labels: {\"a\": \"b\"}}}'}}]", "", 4, map[string]string{"a": "b"}, ""},
		"containers": {"  reinvocationPolicy: Never\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{initContainers: [Object.spec.template.spec.initContainers{name: \"i\", image: \"x\"}]}}}}'}}]", "", 4,
			nil, ""},
		"patch": {"  reinvocationPolicy: Never\n  mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: \"test\", path: \"/spec/replicas\", value: 4}, JSONPatch{op: \"replace\", path: \"/spec/replicas\", value: 7}, JSONPatch{op: \"add\", path: \"/metadata/labels\", value: {\"x/y\": \"e\"}}]'}}]", "", 7, map[string]string{"x/y": "e"}, ""},
		"test":  {"  reinvocationPolicy: Never\n  mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: \"test\", path: \"/spec/replicas\", value: 1}, JSONPatch{op: \"replace\", path: \"/spec/replicas\", value: 7}]'}}]", "", 4, nil, ""},
		"two":   {"  reinvocationPolicy: Never\n  variables: [{name: more, expression: object.spec.replicas * 2}]\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: variables.more}}'}}, {patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: variables.more}}'}}]", "", 16, nil, ""},
		"params": {"  reinvocationPolicy: Never\n  paramKind: {apiVersion: v1, kind: ConfigMap}\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: int(params.data.max)}}'}}]",
			"  paramRef: {name: limits, parameterNotFoundAction: Deny}\n", 3, nil, ""},
		"condition": {"  reinvocationPolicy: Never\n  matchConditions: [{name: a, expression: 'object.spec.replicas > 5'}]\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: 9}}'}}]", "", 4, nil, ""},
		"error":     {"  reinvocationPolicy: Never\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: object.none}}'}}]", "", 0, nil, refused + "expression 'Object{spec: Object.spec{replicas: object.none}}' resulted in error: no such key: none"},
		"ignored":   {"  failurePolicy: Ignore\n  reinvocationPolicy: Never\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: object.none}}'}}]", "", 4, nil, ""},
		"atomic":    {"  reinvocationPolicy: Never\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{selector: Object.spec.selector{}}}'}}]", "", 0, nil, refused + "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector"},
		"type":      {"  reinvocationPolicy: Never\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.wrong{replicas: 1}}'}}]", "", 0, nil, refused + "type mismatch: "},
		"no such field": {"  reinvocationPolicy: Never\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{none: 1}}'}}]", "", 0, nil,
			refused + "error applying patch: failed to convert patch object to typed object: .spec.none: field not declared in schema"},
		"no params": {"  reinvocationPolicy: Never\n  paramKind: {apiVersion: v1, kind: ConfigMap}\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{}'}}]",
			"  paramRef: {name: none, parameterNotFoundAction: Deny}\n", 0, nil, refused + "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"},
	} {
		t.Run(name, func(t *testing.T) {
			e.mutating(c.policy, c.binding)
			defer e.reset()
			d := deployment(4)
			err := e.Client.Create(t.Context(), d, client.DryRunAll)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
				t.Fatalf("got %v\nwant %s", err, c.want)
			}
			if err != nil {
				return
			}
			if *d.Spec.Replicas != c.replicas {
				t.Errorf("%d replicas, want %d", *d.Spec.Replicas, c.replicas)
			}
			for key, value := range c.labels {
				if d.Labels[key] != value {
					t.Errorf("labels %v", d.Labels)
				}
			}
			if containers := d.Spec.Template.Spec.InitContainers; name == "containers" && (len(containers) != 1 || containers[0].ImagePullPolicy != corev1.PullAlways) {
				t.Errorf("init containers without defaults: %+v", containers)
			}
		})
	}
	// A policy that wants to is carried out again after a later one.
	again := func(name, reinvocation, expression string) {
		apply(e, &admissionregistrationv1.MutatingAdmissionPolicy{}, "metadata: {name: "+name+"}\nspec:\n  "+rules+"\n  reinvocationPolicy: "+reinvocation+
			"\n  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: '"+expression+"'}}]")
		apply(e, &admissionregistrationv1.MutatingAdmissionPolicyBinding{}, "metadata: {name: "+name+"}\nspec: {policyName: "+name+"}")
	}
	again("a", "IfNeeded", `Object{metadata: Object.metadata{labels: {"seen": string(object.spec.replicas)}}}`)
	again("b", "Never", "Object{spec: Object.spec{replicas: object.spec.replicas + 1}}")
	d := deployment(1)
	if err := e.Client.Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if d.Labels["seen"] != "2" || *d.Spec.Replicas != 2 {
		t.Errorf("labels %v, %d replicas", d.Labels, *d.Spec.Replicas)
	}
	d.Spec.Replicas = ptr.To[int32](8)
	if err := e.Client.Update(t.Context(), d); err != nil || *d.Spec.Replicas != 9 || d.Labels["seen"] != "9" {
		t.Errorf("update: %d replicas, %v, %v", *d.Spec.Replicas, d.Labels, err)
	}
}

func TestAudit(t *testing.T) {
	dir := t.TempDir()
	file, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "log")
	level := "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [{level: Metadata, resources: [{group: apps, resources: [deployments]}]}, {level: None}]}"
	if err := os.WriteFile(file, []byte(level), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &env{testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuditPolicyFile: file, AuditLog: audit.LogOptions{Path: log}}}), t}
	e.validating("  validations: [{expression: 'true'}, {expression: 'false', message: never}]\n  auditAnnotations: [{key: count, valueExpression: \"'replicas: ' + string(object.spec.replicas)\"}, {key: none, valueExpression: 'null'}]",
		"  validationActions: [Audit]\n")
	remote, err := client.New(e.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Create(t.Context(), deployment(2)); err != nil {
		t.Fatal(err)
	}
	var event auditv1.Event
	for deadline := time.Now().Add(10 * time.Second); event.AuditID == "" && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		data, _ := os.ReadFile(log)
		_ = json.Unmarshal(data, &event)
	}
	want := `[{"message":"never","policy":"p","binding":"b","expressionIndex":1,"validationActions":["Audit"]}]`
	if got := event.Annotations; got["p/count"] != "replicas: 2" || got["validation.policy.admission.k8s.io/validation_failure"] != want {
		t.Errorf("annotations: %v", got)
	}
	if _, ok := event.Annotations["p/none"]; ok {
		t.Error("an annotation without a value")
	}
}
