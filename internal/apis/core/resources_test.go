package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const configMapKey = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"

func TestConfigMap(t *testing.T) {
	check(t, validateConfigMap(&corev1.ConfigMap{Data: map[string]string{"a.b_c-D": "x"}, BinaryData: map[string][]byte{"e": nil}}))
	check(t, validateConfigMap(&corev1.ConfigMap{Data: map[string]string{"a b": "", "c": ""}, BinaryData: map[string][]byte{"c": nil}}),
		`data[a b]: Invalid value: "a b": `+configMapKey,
		`data[c]: Invalid value: "c": duplicate of key present in binaryData`)
	check(t, validateConfigMap(&corev1.ConfigMap{Data: map[string]string{"a": strings.Repeat("x", 1<<20), "b": "x"}}),
		"[]: Too long: may not be more than 1048576 bytes")

	old := &corev1.ConfigMap{Data: map[string]string{"a": "1"}, Immutable: ptr.To(true)}
	now := &corev1.ConfigMap{Data: map[string]string{"a": "2"}, BinaryData: map[string][]byte{"b": nil}}
	check(t, validateConfigMapUpdate(t.Context(), now, old),
		"immutable: Forbidden: field is immutable when `immutable` is set",
		"data: Forbidden: field is immutable when `immutable` is set",
		"binaryData: Forbidden: field is immutable when `immutable` is set")
	check(t, validateConfigMapUpdate(t.Context(), old.DeepCopy(), old))
}

func TestSecret(t *testing.T) {
	s := &corev1.Secret{Data: map[string][]byte{"a": []byte("1"), "b": []byte("2")}, StringData: map[string]string{"b": "3"}}
	defaultSecret(s)
	if s.Type != corev1.SecretTypeOpaque || string(s.Data["b"]) != "3" || s.StringData != nil {
		t.Errorf("defaults to %+v", s)
	}
	for kind, want := range map[corev1.SecretType][]string{
		corev1.SecretTypeOpaque:              nil,
		"example.com/own":                    nil,
		corev1.SecretTypeTLS:                 {"data[tls.crt]: Required value", "data[tls.key]: Required value"},
		corev1.SecretTypeBasicAuth:           {"data[username]: Required value", "data[password]: Required value"},
		corev1.SecretTypeSSHAuth:             {"data[ssh-privatekey]: Required value"},
		corev1.SecretTypeDockercfg:           {"data[.dockercfg]: Required value"},
		corev1.SecretTypeDockerConfigJson:    {"data[.dockerconfigjson]: Required value"},
		corev1.SecretTypeServiceAccountToken: {"metadata.annotations[kubernetes.io/service-account.name]: Required value"},
	} {
		check(t, validateSecret(&corev1.Secret{Type: kind}), want...)
	}
	check(t, validateSecret(&corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{".dockerconfigjson": []byte("{")}}),
		`data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": unexpected end of JSON input`)
	check(t, validateSecret(&corev1.Secret{Data: map[string][]byte{"a": make([]byte, 1<<20+1)}}), "data: Too long: may not be more than 1048576 bytes")
	check(t, validateSecretUpdate(t.Context(), &corev1.Secret{Type: "b"}, &corev1.Secret{Type: "a"}), `type: Invalid value: "b": field is immutable`)
	check(t, validateSecretUpdate(t.Context(), &corev1.Secret{Immutable: ptr.To(true)}, &corev1.Secret{Immutable: ptr.To(true), Data: map[string][]byte{"a": nil}}),
		"data: Forbidden: field is immutable when `immutable` is set")
}

func TestNamespace(t *testing.T) {
	r, ctx := namespaces(), t.Context()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	r.Default(ns)
	r.PrepareCreate(ctx, ns)
	if ns.Status.Phase != corev1.NamespaceActive || len(ns.Spec.Finalizers) != 1 || ns.Labels["kubernetes.io/metadata.name"] != "a" {
		t.Errorf("a new namespace is %+v", ns)
	}
	update := ns.DeepCopy()
	update.Spec.Finalizers = nil
	r.PrepareUpdate(ctx, update, ns)
	if len(update.Spec.Finalizers) != 1 {
		t.Error("an ordinary update has removed a finalizer")
	}
	check(t, r.Validate(ctx, &corev1.Namespace{Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"own"}}}),
		`spec.finalizers: Invalid value: "own": name is neither a standard finalizer name nor is it fully qualified`)

	check(t, r.ValidateStatusUpdate(ctx, &corev1.Namespace{Status: corev1.NamespaceStatus{Phase: "Terminating"}}, ns),
		"status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty")

	if !r.BeforeDelete(ns) || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("a namespace with content goes at once: %+v", ns)
	}
	edited := &corev1.Namespace{}
	r.Subresources[0].Prepare(ctx, edited, ns)
	if edited.Status.Phase != ns.Status.Phase {
		t.Error("a finalized namespace is in another phase")
	}
	if r.BeforeDelete(edited) {
		t.Error("a finalized namespace stays")
	}
}

