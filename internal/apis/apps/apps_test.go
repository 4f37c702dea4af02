package apps

import (
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/checks/checkstest"
)

const template = `
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: nginx}]}
`

func number(n int32) *intstr.IntOrString      { return ptr.To(intstr.FromInt32(n)) }
func percentage(s string) *intstr.IntOrString { return ptr.To(intstr.FromString(s)) }

func TestDeploymentDefaults(t *testing.T) {
	r := checkstest.Find(t, Resources(), "deployments")
	d := checkstest.Parse[*appsv1.Deployment](t, r, "metadata: {name: web}\nspec:"+template)
	if *d.Spec.Replicas != 1 || *d.Spec.RevisionHistoryLimit != 10 || *d.Spec.ProgressDeadlineSeconds != 600 {
		t.Errorf("wrong numbers: %+v", d.Spec)
	}
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != "RollingUpdate" || rolling.MaxSurge.StrVal != "25%" || rolling.MaxUnavailable.StrVal != "25%" {
		t.Errorf("wrong strategy: %+v", d.Spec.Strategy)
	}
	if d.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("the template has no defaults: %+v", d.Spec.Template.Spec)
	}
	recreate := checkstest.Parse[*appsv1.Deployment](t, r, "spec:\n  strategy: {type: Recreate}"+template)
	if recreate.Spec.Strategy.RollingUpdate != nil {
		t.Error("Recreate got rolling update parameters")
	}
}

func TestDeploymentValidation(t *testing.T) {
	change := checkstest.Change[*appsv1.Deployment]
	r := checkstest.Find(t, Resources(), "deployments")
	valid := checkstest.Parse[*appsv1.Deployment](t, r, "metadata: {name: web, namespace: default}\nspec:"+template)
	checkstest.Create(t, r, valid,
		change("negative replicas", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](-1) },
			"spec.replicas: Invalid value: must be greater than or equal to 0"),
		change("no selector", func(d *appsv1.Deployment) { d.Spec.Selector = nil },
			"spec.selector: Required value: ", "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"),
		change("empty selector", func(d *appsv1.Deployment) { d.Spec.Selector = &metav1.LabelSelector{} },
			"spec.selector: Invalid value: empty selector is invalid for deployment"),
		change("other labels", func(d *appsv1.Deployment) { d.Spec.Template.Labels = map[string]string{"app": "db"} },
			"spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"),
		change("ends", func(d *appsv1.Deployment) { d.Spec.Template.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) },
			"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"),
		change("restart policy", func(d *appsv1.Deployment) { d.Spec.Template.Spec.RestartPolicy = "Never" },
			"spec.template.spec.restartPolicy: Unsupported value: supported values: \"Always\""),
		change("strategy", func(d *appsv1.Deployment) { d.Spec.Strategy.Type = "Fast" },
			"spec.strategy: Unsupported value: supported values: \"Recreate\", \"RollingUpdate\""),
		change("recreate rolling", func(d *appsv1.Deployment) { d.Spec.Strategy.Type = "Recreate" },
			"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"),
		change("rolling without parameters", func(d *appsv1.Deployment) { d.Spec.Strategy.RollingUpdate = nil },
			"spec.strategy.rollingUpdate: Required value: this should be defaulted and never be nil"),
		change("no progress possible", func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate.MaxSurge, d.Spec.Strategy.RollingUpdate.MaxUnavailable = number(0), percentage("0%")
		}, "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: may not be 0 when `maxSurge` is 0"),
		change("more than all", func(d *appsv1.Deployment) { d.Spec.Strategy.RollingUpdate.MaxUnavailable = percentage("101%") },
			"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: must not be greater than 100%"),
		change("no percentage", func(d *appsv1.Deployment) { d.Spec.Strategy.RollingUpdate.MaxSurge = percentage("some") },
			"spec.strategy.rollingUpdate.maxSurge: Invalid value: a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
		change("negative surge", func(d *appsv1.Deployment) { d.Spec.Strategy.RollingUpdate.MaxSurge = number(-1) },
			"spec.strategy.rollingUpdate.maxSurge: Invalid value: must be greater than or equal to 0"),
		change("deadline", func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 600 },
			"spec.progressDeadlineSeconds: Invalid value: must be greater than minReadySeconds"),
		change("history", func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = ptr.To[int32](-1) },
			"spec.revisionHistoryLimit: Invalid value: must be greater than or equal to 0"),
	)
	checkstest.Update(t, r, valid,
		change("replicas", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](5) }),
		change("selector", func(d *appsv1.Deployment) {
			d.Spec.Selector.MatchLabels["tier"], d.Spec.Template.Labels["tier"] = "front", "front"
		}, "spec.selector: Invalid value: field is immutable"),
	)
	valid.Status.CollisionCount = ptr.To[int32](2)
	checkstest.UpdateStatus(t, r, valid,
		change("unchanged", func(*appsv1.Deployment) {}),
		change("more ready than there are", func(d *appsv1.Deployment) { d.Status.Replicas, d.Status.ReadyReplicas = 1, 2 },
			"status.readyReplicas: Invalid value: cannot be greater than status.replicas"),
		change("more available than ready", func(d *appsv1.Deployment) { d.Status.Replicas, d.Status.AvailableReplicas = 1, 1 },
			"status.availableReplicas: Invalid value: cannot be greater than readyReplicas"),
		change("collisions", func(d *appsv1.Deployment) { d.Status.CollisionCount = ptr.To[int32](1) },
			"status.collisionCount: Invalid value: cannot be decremented"),
		change("negative", func(d *appsv1.Deployment) { d.Status.UnavailableReplicas = -1 },
			"status.unavailableReplicas: Invalid value: must be greater than or equal to 0"),
	)
}

