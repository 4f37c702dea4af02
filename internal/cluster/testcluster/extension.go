package testcluster

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster"
)

// Extension runs another API server that trusts c's front proxy, with the
// definition as its own resource, and lets it answer for the definition's group
// version in c. It returns when c shows that the server is available.
func (c *Cluster) Extension(t testing.TB, d *apiextensionsv1.CustomResourceDefinition) (*Cluster, *apiregistrationv1.APIService) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "pki"), os.DirFS(filepath.Join(c.ControlPlane.Config.DataDir, "pki"))); err != nil {
		t.Fatal(err)
	}
	const name = "extension"
	e := StartWith(t, cluster.ServerConfig{DataDir: dir, TLSNames: []string{name + ".default.svc"}})
	ctx := t.Context()
	if err := e.Client.Create(ctx, d.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	e.Wait(t, d.Name+" established", &apiextensionsv1.CustomResourceDefinitionList{}, func() bool {
		now := &apiextensionsv1.CustomResourceDefinition{}
		if err := e.Client.Get(ctx, client.ObjectKey{Name: d.Name}, now); err != nil {
			return false
		}
		for _, condition := range now.Status.Conditions {
			if condition.Type == apiextensionsv1.Established {
				return condition.Status == apiextensionsv1.ConditionTrue
			}
		}
		return false
	})
	port := int32(e.Address.Port())
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	service.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost", Ports: []corev1.ServicePort{{Port: port}}}
	if err := c.Client.Create(ctx, service); err != nil {
		t.Fatal(err)
	}
	version := d.Spec.Versions[0].Name
	s := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: version + "." + d.Spec.Group}}
	s.Spec = apiregistrationv1.APIServiceSpec{
		Group: d.Spec.Group, Version: version, GroupPriorityMinimum: 2000, VersionPriority: 10, CABundle: e.PKI.CA.PEM,
		Service: &apiregistrationv1.ServiceReference{Namespace: service.Namespace, Name: name, Port: &port},
	}
	if err := c.Client.Create(ctx, s); err != nil {
		t.Fatal(err)
	}
	c.WaitAvailable(t, s, apiregistrationv1.ConditionTrue)
	return e, s
}

// WaitAvailable waits until the condition Available of s has the status.
func (c *Cluster) WaitAvailable(t testing.TB, s *apiregistrationv1.APIService, status apiregistrationv1.ConditionStatus) {
	t.Helper()
	c.Wait(t, "Available="+string(status)+" of "+s.Name, &apiregistrationv1.APIServiceList{}, func() bool {
		if err := c.Client.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil {
			return false
		}
		for _, condition := range s.Status.Conditions {
			if condition.Type == apiregistrationv1.Available {
				return condition.Status == status
			}
		}
		return false
	})
}