func TestNode(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{PodCIDR: "10.0.0.0/24"}}
	n.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse("2")}
	defaultNode(n)
	for _, c := range []struct {
		one     string
		all     []string
		wantOne string
		wantAll string
	}{
		{"", nil, "", "[]"},
		{"a", nil, "a", "[a]"},
		{"", []string{"a", "b"}, "a", "[a b]"},
		{"a", []string{"a", "b"}, "a", "[a b]"},
		{"c", []string{"a", "b"}, "c", "[c]"},
	} {
		s := corev1.NodeSpec{PodCIDR: c.one, PodCIDRs: c.all}
		if defaultPodCIDRs(&s); s.PodCIDR != c.wantOne || fmt.Sprint(s.PodCIDRs) != c.wantAll {
			t.Errorf("%q and %q become %q and %q", c.one, c.all, s.PodCIDR, s.PodCIDRs)
		}
	}
	if len(n.Spec.PodCIDRs) != 1 || n.Status.Allocatable.Cpu().Value() != 2 {
		t.Errorf("defaults to %+v", n)
	}
	check(t, validateNode(n))
	bad := n.DeepCopy()
	bad.Spec.PodCIDRs = []string{"10.0.0.0/24", "10.0.1.0/24"}
	bad.Spec.Taints = []corev1.Taint{{Key: "a", Effect: "X"}, {Key: "b", Effect: "NoSchedule"}, {Key: "b", Effect: "NoSchedule"}}
	check(t, validateNode(bad),
		`metadata.taints[0].effect: Unsupported value: "X": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
		`metadata.taints[2]: Duplicate value: {"key":"b","effect":"NoSchedule"}: taints must be unique by key and effect pair`,
		`spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: may specify no more than one CIDR for each IP family`)

	now := n.DeepCopy()
	now.Spec.PodCIDRs = []string{"10.0.1.0/24"}
	check(t, validateNodeUpdate(now, n), `spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`)
	n.Spec.ProviderID, now.Spec = "a", n.Spec
	now.Spec.ProviderID = "b"
	check(t, validateNodeUpdate(now, n), `spec.providerID: Forbidden: node updates may not change providerID except from "" to valid`)

	n.Labels = map[string]string{"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}
	n.Spec.Unschedulable = true
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.1.1.1"}}
	cells := nodeCells(n)
	if cells[1] != "Ready,SchedulingDisabled" || cells[2] != "edge,worker" || cells[5] != "10.1.1.1" || cells[6] != "<none>" || cells[7] != "<unknown>" {
		t.Errorf("cells are %v", cells)
	}
}

func TestEvent(t *testing.T) {
	old := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", ResourceVersion: "1"}, InvolvedObject: corev1.ObjectReference{Namespace: "ns"}}
	check(t, validateEvent(old, "reportingComponent"))
	check(t, validateEvent(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}, "reportingComponent"),
		`involvedObject.namespace: Invalid value: "": does not match event.namespace`)
	check(t, validateEvent(&corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}}, "reportingComponent"))
	strict := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", ResourceVersion: "1"}, InvolvedObject: corev1.ObjectReference{Namespace: "ns"}, EventTime: metav1.NowMicro()}
	strict.ReportingController = "c"
	check(t, validateEvent(strict, "reportingComponent"), "reportingInstance: Required value", "action: Required value", "reason: Required value")

	strict.Name, strict.Count, strict.Type = "e", 1, "Odd"
	check(t, validateNewEvent(strict, nil),
		`type: Invalid value: "": has invalid value: Odd`, `count: Invalid value: "": needs to be unset`)
	now := strict.DeepCopy()
	now.Message = "other"
	check(t, validateNewEvent(now, strict), `message: Invalid value: "other": field is immutable`)

	if got := eventCells(&corev1.Event{InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p"}, Source: corev1.EventSource{Component: "kubelet", Host: "n"}}); got[3] != "pod/p" || got[5] != "kubelet, n" || got[8] != int64(1) {
		t.Errorf("cells are %v", got)
	}
	f := eventFields()
	e := &corev1.Event{ReportingController: "rc", InvolvedObject: corev1.ObjectReference{UID: "u"}}
	if f["source"](e) != "rc" || f["reportingComponent"](e) != "rc" || f["involvedObject.uid"](e) != "u" {
		t.Error("fields of an event are not selectable")
	}
	names := newEventFieldNames()
	if names["reportingController"] != "reportingComponent" || names["regarding.uid"] != "involvedObject.uid" || names["source"] != "" || names["involvedObject.uid"] != "" {
		t.Errorf("fields of an event in its own group are %v", names)
	}
}

func TestReplicationController(t *testing.T) {
	rc := &corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: aPod().Spec,
	}}}
	defaultReplicationController(rc)
	if *rc.Spec.Replicas != 1 || rc.Spec.Selector["a"] != "b" || rc.Labels["a"] != "b" {
		t.Errorf("defaults to %+v", rc)
	}
	check(t, validateReplicationController(rc, nil))
	rc.Spec.Selector = map[string]string{"c": "d"}
	rc.Spec.Replicas = ptr.To[int32](-1)
	rc.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	check(t, validateReplicationController(rc, nil),
		"spec.replicas: Invalid value: -1: must be greater than or equal to 0",
		"spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
		`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`)
}

func TestQuotaAndLimits(t *testing.T) {
	q := &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("1500m"), "nonsense": resource.MustParse("1")}}}
	check(t, validateResourceQuota(q),
		`spec.hard[nonsense]: Invalid value: "nonsense": must be a standard resource type or fully qualified`,
		`spec.hard[nonsense]: Invalid value: "nonsense": must be a standard resource for quota`,
		`spec.hard[pods]: Invalid value: "1500m": must be an integer`)
	q.Spec = corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"secrets": resource.MustParse("1")}, Scopes: []corev1.ResourceQuotaScope{"BestEffort", "NotBestEffort"}}
	check(t, validateResourceQuota(q),
		`spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: unsupported scope applied to resource`,
		`spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: unsupported scope applied to resource`,
		`spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes`)
	check(t, validateResourceQuotaUpdate(t.Context(), &corev1.ResourceQuota{}, &corev1.ResourceQuota{Spec: corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{"BestEffort"}}}),
		`spec.scopes: Invalid value: null: field is immutable`)

	l := &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Max: corev1.ResourceList{"cpu": resource.MustParse("2")}}}}}
	defaultLimitRange(l)
	if item := l.Spec.Limits[0]; item.Default.Cpu().String() != "2" || item.DefaultRequest.Cpu().String() != "2" {
		t.Errorf("defaults to %+v", item)
	}
	check(t, validateLimitRange(t.Context(), l))
	l.Spec.Limits[0].Min = corev1.ResourceList{"cpu": resource.MustParse("3")}
	l.Spec.Limits[0].Default, l.Spec.Limits[0].DefaultRequest = nil, nil
	l.Spec.Limits = append(l.Spec.Limits, corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim})
	check(t, validateLimitRange(t.Context(), l),
		`spec.limits[0].min[cpu]: Invalid value: "3": min value 3 is greater than max value 2`,
		"spec.limits[1].limits: Required value: either minimum or maximum storage value is required, but neither was provided")
}

func TestVolumesAndClaims(t *testing.T) {
	pv := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{"storage": resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}},
	}}
	defaultPersistentVolume(pv)
	check(t, validatePersistentVolume(pv))
	bad := pv.DeepCopy()
	bad.Spec.AccessModes = append(bad.Spec.AccessModes, "ReadWriteOncePod")
	bad.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/x"}}
	check(t, validatePersistentVolume(bad),
		"spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
		"spec.nodeAffinity: Required value: Local volume requires node affinity")
	moved := pv.DeepCopy()
	moved.Spec.HostPath.Path = "/y"
	check(t, validatePersistentVolumeUpdate(t.Context(), moved, pv), "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation")

	c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
	}}
	r := persistentVolumeClaims()
	r.Default(c)
	check(t, r.Validate(t.Context(), c))
	check(t, r.Validate(t.Context(), &corev1.PersistentVolumeClaim{}),
		"spec.accessModes: Required value: at least 1 access mode is required", "spec.resources[storage]: Required value")
	bound := c.DeepCopy()
	bound.Spec.VolumeName, bound.Spec.StorageClassName = "v", ptr.To("fast")
	check(t, validateClaimUpdate(t.Context(), bound, c))
	bound.Status.Phase = corev1.ClaimBound
	larger := bound.DeepCopy()
	larger.Spec.Resources.Requests["storage"] = resource.MustParse("2Gi")
	check(t, validateClaimUpdate(t.Context(), larger, bound))
	larger.Spec.VolumeName = "w"
	check(t, validateClaimUpdate(t.Context(), larger, bound), "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims")
}

func TestEndpoints(t *testing.T) {
	e := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}, {IP: "10.0.0.3"}, {IP: "10.0.0.4"}}, Ports: []corev1.EndpointPort{{Port: 80, Protocol: "TCP"}},
	}}}
	check(t, validateEndpoints(e))
	if got, want := endpointsText(e), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more..."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	check(t, validateEndpoints(&corev1.Endpoints{Subsets: []corev1.EndpointSubset{{}, {Addresses: []corev1.EndpointAddress{{IP: "169.254.0.1"}}}}}),
		"subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
		`subsets[1].addresses[0].ip: Invalid value: "169.254.0.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)`)
}

