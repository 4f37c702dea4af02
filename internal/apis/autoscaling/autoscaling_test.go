package autoscaling

import (
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

const full = `
metadata: {name: web, namespace: default, annotations: {mine: stays}}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 9
  metrics:
  - {type: Pods, pods: {metric: {name: qps}, target: {type: AverageValue, averageValue: "10"}}}
  - {type: Object, object: {metric: {name: qps}, describedObject: {kind: Service, name: web, apiVersion: v1}, target: {type: Value, value: "100"}}}
  - {type: External, external: {metric: {name: queue, selector: {matchLabels: {a: b}}}, target: {type: AverageValue, averageValue: 1k}}}
  - {type: ContainerResource, containerResource: {name: memory, container: main, target: {type: Utilization, averageUtilization: 70}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
  behavior: {scaleDown: {selectPolicy: Disabled}}
`

func TestDefaults(t *testing.T) {
	r := checkstest.Find(t, Resources(), "horizontalpodautoscalers")
	h := checkstest.Parse[*autoscalingv2.HorizontalPodAutoscaler](t, r, "spec: {maxReplicas: 3, behavior: {}}")
	if *h.Spec.MinReplicas != 1 || *h.Spec.Metrics[0].Resource.Target.AverageUtilization != 80 {
		t.Errorf("wrong defaults: %+v", h.Spec)
	}
	up, down := h.Spec.Behavior.ScaleUp, h.Spec.Behavior.ScaleDown
	if *up.StabilizationWindowSeconds != 0 || len(up.Policies) != 2 || *up.SelectPolicy != "Max" || down.StabilizationWindowSeconds != nil || len(down.Policies) != 1 {
		t.Errorf("wrong behavior: %+v %+v", up, down)
	}
}

// TestV1 shows that v1 carries all of v2, in the annotations that upstream
// uses.
func TestV1(t *testing.T) {
	r := checkstest.Find(t, Resources(), "horizontalpodautoscalers")
	hub := checkstest.Parse[*autoscalingv2.HorizontalPodAutoscaler](t, r, full)
	hub.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.AbleToScale, Status: "True"}}
	before := hub.DeepCopy()
	v1, err := toV1(hub)
	if err != nil {
		t.Fatal(err)
	}
	if *v1.Spec.TargetCPUUtilizationPercentage != 50 || v1.Annotations["mine"] != "stays" {
		t.Errorf("wrong v1: %+v", v1)
	}
	for _, key := range []string{metricsAnnotation, conditionsAnnotation, behaviorAnnotation} {
		if v1.Annotations[key] == "" {
			t.Errorf("no annotation %s", key)
		}
	}
	if got, want := v1.Annotations[behaviorAnnotation], `{"ScaleUp":{"StabilizationWindowSeconds":0,"SelectPolicy":"Max","Policies":[`+
		`{"Type":"Pods","Value":4,"PeriodSeconds":15},{"Type":"Percent","Value":100,"PeriodSeconds":15}],"Tolerance":null},`+
		`"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":"Disabled","Policies":[{"Type":"Percent","Value":100,"PeriodSeconds":15}],"Tolerance":null}}`; got != want {
		t.Errorf("behavior is annotated as\n%s, want\n%s", got, want)
	}
	if back := fromV1(v1); !equality.Semantic.DeepEqual(back, before) {
		t.Errorf("there and back made a difference:\n%+v\n%+v", back, before)
	}
	if !equality.Semantic.DeepEqual(hub, before) {
		t.Error("conversion changed its input")
	}
	broken := &autoscalingv1.HorizontalPodAutoscaler{}
	broken.Annotations = map[string]string{metricsAnnotation: "{", behaviorAnnotation: "no"}
	if hub := fromV1(broken); len(hub.Spec.Metrics) != 0 || hub.Spec.Behavior != nil || len(hub.Annotations) != 0 {
		t.Errorf("broken annotations made %+v", hub)
	}
}