func TestDeploymentCellsAndScale(t *testing.T) {
	r := checkstest.Find(t, Resources(), "deployments")
	d := checkstest.Parse[*appsv1.Deployment](t, r, "metadata: {name: web}\nspec:\n  replicas: 3"+template)
	d.Status = appsv1.DeploymentStatus{Replicas: 3, ReadyReplicas: 2, UpdatedReplicas: 3, AvailableReplicas: 1}
	cells := r.Cells(d)
	for i, want := range []any{"web", "2/3", int64(3), int64(1), "<unknown>", "main", "nginx", "app=web"} {
		if cells[i] != want {
			t.Errorf("column %s: got %v, want %v", r.Columns[i].Name, cells[i], want)
		}
	}
	r.Scale.SetReplicas(d, 7)
	if r.Scale.Replicas(d) != 7 || r.Scale.StatusReplicas(d) != 3 || r.Scale.Selector(d) != "app=web" {
		t.Errorf("wrong scale: %d %d %s", r.Scale.Replicas(d), r.Scale.StatusReplicas(d), r.Scale.Selector(d))
	}
}

func TestReplicaSetValidation(t *testing.T) {
	change := checkstest.Change[*appsv1.ReplicaSet]
	r := checkstest.Find(t, Resources(), "replicasets")
	valid := checkstest.Parse[*appsv1.ReplicaSet](t, r, "metadata: {name: web, namespace: default}\nspec:"+template)
	if *valid.Spec.Replicas != 1 {
		t.Errorf("replicas default to %d", *valid.Spec.Replicas)
	}
	checkstest.Create(t, r, valid,
		change("minReadySeconds", func(s *appsv1.ReplicaSet) { s.Spec.MinReadySeconds = -1 },
			"spec.minReadySeconds: Invalid value: must be greater than or equal to 0"),
		change("selector", func(s *appsv1.ReplicaSet) { s.Spec.Selector.MatchLabels["app"] = "db" },
			"spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`"),
		change("bad selector", func(s *appsv1.ReplicaSet) {
			s.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Near"}}
		}, "spec.selector.matchExpressions[0].operator: Invalid value: not a valid selector operator", "spec.selector: Invalid value: invalid label selector"),
	)
	checkstest.Update(t, r, valid,
		change("selector", func(s *appsv1.ReplicaSet) {
			s.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Exists"}}}
		},
			"spec.selector: Invalid value: field is immutable"),
	)
	checkstest.UpdateStatus(t, r, valid,
		change("labels", func(s *appsv1.ReplicaSet) { s.Status.FullyLabeledReplicas = 1 },
			"status.fullyLabeledReplicas: Invalid value: cannot be greater than status.replicas"),
	)
}

