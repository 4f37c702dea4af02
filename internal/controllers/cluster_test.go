package controllers_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
)

func TestEndpointsAreMirrored(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	c.Create(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "byhand"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	})
	endpoints := &corev1.Endpoints{ //nolint:staticcheck // SA1019: the API is served
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "byhand", Labels: map[string]string{"team": "a"},
			Annotations: map[string]string{"kept": "yes", corev1.EndpointsLastChangeTriggerTime: "2020-01-01T00:00:00Z"},
		},
		Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // SA1019: the API is served
			Addresses:         []corev1.EndpointAddress{{IP: "10.1.2.3", Hostname: "a"}, {IP: "2001:db8::1"}},
			NotReadyAddresses: []corev1.EndpointAddress{{IP: "10.1.2.4"}},
			Ports:             []corev1.EndpointPort{{Name: "http", Port: 80}},
		}},
	}
	c.Create(endpoints)
	slices := func() []discoveryv1.EndpointSlice {
		var list discoveryv1.EndpointSliceList
		if err := c.Client.List(ctx, &list, client.InNamespace("default"), client.MatchingLabels{discoveryv1.LabelServiceName: "byhand"}); err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
	c.Eventually("a slice for each family", &discoveryv1.EndpointSliceList{}, func() bool { return len(slices()) == 2 })
	for _, s := range slices() {
		if s.Labels[discoveryv1.LabelManagedBy] != "endpointslicemirroring-controller.k8s.io" || s.Labels["team"] != "a" || len(s.Annotations) != 1 ||
			s.OwnerReferences[0].Kind != "Endpoints" || *s.Ports[0].Port != 80 {
			t.Errorf("the slice: %+v", s)
		}
		if s.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		if len(s.Endpoints) != 2 || *s.Endpoints[0].Hostname != "a" || !*s.Endpoints[0].Conditions.Ready || *s.Endpoints[1].Conditions.Ready {
			t.Errorf("its endpoints: %+v", s.Endpoints)
		}
	}
	endpoints.Subsets[0].Addresses, endpoints.Subsets[0].NotReadyAddresses = []corev1.EndpointAddress{{IP: "10.1.2.5"}}, nil
	if err := c.Client.Update(ctx, endpoints); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the changed address", &discoveryv1.EndpointSliceList{}, func() bool {
		all := slices()
		return len(all) == 1 && len(all[0].Endpoints) == 1 && all[0].Endpoints[0].Addresses[0] == "10.1.2.5"
	})
	if err := c.Client.Delete(ctx, endpoints); err != nil {
		t.Fatal(err)
	}
	c.Eventually("no slice", &discoveryv1.EndpointSliceList{}, func() bool { return len(slices()) == 0 })
}

func bootstrapToken(id string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id}, Type: "bootstrap.kubernetes.io/token",
		StringData: map[string]string{"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"},
	}
	for k, v := range data {
		s.StringData[k] = v
	}
	return s
}

func TestBootstrapTokens(t *testing.T) {
	c := start(t)
	over := bootstrapToken("zzzzzz", map[string]string{"expiration": "2020-01-01T00:00:00Z"})
	token := bootstrapToken("abcdef", map[string]string{"expiration": time.Now().Add(time.Hour).Format(time.RFC3339)})
	c.Create(token, bootstrapToken("nosign", map[string]string{"usage-bootstrap-signing": "false"}), over)
	info := &corev1.ConfigMap{}
	c.Eventually("cluster-info is signed", &corev1.ConfigMapList{}, func() bool {
		return controllertest.Get(c, "kube-public", "cluster-info", info).Data["jws-kubeconfig-abcdef"] != ""
	})
	if len(info.Data) != 2 {
		t.Errorf("cluster-info has more than one signature: %v", info.Data)
	}
	c.Eventually("the token that is over is removed", &corev1.SecretList{}, func() bool {
		return apierrors.IsNotFound(c.Client.Get(t.Context(), client.ObjectKeyFromObject(over), &corev1.Secret{}))
	})
	if err := c.Client.Delete(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	c.Eventually("a removed token signs nothing", &corev1.ConfigMapList{}, func() bool {
		return len(controllertest.Get(c, "kube-public", "cluster-info", info).Data) == 1
	})
}

func TestNodesAreToldTheTTL(t *testing.T) {
	c := start(t)
	c.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	c.Eventually("the annotation", &corev1.NodeList{}, func() bool {
		return controllertest.Get(c, "", "a", &corev1.Node{}).Annotations["node.alpha.kubernetes.io/ttl"] == "0"
	})
}

// soon waits for what no event of an object tells.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func TestServiceAddresses(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	service := func(name, ip string) *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}},
		}
	}
	address := func(ip string) *networkingv1.IPAddress {
		a := &networkingv1.IPAddress{}
		if err := c.Client.Get(ctx, types.NamespacedName{Name: ip}, a); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		return a
	}
	first := service("first", "")
	c.Create(first)
	ip := first.Spec.ClusterIP
	if a := address(ip); a.Spec.ParentRef == nil || *a.Spec.ParentRef != (networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "first"}) || a.UID == "" {
		t.Errorf("the Service's IPAddress: %+v", a)
	}
	// An address is the next Service's as soon as the one before is gone.
	if err := c.Client.Delete(ctx, first); err != nil {
		t.Fatal(err)
	}
	second := service("second", ip)
	soon(t, "the address is free", func() bool {
		err := c.Client.Create(ctx, second)
		if err != nil && !apierrors.IsInvalid(err) {
			t.Fatal(err)
		}
		return err == nil
	})
	if a := address(ip); a.Spec.ParentRef.Name != "second" {
		t.Errorf("the address's owner: %+v", a.Spec.ParentRef)
	}
	// A Service that came by another way gets its IPAddress made good.
	if err := c.Client.Delete(ctx, address(ip)); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the IPAddress is made anew", &networkingv1.IPAddressList{}, func() bool { return address(ip).Name != "" })
	if err := c.Client.Delete(ctx, second); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the IPAddress goes with the Service", &networkingv1.IPAddressList{}, func() bool { return address(ip).Name == "" })

	// Somebody else's address is not given away.
	c.Create(&networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Group: "example.com", Resource: "gateways", Name: "x"}},
	})
	if err := c.Client.Create(ctx, service("third", ip)); !apierrors.IsInvalid(err) {
		t.Errorf("an address that is somebody else's: %v", err)
	}

	// Addresses of another range are given as long as it is in force.
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.77.0.0/24"}}}
	c.Create(more)
	fourth := service("fourth", "10.77.0.9")
	soon(t, "the range is in force", func() bool {
		err := c.Client.Create(ctx, fourth)
		if err != nil && !apierrors.IsInvalid(err) {
			t.Fatal(err)
		}
		return err == nil
	})
	if err := c.Client.Delete(ctx, more); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the range cannot go", &networkingv1.ServiceCIDRList{}, func() bool {
		cond := meta.FindStatusCondition(controllertest.Get(c, "", "more", more).Status.Conditions, "Ready")
		return cond != nil && cond.Reason == "Terminating"
	})
	if err := c.Client.Create(ctx, service("fifth", "10.77.0.10")); !apierrors.IsInvalid(err) {
		t.Errorf("an address of a range that is going: %v", err)
	}
	if err := c.Client.Delete(ctx, fourth); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the range goes", &networkingv1.ServiceCIDRList{}, func() bool {
		return apierrors.IsNotFound(c.Client.Get(ctx, client.ObjectKeyFromObject(more), more))
	})
}
