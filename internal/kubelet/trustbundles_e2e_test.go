//go:build e2e

package kubelet_test

import (
	"errors"
	"strings"
	"testing"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
)

// TestTrustBundles has a pod that waits for its bundle, gets it, and sees its
// changes, with no more rights than a node has.
func TestTrustBundles(t *testing.T) {
	n := startOn(t, testcluster.StartServing(t, "certificates.k8s.io/v1beta1=true", "ClusterTrustBundle", "ClusterTrustBundleProjection"))
	c := script("c", "exec sleep 1000")
	c.VolumeMounts = []v1.VolumeMount{{Name: "roots", MountPath: "/roots"}}
	p := pod("trusting", c)
	p.Spec.Volumes = []v1.Volume{{Name: "roots", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{SignerName: ptr.To("a.b/c"), LabelSelector: &metav1.LabelSelector{}, Path: "signer.pem"}},
		{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{Name: ptr.To("none"), Optional: ptr.To(true), Path: "optional.pem"}},
	}}}}}
	n.create(t, p)
	eventually(t, func() error {
		events := &v1.EventList{}
		if err := n.Client.List(t.Context(), events, client.MatchingFields{"involvedObject.name": p.Name}); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "FailedMount" && strings.HasSuffix(e.Message, "combination of signerName and labelSelector matched zero ClusterTrustBundles") {
				return nil
			}
		}
		return errors.New("nobody says that there is no bundle")
	})

	ca := string(n.PKI.CA.PEM)
	bundle := &certificatesv1beta1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: "a.b:c:x"}, Spec: certificatesv1beta1.ClusterTrustBundleSpec{SignerName: "a.b/c", TrustBundle: "our own\n" + ca},
	}
	if err := n.Client.Create(t.Context(), bundle); err != nil {
		t.Fatal(err)
	}
	got := n.await(t, p.Name, ready)
	const dir = "kubernetes.io~projected/roots/"
	n.shows(t, got, dir+"signer.pem", ca)
	n.shows(t, got, dir+"optional.pem", "")

	named := &certificatesv1beta1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: certificatesv1beta1.ClusterTrustBundleSpec{TrustBundle: ca}}
	if err := n.Client.Create(t.Context(), named); err != nil {
		t.Fatal(err)
	}
	n.shows(t, got, dir+"optional.pem", ca)
	if err := n.Client.Delete(t.Context(), named); err != nil {
		t.Fatal(err)
	}
	n.shows(t, got, dir+"optional.pem", "")
}
