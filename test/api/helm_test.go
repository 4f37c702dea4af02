package api

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// chartFiles are what the chart has besides what helm create writes: an object
// of a definition that comes with it, and hooks.
var chartFiles = map[string]string{
	"crds/boats.yaml": `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {crew: {type: integer, maximum: 9}}}}}}}
`,
	"templates/boat.yaml": `
apiVersion: example.com/v1
kind: Boat
metadata: {name: {{ include "web.fullname" . }}}
spec: {crew: {{ .Values.crew }}}
`,
	"templates/before.yaml": `
apiVersion: v1
kind: ConfigMap
metadata:
  name: before-{{ .Release.Revision }}
  annotations: {helm.sh/hook: "pre-install,pre-upgrade", helm.sh/hook-weight: "-1", helm.sh/hook-delete-policy: before-hook-creation}
data: {revision: "{{ .Release.Revision }}"}
`,
	"templates/after.yaml": `
apiVersion: batch/v1
kind: Job
metadata:
  name: after
  annotations: {helm.sh/hook: "post-install,post-upgrade,post-rollback", helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded"}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: registry.local/c}]}}}
`,
}

// TestHelm takes a chart through its life with a real helm: the program that
// HELM names, or the one on the path.
func TestHelm(t *testing.T) {
	s := start(t)
	h := newProgram(t, s, "helm")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	finishHooks(ctx, s)

	h.ok("", "create "+h.dir+"/web", "Creating")
	chart := filepath.Join(h.dir, "web")
	for name, text := range chartFiles {
		path := filepath.Join(chart, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h.ok("", "lint "+chart+" --set crew=2", "1 chart(s) linted, 0 chart(s) failed")
	h.ok("", "template web "+chart+" --set crew=2 --include-crds", "kind: Deployment", "kind: Boat")

	h.ok("", "install web "+chart+" --create-namespace --set crew=2", "STATUS: deployed", "REVISION: 1")
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}} // there are no controllers
	if _, err := s.kube.CoreV1().ServiceAccounts("helm").Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	replicas := func() int32 {
		d, err := s.kube.AppsV1().Deployments("helm").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return *d.Spec.Replicas
	}
	if replicas() != 1 || s.boat(t).Spec.Crew != 2 {
		t.Errorf("installed: %d replicas, %+v", replicas(), s.boat(t))
	}
	if _, err := s.kube.CoreV1().ConfigMaps("helm").Get(t.Context(), "before-1", metav1.GetOptions{}); err != nil {
		t.Errorf("a hook before: %v", err)
	}
	if _, err := s.kube.BatchV1().Jobs("helm").Get(t.Context(), "after", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a hook that succeeded: %v", err)
	}
	h.ok("", "test web", "Phase:", "Succeeded")
	h.ok("", "list", "web", "deployed")
	h.ok("", "get all web", "USER-SUPPLIED VALUES:", "crew: 2", "HOOKS:", "name: before-1")

	h.ok("", "upgrade web "+chart+" --set crew=3,replicaCount=3 --dry-run=server", "STATUS: pending-upgrade", "crew: 3")
	h.ok("", "upgrade web "+chart+" --set crew=3,replicaCount=3", "REVISION: 2", "STATUS: deployed")
	if replicas() != 3 || s.boat(t).Spec.Crew != 3 {
		t.Errorf("upgraded: %d replicas, %+v", replicas(), s.boat(t))
	}
	if out, err := h.run("", "upgrade", "web", chart, "-n", "helm", "--set", "crew=10"); err == nil || !strings.Contains(out, "spec.crew in body should be less than or equal to 9") {
		t.Errorf("an upgrade that the schema forbids: %v %s", err, out)
	}
	h.ok("", "rollback web 1", "Rollback was a success")
	if replicas() != 1 || s.boat(t).Spec.Crew != 2 {
		t.Errorf("rolled back: %d replicas, %+v", replicas(), s.boat(t))
	}
	var history []struct {
		Revision            int
		Status, Description string
	}
	if err := json.Unmarshal([]byte(h.ok("", "history web -o json")), &history); err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, r := range history {
		states = append(states, r.Status)
	}
	if got := strings.Join(states, " "); got != "superseded superseded failed deployed" {
		t.Errorf("the history is %s", got)
	}

	h.ok("", "uninstall web", `release "web" uninstalled`)
	if _, err := s.kube.AppsV1().Deployments("helm").Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the end: %v", err)
	}
	if list, err := s.kube.CoreV1().Secrets("helm").List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"}); err != nil || len(list.Items) != 0 {
		t.Errorf("releases that are left: %v, %v", list, err)
	}
	if names := h.ok("", "list -A -q"); strings.TrimSpace(names) != "" {
		t.Errorf("helm still knows %q", names)
	}
}

type boat struct{ Spec struct{ Crew int } }

func (s *server) boat(t *testing.T) *boat {
	t.Helper()
	d, err := dynamic.NewForConfigAndClient(s.Config, s.http)
	if err != nil {
		t.Fatal(err)
	}
	u, err := d.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "boats"}).Namespace("helm").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := u.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	b := &boat{}
	if err := json.Unmarshal(data, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// finishHooks does what controllers and nodes would: jobs and pods succeed at
// once.
func finishHooks(ctx context.Context, s *server) {
	succeed := func(w watch.Interface, err error, do func(watch.Event)) {
		if err != nil {
			s.Fatal(err)
		}
		go func() {
			defer w.Stop()
			for e := range w.ResultChan() {
				if e.Type == watch.Added {
					do(e)
				}
			}
		}()
	}
	patch := func(err error) {
		if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
			s.Errorf("playing the node: %v", err)
		}
	}
	jobs, err := s.kube.BatchV1().Jobs("helm").Watch(ctx, metav1.ListOptions{})
	succeed(jobs, err, func(e watch.Event) {
		now := metav1.Now().Format(time.RFC3339)
		status := `{"status":{"succeeded":1,"startTime":"` + now + `","completionTime":"` + now + `","conditions":[{"type":"SuccessCriteriaMet","status":"True","lastTransitionTime":"` + now + `"},{"type":"Complete","status":"True","lastTransitionTime":"` + now + `"}]}}`
		_, err := s.kube.BatchV1().Jobs("helm").Patch(ctx, e.Object.(*batchv1.Job).Name, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status")
		patch(err)
	})
	pods, err := s.kube.CoreV1().Pods("helm").Watch(ctx, metav1.ListOptions{})
	succeed(pods, err, func(e watch.Event) {
		_, err := s.kube.CoreV1().Pods("helm").Patch(ctx, e.Object.(*corev1.Pod).Name, types.MergePatchType, []byte(`{"status":{"phase":"Succeeded"}}`), metav1.PatchOptions{}, "status")
		patch(err)
	})
}