func TestValidation(t *testing.T) {
	change := checkstest.Change[*autoscalingv2.HorizontalPodAutoscaler]
	type hpa = autoscalingv2.HorizontalPodAutoscaler
	r := checkstest.Find(t, Resources(), "horizontalpodautoscalers")
	valid := checkstest.Parse[*hpa](t, r, full)
	checkstest.Create(t, r, valid,
		change("zero", func(h *hpa) { h.Spec.MinReplicas = ptr.To[int32](0) }, "spec.minReplicas: Invalid value: must be greater than or equal to 1"),
		change("less", func(h *hpa) { h.Spec.MaxReplicas = 1 }, "spec.maxReplicas: Invalid value: must be greater than or equal to `minReplicas`"),
		change("target", func(h *hpa) { h.Spec.ScaleTargetRef.Kind, h.Spec.ScaleTargetRef.Name = "", "a/b" },
			"spec.scaleTargetRef.kind: Required value: ", "spec.scaleTargetRef.name: Invalid value: may not contain '/'"),
		change("two sources", func(h *hpa) { h.Spec.Metrics[0].Object = h.Spec.Metrics[1].Object },
			"spec.metrics[0].object: Forbidden: must populate the given metric source only"),
		change("utilization", func(h *hpa) { h.Spec.Metrics[4].Resource.Target.AverageUtilization = nil },
			"spec.metrics[4].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization"),
		change("another source", func(h *hpa) { h.Spec.Metrics[4].Type = "Pods" },
			"spec.metrics[4].pods: Required value: must populate information for the given metric source"),
		change("no source", func(h *hpa) { h.Spec.Metrics[0].Pods = nil },
			"spec.metrics[0].pods: Required value: must populate information for the given metric source"),
		change("no type", func(h *hpa) { h.Spec.Metrics[0].Type = "" },
			"spec.metrics[0].type: Required value: must specify a metric source type",
			`spec.metrics[0].type: Unsupported value: supported values: "ContainerResource", "External", "Object", "Pods", "Resource"`,
			`spec.metrics[0].type: Unsupported value: supported values: "ContainerResource", "External", "Object", "Pods", "Resource"`),
		change("core target", func(h *hpa) { h.Spec.ScaleTargetRef.APIVersion = "v1" },
			"spec.scaleTargetRef.apiVersion: Invalid value: apiVersion must specify API group"),
		change("replication controller", func(h *hpa) {
			h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "ReplicationController", Name: "web"}
		}),
		change("container", func(h *hpa) {
			r := h.Spec.Metrics[3].ContainerResource
			r.Name, r.Container = "disk", "a.b"
		},
			"spec.metrics[3].containerResource.name: Invalid value: must be a standard resource type or fully qualified",
			"spec.metrics[3].containerResource.name: Invalid value: must be a standard resource for containers",
			"spec.metrics[3].containerResource.container: Invalid value: must not contain dots"),
		change("no metric target", func(h *hpa) { h.Spec.Metrics[0].Pods.Target = autoscalingv2.MetricTarget{} },
			"spec.metrics[0].pods.target.type: Required value: must specify a metric target type",
			"spec.metrics[0].pods.target.type: Invalid value: must be either Utilization, Value, or AverageValue",
			"spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue"),
		change("rules", func(h *hpa) {
			h.Spec.Behavior.ScaleUp = &autoscalingv2.HPAScalingRules{
				StabilizationWindowSeconds: ptr.To[int32](-1), SelectPolicy: ptr.To[autoscalingv2.ScalingPolicySelect](""),
				Tolerance: resource.NewMilliQuantity(-1, resource.DecimalSI), Policies: []autoscalingv2.HPAScalingPolicy{{}},
			}
		},
			"spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: must be greater than or equal to zero",
			`spec.behavior.scaleUp.selectPolicy: Unsupported value: supported values: "Disabled", "Max", "Min"`,
			"spec.behavior.scaleUp.tolerance: Invalid value: must be greater than or equal to 0",
			`spec.behavior.scaleUp.policies[0].type: Unsupported value: supported values: "Percent", "Pods"`,
			"spec.behavior.scaleUp.policies[0].value: Invalid value: must be greater than zero",
			"spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: must be greater than zero"),
		change("policy", func(h *hpa) { h.Spec.Behavior.ScaleDown.Policies[0].PeriodSeconds = 1801 },
			"spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: must be less than or equal to 1800"),
		change("window", func(h *hpa) { h.Spec.Behavior.ScaleUp.StabilizationWindowSeconds = ptr.To[int32](3601) },
			"spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: must be less than or equal to 3600"),
	)
}

// TestUpdate shows what may stay though it could not be made any more.
func TestUpdate(t *testing.T) {
	change := checkstest.Change[*autoscalingv2.HorizontalPodAutoscaler]
	type hpa = autoscalingv2.HorizontalPodAutoscaler
	r := checkstest.Find(t, Resources(), "horizontalpodautoscalers")
	old := checkstest.Parse[*hpa](t, r, full)
	old.Spec.ScaleTargetRef.APIVersion = "v1"
	old.Spec.MinReplicas = ptr.To[int32](0)
	old.Spec.Metrics[1].Object.DescribedObject.APIVersion = "a/b/c"
	checkstest.Update(t, r, old,
		change("nothing", func(*hpa) {}),
		change("metrics", func(h *hpa) { h.Spec.Metrics = h.Spec.Metrics[3:] },
			"spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas"),
		change("kind", func(h *hpa) { h.Spec.ScaleTargetRef.Kind = "ReplicaSet" },
			"spec.scaleTargetRef.apiVersion: Invalid value: apiVersion must specify API group"),
	)
}

func TestCells(t *testing.T) {
	r := checkstest.Find(t, Resources(), "horizontalpodautoscalers")
	h := checkstest.Parse[*autoscalingv2.HorizontalPodAutoscaler](t, r, full)
	if got := r.Cells(h); got[1] != "Deployment/web" || got[2] != "<unknown>/10, <unknown>/100 + 3 more..." || got[3] != "2" {
		t.Errorf("shown as %v", got)
	}
}
