package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/identity"
)

// How long the lease of a server lasts, and how often it is renewed.
const (
	serverLeaseSeconds = 3600
	serverLeaseRenewal = 10 * time.Second
)

// serverLeaseName returns the name of the lease of the server on a host, as
// upstream's.
func serverLeaseName(host string) string {
	sum := sha256.Sum256([]byte(host))
	return "apiserver-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// tellPresence keeps a lease in kube-system by which others know that this API
// server is there (KEP-1965), until ctx ends.
func (p *ControlPlane) tellPresence(ctx context.Context) {
	c := p.Clients.Set(ctx, identity.Loopback()).Client
	host := p.Config.Node.Name
	name := serverLeaseName(host)
	holder := name + "_" + uuid.NewString()
	renew := func() error {
		now := metav1.NowMicro()
		lease := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name, Labels: map[string]string{
				"apiserver.kubernetes.io/identity": "kube-apiserver", corev1.LabelHostname: host,
			}},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: ptr.To[int32](serverLeaseSeconds), RenewTime: &now},
		}
		return ensure(ctx, c, lease, func(have *coordinationv1.Lease) bool {
			for k, v := range lease.Labels {
				metav1.SetMetaDataLabel(&have.ObjectMeta, k, v)
			}
			have.Spec.HolderIdentity, have.Spec.LeaseDurationSeconds, have.Spec.RenewTime = &holder, lease.Spec.LeaseDurationSeconds, &now
			return false
		})
	}
	ticker := time.NewTicker(serverLeaseRenewal)
	defer ticker.Stop()
	for {
		if err := renew(); err != nil && ctx.Err() == nil {
			p.log.Warn("the lease of this API server is not renewed", "error", fmt.Errorf("lease %s: %w", name, err))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
