package trustbundle_test

import (
	"fmt"
	"slices"
	"testing"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/trustbundle"
)

// TestPublisher runs the publisher with the rights of its role alone.
func TestPublisher(t *testing.T) {
	c := controllertest.Of(t, testcluster.StartServing(t, "certificates.k8s.io/v1beta1=true", "ClusterTrustBundle"))
	const signer, prefix = "kubernetes.io/kube-apiserver-serving", "kubernetes.io:kube-apiserver-serving:"
	ca := string(c.PKI.CA.PEM)
	bundle := func(name, signer string) *certificatesv1beta1.ClusterTrustBundle {
		return &certificatesv1beta1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1beta1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: ca},
		}
	}
	c.Create(bundle(prefix+"outdated", signer), bundle("a.b:c:other", "a.b/c"), bundle("plain", ""))
	c.Run("kube-apiserver-serving-clustertrustbundle-publisher", func(d controller.Deps) (controller.Runnable, error) {
		return trustbundle.New(d, c.PKI.CA.PEM)
	})
	var published string
	settled := func() bool {
		all := &certificatesv1beta1.ClusterTrustBundleList{}
		if err := c.Client.List(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, b := range all.Items {
			if b.Spec.SignerName == signer && b.Spec.TrustBundle == ca && b.Name != prefix+"outdated" {
				published = b.Name
				continue
			}
			names = append(names, b.Name)
		}
		return len(all.Items) == 3 && slices.Equal(names, []string{"a.b:c:other", "plain"})
	}
	c.Eventually("published, and nothing outdated", &certificatesv1beta1.ClusterTrustBundleList{}, settled)
	if want := len(prefix) + 24; len(published) != want {
		t.Errorf("the name %s has %d characters, not %d", published, len(published), want)
	}

	controllertest.Change(c, bundle(published, ""), func(b *certificatesv1beta1.ClusterTrustBundle) {
		b.Spec.TrustBundle = fmt.Sprintf("changed\n%s", ca)
	})
	c.Eventually("brought back after a change", &certificatesv1beta1.ClusterTrustBundleList{}, settled)
	if err := c.Client.Delete(t.Context(), bundle(published, "")); err != nil {
		t.Fatal(err)
	}
	c.Eventually("brought back after its deletion", &certificatesv1beta1.ClusterTrustBundleList{}, settled)
}
