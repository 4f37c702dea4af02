package podsecurity

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apis"
	"skiff/internal/apiserver/admission"
	"skiff/internal/identity"
)

// namespaces reads namespaces by name; one that it does not know cannot be read.
type namespaces map[string]*corev1.Namespace

func (n namespaces) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	found := n[key.Name]
	if found == nil {
		return errors.New("unreadable")
	}
	found.DeepCopyInto(obj.(*corev1.Namespace))
	return nil
}

func (namespaces) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// TestExemptionsAndErrors: who is let through is counted, and what is wrong
// with policies, which are then taken to be the strictest.
func TestExemptionsAndErrors(t *testing.T) {
	wrong := &corev1.Namespace{}
	wrong.Labels = map[string]string{labelPrefix + "enforce": "some"}
	m := NewMetrics(prometheus.NewRegistry())
	p, err := New(namespaces{"wrong": wrong}, Configuration{Exemptions: Exemptions{Usernames: []string{"ann"}, Namespaces: []string{"free"}, RuntimeClasses: []string{"vm"}}}, m)
	if err != nil {
		t.Fatal(err)
	}
	var notes []string
	write := func(namespace, user string, class *string) error {
		pod := &corev1.Pod{Spec: corev1.PodSpec{RuntimeClassName: class, HostNetwork: true}}
		return p.Validate(t.Context(), &admission.Attributes{
			Operation: admission.Create, Resource: &apis.Resource{Names: apis.Names{Resource: "pods"}}, Namespace: namespace, Object: pod,
			User: &identity.User{Name: user}, Annotate: func(key, value string) { notes = append(notes, key+"="+value) },
		})
	}
	for name, c := range map[string]struct {
		namespace, user string
		class           *string
		refused         string
	}{
		"namespace":     {"free", "bob", nil, ""},
		"user":          {"wrong", "ann", nil, ""},
		"runtime class": {"wrong", "bob", ptr.To("vm"), ""},
		"wrong labels":  {"wrong", "bob", nil, `violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)`},
		"unreadable":    {"lost", "bob", nil, "unreadable"},
	} {
		if err := write(c.namespace, c.user, c.class); (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: %v, want %q", name, err, c.refused)
		}
	}
	value := func(c *prometheus.CounterVec, labels ...string) float64 {
		var out dto.Metric
		if err := c.WithLabelValues(labels...).Write(&out); err != nil {
			t.Fatal(err)
		}
		return out.GetCounter().GetValue()
	}
	if n := value(m.exemptions, "create", "pod", ""); n != 3 {
		t.Errorf("%v exemptions", n)
	}
	if fatal, others := value(m.errors, "true", "create", "pod", ""), value(m.errors, "false", "create", "pod", ""); fatal != 1 || others != 2 {
		t.Errorf("%v fatal errors and %v others", fatal, others)
	}
	const why = labelPrefix + `error=Failed to parse policy: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "some": must be one of privileged, baseline, restricted`
	if !slices.Contains(notes, why) {
		t.Errorf("the audit log says %q", notes)
	}
}
