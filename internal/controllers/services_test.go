package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/endpoints"
	"skiff/internal/controllers/endpointslice"
	"skiff/internal/controllers/tainteviction"
)

// TestServiceRules has Services whose pods are ready, not ready and going, and
// what is said of them in EndpointSlices and Endpoints.
func TestServiceRules(t *testing.T) {
	c := controllertest.Start(t)
	c.Run("endpointslice-controller", endpointslice.New)
	c.Run("endpoint-controller", endpoints.New)
	for i, zone := range []string{"z0", "z1"} {
		c.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i), Labels: map[string]string{corev1.LabelTopologyZone: zone}}})
	}
	pod := func(name, node string, ready corev1.ConditionStatus, port int32) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: appLabels, Finalizers: []string{"example.com/hold"}}, Spec: corev1.PodSpec{NodeName: node,
			Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port}}}}}}
		c.Create(p)
		p.Status.Phase, p.Status.PodIP = corev1.PodRunning, fmt.Sprint("10.0.0.", port-8000)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		if err := c.Client.Status().Update(context.Background(), p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pod("ready", "n0", corev1.ConditionTrue, 8001)
	pod("sick", "n1", corev1.ConditionFalse, 8002)
	going := pod("going", "n1", corev1.ConditionTrue, 8003)
	c.Delete(going)
	service := func(name string, port intstr.IntOrString, change func(*corev1.ServiceSpec)) {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Selector: appLabels, Ports: []corev1.ServicePort{{Name: "p", Port: 80, TargetPort: port}}}}
		change(&s.Spec)
		c.Create(s)
	}
	number, named := intstr.FromInt32(8080), intstr.FromString("web")
	for _, test := range []struct {
		name   string
		port   intstr.IntOrString
		change func(*corev1.ServiceSpec)
		// slices and endpoints are "address:port flags" each; the flags are ready,
		// serving, terminating and hints.
		slices, endpoints string
	}{
		{"plain", number, func(*corev1.ServiceSpec) {}, "10.0.0.1:8080 rs,10.0.0.2:8080 ,10.0.0.3:8080 st", "10.0.0.1:8080,!10.0.0.2:8080"},
		{"named-ports", named, func(*corev1.ServiceSpec) {}, "10.0.0.1:8001 rs,10.0.0.2:8002 ,10.0.0.3:8003 st", "10.0.0.1:8001,!10.0.0.2:8002"},
		{"not-ready-too", number, func(s *corev1.ServiceSpec) { s.PublishNotReadyAddresses = true },
			"10.0.0.1:8080 rs,10.0.0.2:8080 r,10.0.0.3:8080 rst", "10.0.0.1:8080,10.0.0.2:8080,10.0.0.3:8080"},
		{"headless", number, func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone }, "10.0.0.1:8080 rs,10.0.0.2:8080 ,10.0.0.3:8080 st", "10.0.0.1:8080,!10.0.0.2:8080"},
		// Hints are for endpoints that are ready.
		{"same-zone", number, func(s *corev1.ServiceSpec) {
			s.TrafficDistribution = ptr.To(corev1.ServiceTrafficDistributionPreferSameZone)
		},
			"10.0.0.1:8080 rs z0,10.0.0.2:8080 ,10.0.0.3:8080 st", "10.0.0.1:8080,!10.0.0.2:8080"},
		{"close", number, func(s *corev1.ServiceSpec) {
			s.TrafficDistribution = ptr.To(corev1.ServiceTrafficDistributionPreferClose)
		},
			"10.0.0.1:8080 rs z0,10.0.0.2:8080 ,10.0.0.3:8080 st", "10.0.0.1:8080,!10.0.0.2:8080"},
		{"same-node", number, func(s *corev1.ServiceSpec) {
			s.TrafficDistribution = ptr.To(corev1.ServiceTrafficDistributionPreferSameNode)
		},
			"10.0.0.1:8080 rs z0 n0,10.0.0.2:8080 ,10.0.0.3:8080 st", "10.0.0.1:8080,!10.0.0.2:8080"},
	} {
		service(test.name, test.port, test.change)
		said := func() string {
			var list discoveryv1.EndpointSliceList
			c.List(&list, client.InNamespace("default"), client.MatchingLabels{discoveryv1.LabelServiceName: test.name})
			var all []string
			for _, s := range list.Items {
				for _, e := range s.Endpoints {
					flags := ""
					for flag, set := range map[string]*bool{"r": e.Conditions.Ready, "s": e.Conditions.Serving, "t": e.Conditions.Terminating} {
						if ptr.Deref(set, false) {
							flags += flag
						}
					}
					letters := strings.Split(flags, "")
					slices.Sort(letters)
					text := fmt.Sprintf("%s:%d %s", e.Addresses[0], *s.Ports[0].Port, strings.Join(letters, ""))
					if e.Hints != nil {
						for _, z := range e.Hints.ForZones {
							text += " " + z.Name
						}
						for _, n := range e.Hints.ForNodes {
							text += " " + n.Name
						}
					}
					all = append(all, text)
				}
			}
			slices.Sort(all)
			return strings.Join(all, ",")
		}
		published := func() string {
			e := &corev1.Endpoints{} //nolint:staticcheck // SA1019: the API is served
			if err := c.Client.Get(context.Background(), client.ObjectKey{Namespace: "default", Name: test.name}, e); err != nil {
				return err.Error()
			}
			var all []string
			for _, s := range e.Subsets {
				for _, a := range s.Addresses {
					all = append(all, fmt.Sprintf("%s:%d", a.IP, s.Ports[0].Port))
				}
				for _, a := range s.NotReadyAddresses {
					all = append(all, fmt.Sprintf("!%s:%d", a.IP, s.Ports[0].Port))
				}
			}
			slices.SortFunc(all, func(a, b string) int { return strings.Compare(strings.TrimPrefix(a, "!"), strings.TrimPrefix(b, "!")) })
			return strings.Join(all, ",")
		}
		t.Run(test.name, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("slices %q, want %q; endpoints %q, want %q", said(), test.slices, published(), test.endpoints)
				}
			}()
			c.Eventually(test.name, &discoveryv1.EndpointSliceList{}, func() bool { return said() == test.slices })
			c.Eventually(test.name, &corev1.EndpointsList{}, func() bool { return published() == test.endpoints }) //nolint:staticcheck // SA1019: the API is served
		})
	}
}

