package route_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cloud/cloudtest"
	"skiff/internal/cloud/route"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
)

func newController(cloud *cloudtest.Cloud) func(controller.Deps) (controller.Runnable, error) {
	return func(d controller.Deps) (controller.Runnable, error) {
		return route.New(d, cloud, route.Options{ClusterName: "kubernetes", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}})
	}
}

func node(name, cidr string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}}}
}

// routed is what a node's condition says of its routes.
func routed(n *corev1.Node) (status corev1.ConditionStatus, reason string) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			return c.Status, c.Reason
		}
	}
	return "", ""
}

// TestFaults: each node's range leads to it, whatever goes wrong, also when
// ranges go from one node to another.
func TestFaults(t *testing.T) {
	var cloud *cloudtest.Cloud
	var of *controllertest.Keeping
	controllertest.Keeper{
		Name: "routes",
		Run: func(x *controllertest.Keeping) controllertest.Runs {
			if of != x {
				cloud, of = cloudtest.New(), x
				cloud.OnChange(x.Changed)
			}
			return controllertest.Runs{"route-controller": newController(cloud)}
		},
		Main: func() client.Object { return node("w", "10.244.0.0/24") },
		Poke: func(x *controllertest.Keeping, i int) {
			cidr := fmt.Sprintf("10.244.%d.0/24", i%3+1)
			var list corev1.NodeList
			x.List(&list)
			for i := range list.Items {
				if list.Items[i].Spec.PodCIDR == cidr {
					x.Delete(&list.Items[i])
				}
			}
			next := node("", cidr)
			next.GenerateName = "n-"
			x.Create(next)
		},
		Right: func(x *controllertest.Keeping) bool {
			var list corev1.NodeList
			x.List(&list)
			want := map[string]string{}
			for i := range list.Items {
				n := &list.Items[i]
				want[n.Spec.PodCIDR] = n.Name
				if status, _ := routed(n); status != corev1.ConditionFalse {
					return false
				}
			}
			return maps.Equal(cloud.Targets(), want)
		},
		Watched: &corev1.NodeList{}, Writes: 1,
	}.Keep(t)
}

// TestFailure: what a provider refuses is said of the node, and tried again.
func TestFailure(t *testing.T) {
	cloud := cloudtest.New()
	c := controllertest.Start(t)
	ctx := context.Background()
	blackhole := &cloudprovider.Route{TargetNode: types.NodeName("n"), DestinationCIDR: "10.244.1.0/24", Blackhole: true}
	if err := cloud.CreateRoute(ctx, "kubernetes", "", blackhole); err != nil {
		t.Fatal(err)
	}
	cloud.Fail(errors.New("quota"))
	c.Run("route-controller", newController(cloud))
	n := node("n", "10.244.1.0/24")
	c.Create(n)
	is := func(status corev1.ConditionStatus, reason string) {
		t.Helper()
		c.Eventually(reason, &corev1.NodeList{}, func() bool {
			s, r := routed(controllertest.Get(c, "", "n", n))
			return s == status && r == reason
		})
	}
	is(corev1.ConditionTrue, "NoRouteCreated")
	want := fmt.Sprintf("Could not create route %s 10.244.1.0/24 for node n: quota", n.UID)
	if got := c.WaitForEvent("", "n", "FailedToCreateRoute"); got != want {
		t.Errorf("said %q, want %q", got, want)
	}
	cloud.Fail(nil)
	is(corev1.ConditionFalse, "RouteCreated")
	routes, err := cloud.ListRoutes(ctx, "kubernetes")
	if err != nil || len(routes) != 1 || routes[0].Blackhole {
		t.Errorf("routes: %+v, %v", routes, err)
	}
}
