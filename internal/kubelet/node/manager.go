package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	goruntime "runtime"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Times of upstream's defaults (nodeStatusUpdateFrequency,
// nodeStatusReportFrequency, nodeLeaseDurationSeconds).
const (
	heartbeat     = 10 * time.Second
	reportEvery   = 5 * time.Minute
	leaseDuration = int32(40) // seconds
	retryDelay    = time.Second
)

// Manager keeps the node's object and lease.
type Manager struct {
	Name       string
	Labels     map[string]string
	Taints     []v1.Taint
	ProviderID string
	Client     client.WithWatch
	Clock      clock.WithTicker
	Log        *slog.Logger
	// Facts is asked for each time the status is looked at.
	Facts func(ctx context.Context) Facts

	mu       sync.Mutex
	node     *v1.Node
	reported time.Time
	lease    *coordinationv1.Lease
	kicked   chan struct{}
}

// Init must be called once before use.
func (m *Manager) Init() *Manager {
	m.kicked = make(chan struct{}, 1)
	return m
}

// Kick asks for the status to be looked at now.
func (m *Manager) Kick() {
	select {
	case m.kicked <- struct{}{}:
	default:
	}
}

// Node returns the node's object as last seen, or nil before registration.
func (m *Manager) Node() *v1.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

// Seen takes the node's object from an event.
func (m *Manager) Seen(n *v1.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node = n
}

// Run registers the node and keeps it until ctx ends. registered is called
// once, when the node is in the API.
func (m *Manager) Run(ctx context.Context, registered func()) {
	for {
		err := m.register(ctx)
		if err == nil {
			break
		}
		m.Log.Warn("registering node", "node", m.Name, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-m.Clock.After(retryDelay):
		}
	}
	registered()
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Add(1)
	go func() {
		defer watching.Done()
		m.watch(ctx)
	}()
	ticker := m.Clock.NewTicker(heartbeat)
	defer ticker.Stop()
	m.beat(ctx, true)
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.kicked:
			m.beat(ctx, false)
		case <-ticker.C():
			m.beat(ctx, true)
		}
	}
}

// watch follows the node's own object: its labels and taints are others' to
// change.
func (m *Manager) watch(ctx context.Context) {
	for ctx.Err() == nil {
		w, err := m.Client.Watch(ctx, &v1.NodeList{}, client.MatchingFields{"metadata.name": m.Name})
		if err != nil {
			m.Log.Debug("watching node", "node", m.Name, "err", err)
		} else {
			for ev := range w.ResultChan() {
				if n, ok := ev.Object.(*v1.Node); ok && (ev.Type == watch.Added || ev.Type == watch.Modified) {
					m.Seen(n)
				}
			}
			w.Stop()
		}
		select {
		case <-ctx.Done():
		case <-m.Clock.After(retryDelay):
		}
	}
}

func (m *Manager) beat(ctx context.Context, renew bool) {
	if renew {
		if err := m.renewLease(ctx); err != nil && ctx.Err() == nil {
			m.Log.Warn("renewing node lease", "node", m.Name, "err", err)
		}
	}
	if err := m.report(ctx); err != nil && ctx.Err() == nil {
		m.Log.Warn("updating node status", "node", m.Name, "err", err)
	}
}

// labels returns what the kubelet sets itself.
func (m *Manager) labels() map[string]string {
	out := map[string]string{
		v1.LabelHostname:          m.Name,
		v1.LabelOSStable:          goruntime.GOOS,
		v1.LabelArchStable:        goruntime.GOARCH,
		"beta.kubernetes.io/os":   goruntime.GOOS,
		"beta.kubernetes.io/arch": goruntime.GOARCH,
	}
	maps.Copy(out, m.Labels)
	return out
}

const attachAnnotation = "volumes.kubernetes.io/controller-managed-attach-detach"

func (m *Manager) register(ctx context.Context) error {
	facts := m.Facts(ctx)
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: m.Name, Labels: m.labels(), Annotations: map[string]string{attachAnnotation: "true"}},
		Spec:       v1.NodeSpec{ProviderID: m.ProviderID, Taints: m.Taints},
		Status:     facts.Apply(v1.NodeStatus{}, m.Clock.Now()),
	}
	err := m.Client.Create(ctx, node)
	if apierrors.IsAlreadyExists(err) {
		node, err = m.adopt(ctx)
	}
	if err != nil {
		return err
	}
	m.Seen(node)
	return nil
}

