package service_test

import (
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cloud-provider/service/helpers"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cloud/cloudtest"
	"skiff/internal/cloud/service"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
)

// TestFaults: a Service has a load balancer with all nodes as its hosts, whatever
// goes wrong, and there is no other.
func TestFaults(t *testing.T) {
	var cloud *cloudtest.Cloud
	var of *controllertest.Keeping
	controllertest.Keeper{
		Name: "balancers",
		Run: func(x *controllertest.Keeping) controllertest.Runs {
			if of != x {
				cloud, of = cloudtest.New(), x
				cloud.OnChange(x.Changed)
			}
			return controllertest.Runs{"service-controller": func(d controller.Deps) (controller.Runnable, error) {
				return service.New(service.Config{Client: d.Set, Log: d.Log, Balancer: cloud}), nil
			}}
		},
		Main: func() ctrlclient.Object {
			return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "w"},
				Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}}}
		},
		// A node comes or goes, or the Service changes.
		Poke: func(x *controllertest.Keeping, i int) {
			if i%2 == 1 {
				controllertest.Change(x.Cluster, x.Object().(*corev1.Service), func(s *corev1.Service) { s.Spec.Ports[0].Port = int32(80 + i) })
				return
			}
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
			err := x.Client.Create(t.Context(), n)
			if apierrors.IsAlreadyExists(err) {
				err = x.Client.Delete(t.Context(), n)
			}
			if err != nil {
				x.T.Fatal(err)
			}
		},
		Right: func(x *controllertest.Keeping) bool {
			s := x.Object().(*corev1.Service)
			var nodes corev1.NodeList
			x.List(&nodes)
			hosts := []string{}
			for _, n := range nodes.Items {
				hosts = append(hosts, n.Name)
			}
			return helpers.HasLBFinalizer(s) && len(s.Status.LoadBalancer.Ingress) == 1 &&
				maps.EqualFunc(cloud.Balancers(), map[string][]string{"default/w": hosts}, slices.Equal)
		},
		Watched: &corev1.ServiceList{}, Also: &corev1.NodeList{},
		// Two Events.
		Writes: 3,
	}.Keep(t)
}