func TestMayBind(t *testing.T) {
	for name, c := range map[string]struct {
		pod     *corev1.Pod
		binding corev1.Binding
		refused string
	}{
		"free":     {aPod(), corev1.Binding{}, ""},
		"assigned": {aPod(func(p *corev1.Pod) { p.Spec.NodeName = "n" }), corev1.Binding{}, `pod p is already assigned to node "n"`},
		"deleting": {aPod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), corev1.Binding{}, "pod p is being deleted, cannot be assigned to a host"},
		"gated":    {aPod(func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }), corev1.Binding{}, "pod p has non-empty .spec.schedulingGates"},
		"replaced": {aPod(func(p *corev1.Pod) { p.UID = "new" }), corev1.Binding{ObjectMeta: metav1.ObjectMeta{UID: "old"}}, "UID in precondition: old, UID in object meta: new"},
	} {
		err := mayBind(c.pod)
		if unmet := unmet(c.pod, &c.binding); unmet != "" {
			err = errors.New(unmet)
		}
		if (err == nil) != (c.refused == "") || err != nil && err.Error() != c.refused {
			t.Errorf("%s: %v, want %q", name, err, c.refused)
		}
	}
}

func TestSpendBudget(t *testing.T) {
	now := metav1.Now()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, DesiredHealthy: 2, CurrentHealthy: 3}}
	if err := spend(b, "p", now); err != nil {
		t.Fatal(err)
	}
	if _, told := b.Status.DisruptedPods["p"]; b.Status.DisruptionsAllowed != 0 || !told {
		t.Errorf("after an eviction the budget is %+v", b.Status)
	}
	err := spend(b, "q", now)
	status, ok := err.(apierrors.APIStatus)
	if !ok || !apierrors.IsTooManyRequests(err) {
		t.Fatalf("a spent budget answers %v", err)
	}
	cause := status.Status().Details.Causes[0]
	if cause.Type != policyv1.DisruptionBudgetCause || cause.Message != "The disruption budget b does not allow evicting pods currently" {
		t.Errorf("the cause is %+v", cause)
	}
	b.Generation, b.Status.DisruptionsAllowed = 1, 1
	err = spend(b, "q", now)
	if seconds, wait := apierrors.SuggestsClientDelay(err); !wait || seconds != 10 {
		t.Errorf("a budget that is not yet counted answers %v", err)
	}
}