func TestStatefulSet(t *testing.T) {
	change := checkstest.Change[*appsv1.StatefulSet]
	r := checkstest.Find(t, Resources(), "statefulsets")
	valid := checkstest.Parse[*appsv1.StatefulSet](t, r, `
metadata: {name: db, namespace: default}
spec:
  serviceName: db
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: main, image: postgres, volumeMounts: [{name: data, mountPath: /data}]}]}
`)
	s := valid.Spec
	if s.PodManagementPolicy != "OrderedReady" || *s.UpdateStrategy.RollingUpdate.Partition != 0 || s.UpdateStrategy.RollingUpdate.MaxUnavailable != nil {
		t.Errorf("wrong defaults: %+v", s)
	}
	if p := s.PersistentVolumeClaimRetentionPolicy; p.WhenDeleted != "Retain" || p.WhenScaled != "Retain" {
		t.Errorf("wrong retention: %+v", p)
	}
	if claim := s.VolumeClaimTemplates[0]; claim.Kind != "PersistentVolumeClaim" || claim.Status.Phase != corev1.ClaimPending || *claim.Spec.VolumeMode != corev1.PersistentVolumeFilesystem {
		t.Errorf("wrong claim: %+v", claim)
	}
	checkstest.Create(t, r, valid,
		change("policy", func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = "Random" },
			"spec.podManagementPolicy: Invalid value: must be 'OrderedReady' or 'Parallel'"),
		change("strategy", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = "Later" },
			"spec.updateStrategy: Invalid value: must be 'RollingUpdate' or 'OnDelete'"),
		change("on delete", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = "OnDelete" },
			"spec.updateStrategy.rollingUpdate: Invalid value: only allowed for updateStrategy 'RollingUpdate'"),
		change("partition", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](-1) },
			"spec.updateStrategy.rollingUpdate.partition: Invalid value: must be greater than or equal to 0"),
		change("label", func(s *appsv1.StatefulSet) { s.Spec.Template.Labels["x"] = strings.Repeat("x", 64) },
			"spec.template.labels: Invalid value: must be no more than 63 bytes", "spec.template.labels: Invalid value: must be no more than 63 bytes"),
		change("two claims of a name", func(s *appsv1.StatefulSet) {
			s.Spec.VolumeClaimTemplates = append(s.Spec.VolumeClaimTemplates, s.Spec.VolumeClaimTemplates[0])
		}),
		change("ordinals", func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: -1} },
			"spec.ordinals.start: Invalid value: must be greater than or equal to 0"),
		change("service", func(s *appsv1.StatefulSet) { s.Spec.ServiceName = "a.b" },
			"spec.serviceName: Invalid value: must not contain dots"),
		change("retention", func(s *appsv1.StatefulSet) { s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled = "Burn" },
			"spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: supported values: \"Retain\", \"Delete\""),
	)
	const forbidden = "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
	checkstest.Update(t, r, valid,
		change("allowed", func(s *appsv1.StatefulSet) {
			s.Spec.Replicas, s.Spec.MinReadySeconds, s.Spec.RevisionHistoryLimit = ptr.To[int32](3), 4, ptr.To[int32](5)
			s.Spec.Template.Spec.Containers[0].Image = "postgres:2"
		}),
		change("service", func(s *appsv1.StatefulSet) { s.Spec.ServiceName = "other" }, forbidden),
		change("management", func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = "Parallel" }, forbidden),
	)
	broken := valid.DeepCopy()
	broken.Spec.Template.Spec.Containers[0].Image = ""
	checkstest.Update(t, r, broken,
		change("was not valid", func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Name = "" }))
}

