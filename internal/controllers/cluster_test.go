package controllers_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestEndpointsAreMirrored(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	create(t, c, &corev1.Service{
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
	create(t, c, endpoints)
	slices := func() []discoveryv1.EndpointSlice {
		var list discoveryv1.EndpointSliceList
		if err := c.Client.List(ctx, &list, client.InNamespace("default"), client.MatchingLabels{discoveryv1.LabelServiceName: "byhand"}); err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
	eventually(t, c, "a slice for each family", &discoveryv1.EndpointSliceList{}, func() bool { return len(slices()) == 2 })
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
	eventually(t, c, "the changed address", &discoveryv1.EndpointSliceList{}, func() bool {
		all := slices()
		return len(all) == 1 && len(all[0].Endpoints) == 1 && all[0].Endpoints[0].Addresses[0] == "10.1.2.5"
	})
	if err := c.Client.Delete(ctx, endpoints); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "no slice", &discoveryv1.EndpointSliceList{}, func() bool { return len(slices()) == 0 })
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
	create(t, c, token, bootstrapToken("nosign", map[string]string{"usage-bootstrap-signing": "false"}), over)
	info := &corev1.ConfigMap{}
	eventually(t, c, "cluster-info is signed", &corev1.ConfigMapList{}, func() bool {
		return get(t, c, "kube-public", "cluster-info", info).Data["jws-kubeconfig-abcdef"] != ""
	})
	if len(info.Data) != 2 {
		t.Errorf("cluster-info has more than one signature: %v", info.Data)
	}
	eventually(t, c, "the token that is over is removed", &corev1.SecretList{}, func() bool {
		return apierrors.IsNotFound(c.Client.Get(t.Context(), client.ObjectKeyFromObject(over), &corev1.Secret{}))
	})
	if err := c.Client.Delete(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "a removed token signs nothing", &corev1.ConfigMapList{}, func() bool {
		return len(get(t, c, "kube-public", "cluster-info", info).Data) == 1
	})
}

func TestNodesAreToldTheTTL(t *testing.T) {
	c := start(t)
	create(t, c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	eventually(t, c, "the annotation", &corev1.NodeList{}, func() bool {
		return get(t, c, "", "a", &corev1.Node{}).Annotations["node.alpha.kubernetes.io/ttl"] == "0"
	})
}
