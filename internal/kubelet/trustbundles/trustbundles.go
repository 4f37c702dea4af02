// Package trustbundles reads the trust anchors that pods mount from
// ClusterTrustBundles. Nothing is followed before the first pod asks.
package trustbundles

import (
	"bytes"
	"cmp"
	"context"
	"encoding/pem"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// patience is how long a pod waits for the first list of bundles.
const patience = 10 * time.Second

// Store has the bundles of the cluster.
type Store struct {
	cache   cache.Cache
	changed func()
	// seed orders the anchors: the same way as long as the kubelet runs and
	// differently afterwards, so that nobody comes to rely on it.
	seed maphash.Seed

	mu        sync.Mutex
	following bool
}

// New returns a store; changed is called when a bundle has changed.
func New(c cache.Cache, changed func()) *Store {
	return &Store{cache: c, changed: changed, seed: maphash.MakeSeed()}
}

// Anchors returns what the projection selects, PEM, each anchor once.
func (s *Store) Anchors(ctx context.Context, p *v1.ClusterTrustBundleProjection) ([]byte, error) {
	if err := s.follow(ctx); err != nil {
		return nil, err
	}
	if p.Name != nil {
		return s.byName(ctx, *p.Name, ptr.Deref(p.Optional, false))
	}
	return s.bySigner(ctx, p)
}

func (s *Store) byName(ctx context.Context, name string, optional bool) ([]byte, error) {
	b := &certificatesv1beta1.ClusterTrustBundle{}
	if err := s.cache.Get(ctx, client.ObjectKey{Name: name}, b); err != nil {
		if optional && client.IgnoreNotFound(err) == nil {
			return nil, nil
		}
		return nil, fmt.Errorf("while getting ClusterTrustBundle: %w", err)
	}
	return s.merge(b.Spec.TrustBundle), nil
}

// bySigner takes no selector for one that selects nothing, and an empty one for
// one that selects all.
func (s *Store) bySigner(ctx context.Context, p *v1.ClusterTrustBundleProjection) ([]byte, error) {
	selector, err := metav1.LabelSelectorAsSelector(p.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("while parsing label selector: %w", err)
	}
	all := &certificatesv1beta1.ClusterTrustBundleList{}
	if err := s.cache.List(ctx, all, client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, fmt.Errorf("while listing ClusterTrustBundles matching label selector %v: %w", p.LabelSelector, err)
	}
	var found []string
	for i := range all.Items {
		if all.Items[i].Spec.SignerName == ptr.Deref(p.SignerName, "") {
			found = append(found, all.Items[i].Spec.TrustBundle)
		}
	}
	if len(found) == 0 && !ptr.Deref(p.Optional, false) {
		return nil, fmt.Errorf("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	return s.merge(found...), nil
}

// follow starts to tell of changes.
func (s *Store) follow(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.following {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	informer, err := s.cache.GetInformer(ctx, &certificatesv1beta1.ClusterTrustBundle{})
	if err != nil {
		return fmt.Errorf("following ClusterTrustBundles: %w", err)
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(_ any, initial bool) {
			if !initial {
				s.changed()
			}
		},
		UpdateFunc: func(_, _ any) { s.changed() },
		DeleteFunc: func(any) { s.changed() },
	})
	s.following = err == nil
	return err
}

// merge returns the certificates in the bundles, each once and without the text
// around them.
func (s *Store) merge(bundles ...string) []byte {
	var anchors [][]byte
	for _, bundle := range bundles {
		for block, rest := pem.Decode([]byte(bundle)); block != nil; block, rest = pem.Decode(rest) {
			anchors = append(anchors, block.Bytes)
		}
	}
	slices.SortFunc(anchors, func(a, b []byte) int {
		return cmp.Or(cmp.Compare(maphash.Bytes(s.seed, a), maphash.Bytes(s.seed, b)), bytes.Compare(a, b))
	})
	var out []byte
	for _, anchor := range slices.CompactFunc(anchors, bytes.Equal) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: anchor})...)
	}
	return out
}