func TestDaemonSet(t *testing.T) {
	change := checkstest.Change[*appsv1.DaemonSet]
	r := checkstest.Find(t, Resources(), "daemonsets")
	valid := checkstest.Parse[*appsv1.DaemonSet](t, r, "metadata: {name: agent, namespace: default}\nspec:"+template)
	rolling := valid.Spec.UpdateStrategy.RollingUpdate
	if rolling.MaxUnavailable.IntVal != 1 || rolling.MaxSurge.IntVal != 0 || *valid.Spec.RevisionHistoryLimit != 10 {
		t.Errorf("wrong defaults: %+v", valid.Spec)
	}
	checkstest.Create(t, r, valid,
		change("both", func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.RollingUpdate.MaxSurge = percentage("10%") },
			"spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: may not be set when maxUnavailable is non-zero"),
		change("neither", func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = number(0) },
			"spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"),
		change("empty selector", func(d *appsv1.DaemonSet) { d.Spec.Selector = &metav1.LabelSelector{} },
			"spec.selector: Invalid value: empty selector is invalid for daemonset"),
		change("strategy", func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.Type = "Never" },
			"spec.updateStrategy: Unsupported value: supported values: \"RollingUpdate\", \"OnDelete\""),
	)
	old := valid.DeepCopy()
	old.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "tier", Operator: "NotIn", Values: []string{"a b"}}}
	checkstest.Update(t, r, old,
		change("bad values that were there", func(d *appsv1.DaemonSet) { d.Spec.MinReadySeconds = 1 }),
		change("selector", func(d *appsv1.DaemonSet) { d.Spec.Selector.MatchExpressions = nil }, "spec.selector: Invalid value: field is immutable"),
	)
	ctx := context.Background()
	r.PrepareCreate(ctx, valid)
	changed := valid.DeepCopy()
	changed.Annotations[appsv1.DeprecatedTemplateGeneration] = "99"
	r.PrepareUpdate(ctx, changed, valid)
	if got := changed.Annotations[appsv1.DeprecatedTemplateGeneration]; got != "1" {
		t.Errorf("a user set the template's generation to %s", got)
	}
	changed.Spec.Template.Spec.Containers[0].Image = "new"
	r.PrepareUpdate(ctx, changed, valid)
	if got := changed.Annotations[appsv1.DeprecatedTemplateGeneration]; got != "2" {
		t.Errorf("a new template has generation %s", got)
	}
}

func TestControllerRevision(t *testing.T) {
	change := checkstest.Change[*appsv1.ControllerRevision]
	r := checkstest.Find(t, Resources(), "controllerrevisions")
	valid := checkstest.Parse[*appsv1.ControllerRevision](t, r, "metadata: {name: db-1, namespace: default}\nrevision: 1\ndata: {spec: {}}")
	checkstest.Create(t, r, valid,
		change("none", func(c *appsv1.ControllerRevision) { c.Data.Raw = nil }, "data: Required value: data is mandatory"),
		change("null", func(c *appsv1.ControllerRevision) { c.Data.Raw = []byte("null") }, "data: Required value: data is mandatory"),
		change("array", func(c *appsv1.ControllerRevision) { c.Data.Raw = []byte("[]") }, "data: Required value: data must be a valid JSON object"),
		change("revision", func(c *appsv1.ControllerRevision) { c.Revision = -1 }, "revision: Invalid value: must be greater than or equal to 0"),
	)
	checkstest.Update(t, r, valid,
		change("revision", func(c *appsv1.ControllerRevision) { c.Revision = 2 }),
		change("data", func(c *appsv1.ControllerRevision) { c.Data.Raw = []byte("{}") }, "data: Invalid value: field is immutable"),
	)
	valid.Revision, valid.Data.Raw = -1, []byte("{")
	checkstest.InOrder(t, r.Validate(context.Background(), valid),
		"revision: Invalid value: must be greater than or equal to 0",
		"data: Invalid value: error parsing data: unexpected end of JSON input")
	valid.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", Controller: ptr.To(true)}}
	if got := r.Cells(valid)[1]; got != "statefulset.apps/db" {
		t.Errorf("controller shown as %v", got)
	}
}