func TestVirtualResources(t *testing.T) {
	for _, r := range Resources() {
		if (r.Virtual != nil) != contains([]string{"bindings", "componentstatuses"}, r.Names.Resource) {
			t.Errorf("%s: virtual is %v", r.Names.Resource, r.Virtual != nil)
		}
	}
}

func TestComponentStatuses(t *testing.T) {
	components := []Component{
		{Name: "scheduler", Check: func(context.Context) error { return errors.New("no server leads") }},
		{Name: "etcd-0", Check: func(context.Context) error { return nil }},
	}
	r := componentStatuses(components)
	list, err := r.Virtual.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	want := [][]any{{"scheduler", "Unhealthy", "no server leads", ""}, {"etcd-0", "Healthy", "ok", ""}}
	for i, c := range list {
		if got := r.Cells(c); !slices.Equal(got, want[i]) {
			t.Errorf("%v, want %v", got, want[i])
		}
	}
	if len(list) != len(want) {
		t.Errorf("%d components, want %d", len(list), len(want))
	}
	if got, err := r.Virtual.Get(t.Context(), "", "etcd-0"); err != nil || got.GetName() != "etcd-0" {
		t.Errorf("etcd-0 is %v, %v", got, err)
	}
	if _, err := r.Virtual.Get(t.Context(), "", "none"); err == nil || err.Error() != `componentstatus "none" not found` {
		t.Errorf("none: %v", err)
	}
}
