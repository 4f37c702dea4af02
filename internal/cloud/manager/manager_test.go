package manager_test

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/fake"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cloud/manager"
	"skiff/internal/cluster/testcluster"
)

type lab struct {
	*testing.T
	*testcluster.Cluster
}

func start(t *testing.T, p cloudprovider.Interface) *lab {
	c := testcluster.Start(t)
	testcluster.Run(t, func(ctx context.Context) error {
		return manager.Run(ctx, manager.Config{
			Provider: p, Set: c.Account, REST: c.Config, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
		})
	})
	return &lab{t, c}
}

func (l *lab) node(name, podCIDR string, ready corev1.ConditionStatus, taints ...corev1.Taint) *corev1.Node {
	l.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints, PodCIDR: podCIDR, PodCIDRs: []string{podCIDR}}}
	if err := l.Client.Create(l.Context(), n); err != nil {
		l.Fatal(err)
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.Now()}}
	if err := l.Client.Status().Patch(l.Context(), n, client.StrategicMergeFrom(&corev1.Node{ObjectMeta: n.ObjectMeta})); err != nil {
		l.Fatal(err)
	}
	return n
}

// until waits until the node is as ok says.
func (l *lab) until(what string, n *corev1.Node, ok func(n *corev1.Node) bool) {
	l.Helper()
	defer func() {
		if l.Failed() {
			l.Logf("the node: %+v", n)
		}
	}()
	l.Wait(l.T, what, &corev1.NodeList{}, func() bool {
		err := l.Client.Get(l.Context(), client.ObjectKeyFromObject(n), n)
		if err != nil && !apierrors.IsNotFound(err) {
			l.Fatal(err)
		}
		if err != nil {
			n.UID = ""
		}
		return ok(n)
	})
}

var uninitialized = corev1.Taint{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}

func known(context.Context, *corev1.Node) (*cloudprovider.InstanceMetadata, error) {
	return &cloudprovider.InstanceMetadata{
		ProviderID: "fake://1", InstanceType: "large", Zone: "z", Region: "r", AdditionalLabels: map[string]string{"rack": "7"},
		NodeAddresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}},
	}, nil
}

func TestNodesAreInitialized(t *testing.T) {
	l := start(t, &fake.Cloud{EnableInstancesV2: true, ExistsByProviderID: true, OverrideInstanceMetadata: known, DisableRoutes: true, DisableLoadBalancers: true})
	n := l.node("a", "10.244.0.0/24", corev1.ConditionTrue, uninitialized, corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoSchedule})
	l.until("initialized", n, func(n *corev1.Node) bool {
		// The provider's address comes first, whichever was there before.
		return n.Spec.ProviderID == "fake://1" && len(n.Status.Addresses) == 2 && n.Status.Addresses[0].Address == "10.0.0.1"
	})
	for key, want := range map[string]string{
		"node.kubernetes.io/instance-type": "large", "topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r",
		"beta.kubernetes.io/instance-type": "large", "failure-domain.beta.kubernetes.io/zone": "z", "rack": "7",
	} {
		if n.Labels[key] != want {
			t.Errorf("label %s is %q", key, n.Labels[key])
		}
	}
	for _, taint := range n.Spec.Taints {
		if taint.Key == uninitialized.Key {
			t.Error("the node is still tainted")
		}
	}
	if n.Status.Addresses[1].Address != "a" {
		t.Errorf("addresses: %v", n.Status.Addresses)
	}
}

func TestOlderProviders(t *testing.T) {
	l := start(t, &fake.Cloud{
		ExtID: map[types.NodeName]string{"a": "1"}, InstanceTypes: map[types.NodeName]string{"a": "small"}, ExistsByProviderID: true,
		Zone: cloudprovider.Zone{FailureDomain: "z", Region: "r"}, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.2"}},
		DisableRoutes: true, DisableLoadBalancers: true,
	})
	n := l.node("a", "10.244.0.0/24", corev1.ConditionTrue, uninitialized)
	l.until("initialized", n, func(n *corev1.Node) bool {
		return n.Spec.ProviderID == "fake://1" && n.Labels["topology.kubernetes.io/zone"] == "z" && n.Status.Addresses[0].Address == "10.0.0.2"
	})
}

func TestNodesWithoutAMachineGo(t *testing.T) {
	l := start(t, &fake.Cloud{EnableInstancesV2: true, ExistsByProviderID: false, OverrideInstanceMetadata: known, DisableRoutes: true})
	kept := l.node("ready", "10.244.0.0/24", corev1.ConditionTrue)
	gone := l.node("gone", "10.244.1.0/24", corev1.ConditionUnknown)
	l.until("removed", gone, func(n *corev1.Node) bool { return n.UID == "" })
	l.until("kept", kept, func(n *corev1.Node) bool { return n.UID != "" })
}

func TestShutDownNodesAreTainted(t *testing.T) {
	l := start(t, &fake.Cloud{EnableInstancesV2: true, ExistsByProviderID: true, NodeShutdown: true, OverrideInstanceMetadata: known, DisableRoutes: true})
	n := l.node("off", "10.244.1.0/24", corev1.ConditionFalse)
	shutdown := func(n *corev1.Node) bool {
		for _, taint := range n.Spec.Taints {
			if taint.Key == "node.cloudprovider.kubernetes.io/shutdown" {
				return true
			}
		}
		return false
	}
	l.until("tainted", n, shutdown)
	before := n.DeepCopy()
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == corev1.NodeReady {
			n.Status.Conditions[i].Status = corev1.ConditionTrue
		}
	}
	if err := l.Client.Status().Patch(t.Context(), n, client.StrategicMergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	l.until("no longer tainted", n, func(n *corev1.Node) bool { return !shutdown(n) })
}

func TestRoutes(t *testing.T) {
	cloud := &fake.Cloud{DisableInstances: true, RouteMap: map[string]*fake.Route{
		"old":   {ClusterName: "kubernetes", Route: cloudprovider.Route{Name: "old", TargetNode: "gone", DestinationCIDR: "10.244.9.0/24"}},
		"other": {ClusterName: "kubernetes", Route: cloudprovider.Route{Name: "other", TargetNode: "gone", DestinationCIDR: "192.168.9.0/24"}},
	}}
	l := start(t, cloud)
	n := l.node("a", "10.244.0.0/24", corev1.ConditionTrue)
	l.until("routed", n, func(n *corev1.Node) bool {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeNetworkUnavailable {
				return c.Status == corev1.ConditionFalse && c.Reason == "RouteCreated"
			}
		}
		return false
	})
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		routes, err := cloud.ListRoutes(ctx, "kubernetes")
		have := map[string]bool{}
		for _, r := range routes {
			have[r.DestinationCIDR] = true
		}
		return len(have) == 2 && have["10.244.0.0/24"] && have["192.168.9.0/24"], err
	})
	if err != nil {
		t.Errorf("the routes that are needed, and those of others: %v", err)
	}
}
