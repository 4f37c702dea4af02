package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	cloudprovider "k8s.io/cloud-provider"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/client"
	"skiff/internal/cloud/cloudtest"
	"skiff/internal/cluster/testcluster"
)

// kubeconfig writes one for the test's cluster.
func kubeconfig(t *testing.T, c *testcluster.Cluster) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: c.Config.Host, CertificateAuthorityData: c.Config.CAData}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: c.Config.CertData, ClientKeyData: c.Config.KeyData}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCloudControllerByItself runs two of them with a provider that is not
// linked in against a server: one works, and the other takes over.
func TestCloudControllerByItself(t *testing.T) {
	c := testcluster.Start(t)
	config := filepath.Join(t.TempDir(), "cloud.conf")
	if err := os.WriteFile(config, []byte("region: r"), 0o600); err != nil {
		t.Fatal(err)
	}
	type part struct {
		cloud *cloudtest.Cloud
		stop  context.CancelFunc
		done  chan error
	}
	run := func() *part {
		p := &part{cloud: cloudtest.New(), done: make(chan error, 1)}
		var ctx context.Context
		ctx, p.stop = context.WithCancel(t.Context())
		command := &cloudController{
			kubeconfig: kubeconfig(t, c), provider: "memory", cloudConfig: config, clusterName: "test", leaderElect: true, clusterCIDR: netip.MustParsePrefix("10.244.0.0/16"),
			newProvider: func(name string, _ client.Set, _ *url.URL, config io.Reader) (cloudprovider.Interface, error) {
				if content, err := io.ReadAll(config); err != nil || string(content) != "region: r" || name != "memory" {
					t.Errorf("provider %s is configured by %q, %v", name, content, err)
				}
				return p.cloud, nil
			},
		}
		go func() { p.done <- command.run(ctx, slog.New(slog.DiscardHandler)) }()
		return p
	}
	end := func(p *part) {
		t.Helper()
		p.stop()
		if err := <-p.done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("a cloud controller ended: %v", err)
		}
	}
	holder := func() string {
		lease := &coordinationv1.Lease{}
		if err := c.Client.Get(t.Context(), ctrlclient.ObjectKey{Namespace: "kube-system", Name: "cloud-controller-manager"}, lease); err != nil || lease.Spec.HolderIdentity == nil {
			return ""
		}
		return *lease.Spec.HolderIdentity
	}

	first := run()
	c.Wait(t, "a leader", &coordinationv1.LeaseList{}, func() bool { return holder() != "" })
	before := holder()
	second := run()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{
		PodCIDR: "10.244.0.0/24", PodCIDRs: []string{"10.244.0.0/24"},
		Taints: []corev1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}},
	}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	for _, o := range []ctrlclient.Object{node, service} {
		if err := c.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	c.Wait(t, "the node is initialized and routed to", &corev1.NodeList{}, func() bool {
		if err := c.Client.Get(t.Context(), ctrlclient.ObjectKeyFromObject(node), node); err != nil {
			t.Fatal(err)
		}
		routed := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionFalse
		})
		return node.Spec.ProviderID == "memory://a" && routed
	})
	if node.Labels["topology.kubernetes.io/zone"] != "z" || node.Labels["topology.kubernetes.io/region"] != "r" || node.Labels["node.kubernetes.io/instance-type"] != "large" {
		t.Errorf("labels: %v", node.Labels)
	}
	served := func() bool {
		if err := c.Client.Get(t.Context(), ctrlclient.ObjectKeyFromObject(service), service); err != nil {
			t.Fatal(err)
		}
		return len(service.Status.LoadBalancer.Ingress) == 1
	}
	c.Wait(t, "a load balancer", &corev1.ServiceList{}, served)
	if routes, _ := first.cloud.ListRoutes(t.Context(), "test"); len(routes) != 1 || routes[0].DestinationCIDR != "10.244.0.0/24" {
		t.Errorf("routes: %v", routes)
	}
	if second.cloud.Started() != 0 {
		t.Error("both work at the same time")
	}
	end(first)
	c.Wait(t, "another leader", &coordinationv1.LeaseList{}, func() bool { return holder() != "" && holder() != before })
	if err := c.Client.Delete(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	c.Wait(t, "the end of the service", &corev1.ServiceList{}, func() bool {
		return apierrors.IsNotFound(c.Client.Get(t.Context(), ctrlclient.ObjectKeyFromObject(service), service))
	})
	end(second)
}