// TestTaintsEvict: pods leave tainted nodes as their tolerations say.
func TestTaintsEvict(t *testing.T) {
	clk := &controllertest.JumpingClock{}
	c := controllertest.StartAt(t, clk)
	c.Run("node-controller", tainteviction.New)
	c.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	taint := corev1.Taint{Key: "example.com/fire", Effect: corev1.TaintEffectNoExecute}
	tolerate := func(seconds *int64) []corev1.Toleration {
		return []corev1.Toleration{{Key: taint.Key, Operator: corev1.TolerationOpExists, Effect: taint.Effect, TolerationSeconds: seconds}}
	}
	for name, tolerations := range map[string][]corev1.Toleration{"none": nil, "always": tolerate(nil), "while": tolerate(ptr.To[int64](600)), "not-at-all": tolerate(ptr.To[int64](-1))} {
		c.Create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: "n", Tolerations: tolerations, Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	}
	leaves := func(name string) {
		t.Helper()
		c.Eventually(name+" leaves", &corev1.PodList{}, func() bool {
			p := &corev1.Pod{}
			err := c.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, p)
			return apierrors.IsNotFound(err) || err == nil && p.DeletionTimestamp != nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.DisruptionTarget && c.Reason == "DeletionByTaintManager" && c.Message == "Taint manager: deleting due to NoExecute taint"
			})
		})
		if m := c.WaitForEvent("default", name, "TaintManagerEviction"); m != "Marking for deletion Pod default/"+name {
			t.Errorf("event %q", m)
		}
	}
	set := func(taints ...corev1.Taint) {
		controllertest.Change(c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, func(n *corev1.Node) { n.Spec.Taints = taints })
	}
	set(taint)
	leaves("none")
	leaves("not-at-all")
	// A fire that is out in time does no harm.
	set()
	if m := c.WaitForEvent("default", "while", "TaintManagerEviction"); m != "Cancelling deletion of Pod default/while" {
		t.Errorf("event %q", m)
	}
	set(taint)
	jumps := 0
	c.Eventually("its time is over", &corev1.PodList{}, func() bool {
		p := controllertest.Get(c, "default", "while", &corev1.Pod{})
		if p.DeletionTimestamp != nil {
			return true
		}
		// Timers run in real time: something has to wake the controller.
		clk.Jump(601 * time.Second)
		jumps++
		controllertest.Change(c, p, func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: fmt.Sprint("other-", jumps), Operator: corev1.TolerationOpExists})
		})
		return false
	})
	if p := controllertest.Get(c, "default", "always", &corev1.Pod{}); p.DeletionTimestamp != nil {
		t.Error("a pod that tolerates the taint left")
	}
}
