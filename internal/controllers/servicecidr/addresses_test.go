package servicecidr_test

import (
	"context"
	"fmt"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/servicecidr"
	"skiff/internal/identity"
)

// TestRepair has IPAddresses that are gone, of nobody, somebody else's and not
// labelled as their Services' should be, and what is said of that.
func TestRepair(t *testing.T) {
	c := controllertest.Start(t)
	addresses := map[string]string{}
	service := func(name string) (ip string) {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		c.Create(s)
		addresses[s.Spec.ClusterIP] = name
		return s.Spec.ClusterIP
	}
	managed := map[string]string{networkingv1.LabelIPAddressFamily: "IPv4", networkingv1.LabelManagedBy: "ipallocator.k8s.io"}
	put := func(ip string, ref networkingv1.ParentReference, labels map[string]string) {
		c.Delete(&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ip}})
		c.Create(&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: labels}, Spec: networkingv1.IPAddressSpec{ParentRef: &ref}})
	}
	gone, lost, foreign, plain := service("gone"), service("lost"), service("foreign"), service("plain")
	c.Delete(&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: gone}})
	put(lost, networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "nobody"}, managed)
	put(foreign, networkingv1.ParentReference{Group: "example.com", Resource: "gateways", Namespace: "default", Name: "g"}, nil)
	put(plain, networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "plain"}, nil)

	c.RunOver(c.Set(identity.Loopback()), "", servicecidr.NewAddresses)
	c.Eventually("all addresses are the Services'", &networkingv1.IPAddressList{}, func() bool {
		for ip, name := range addresses {
			var a networkingv1.IPAddress
			err := c.Client.Get(context.Background(), client.ObjectKey{Name: ip}, &a)
			if err != nil || a.Spec.ParentRef.Name != name || a.Spec.ParentRef.Resource != "services" || !maps.Equal(a.Labels, managed) {
				return false
			}
		}
		return true
	})
	if got, want := c.WaitForEvent("default", "gone", "ClusterIPNotAllocated"), fmt.Sprintf("Cluster IP [IPv4]: %s is not allocated; repairing", gone); got != want {
		t.Errorf("said %q, want %q", got, want)
	}
	if got, want := c.WaitForEvent("default", "foreign", "ClusterIPNotAllocated"), fmt.Sprintf("the ClusterIP [IPv4]: %s for Service default/foreign has a wrong reference; repairing", foreign); got != want {
		t.Errorf("said %q, want %q", got, want)
	}
}
