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
	"sigs.k8s.io/controller-runtime/pkg/client"

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
		lease := &coordinationv1.Lease{}
		err := c.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: name}, lease)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		now := metav1.NowMicro()
		metav1.SetMetaDataLabel(&lease.ObjectMeta, "apiserver.kubernetes.io/identity", "kube-apiserver")
		metav1.SetMetaDataLabel(&lease.ObjectMeta, corev1.LabelHostname, host)
		lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &holder, ptr.To[int32](serverLeaseSeconds), &now
		if err == nil {
			return c.Update(ctx, lease)
		}
		lease.Namespace, lease.Name = metav1.NamespaceSystem, name
		return c.Create(ctx, lease)
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