// adopt brings the labels of a node that was registered before up to date.
func (m *Manager) adopt(ctx context.Context) (*v1.Node, error) {
	node := &v1.Node{}
	if err := m.Client.Get(ctx, client.ObjectKey{Name: m.Name}, node); err != nil {
		return nil, err
	}
	before := node.DeepCopy()
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	maps.Copy(node.Labels, m.labels())
	if node.Spec.ProviderID == "" {
		node.Spec.ProviderID = m.ProviderID
	}
	if equality.Semantic.DeepEqual(before, node) {
		return node, nil
	}
	return node, m.Client.Patch(ctx, node, client.StrategicMergeFrom(before))
}

// report writes the status if it changed, or is due.
func (m *Manager) report(ctx context.Context) error {
	node := m.Node()
	now := m.Clock.Now()
	facts := m.Facts(ctx)
	status := facts.Apply(node.Status, now)
	if !changed(node.Status, status) && now.Sub(m.reported) < reportEvery {
		return nil
	}
	data, err := patch(node.Status, status)
	if err != nil {
		return err
	}
	written := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.Name}}
	err = m.Client.Status().Patch(ctx, written, client.RawPatch(types.StrategicMergePatchType, data))
	if apierrors.IsNotFound(err) {
		// Someone removed the node; it is still here.
		return m.register(ctx)
	}
	if err != nil {
		return err
	}
	m.reported = now
	m.Seen(written)
	return nil
}

// patch returns the difference of two statuses. Addresses are replaced as a
// whole: merging by type would mix up several of one type.
func patch(old, new v1.NodeStatus) ([]byte, error) {
	addresses := new.Addresses
	same := equality.Semantic.DeepEqual(old.Addresses, addresses)
	old.Addresses, new.Addresses = nil, nil
	before, err := json.Marshal(v1.Node{Status: old})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(v1.Node{Status: new})
	if err != nil {
		return nil, err
	}
	data, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Node{})
	if err != nil || same {
		return data, err
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	status, _ := m["status"].(map[string]any)
	if status == nil {
		status = map[string]any{}
		m["status"] = status
	}
	list := []any{map[string]any{"$patch": "replace"}}
	for _, a := range addresses {
		list = append(list, map[string]any{"type": string(a.Type), "address": a.Address})
	}
	status["addresses"] = list
	return json.Marshal(m)
}

func equal(a, b v1.NodeStatus) bool { return equality.Semantic.DeepEqual(a, b) }

// renewLease renews the lease by which the control plane sees that the node
// lives; it is made, owned by the node, where there is none.
func (m *Manager) renewLease(ctx context.Context) error {
	now := metav1.NewMicroTime(m.Clock.Now())
	if m.lease == nil {
		lease := &coordinationv1.Lease{}
		err := m.Client.Get(ctx, client.ObjectKey{Namespace: v1.NamespaceNodeLease, Name: m.Name}, lease)
		if apierrors.IsNotFound(err) {
			return m.createLease(ctx, now)
		}
		if err != nil {
			return fmt.Errorf("reading lease: %w", err)
		}
		m.lease = lease
	}
	lease := m.lease.DeepCopy()
	lease.Spec.HolderIdentity = &m.Name
	seconds := leaseDuration
	lease.Spec.LeaseDurationSeconds = &seconds
	lease.Spec.RenewTime = &now
	if err := m.Client.Update(ctx, lease); err != nil {
		m.lease = nil
		return err
	}
	m.lease = lease
	return nil
}

func (m *Manager) createLease(ctx context.Context, now metav1.MicroTime) error {
	seconds := leaseDuration
	node := m.Node()
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1.NamespaceNodeLease, Name: m.Name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &m.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}
	if err := m.Client.Create(ctx, lease); err != nil {
		return fmt.Errorf("creating lease: %w", err)
	}
	m.lease = lease
	return nil
}
