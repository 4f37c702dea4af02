package dra_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	draplugin "k8s.io/kubelet/pkg/apis/dra/v1"
	pluginregistration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
	"skiff/internal/kubelet/dra"
	"skiff/internal/kubelet/plugins"
)

const driverName = "gpu.example.com"

// driver is a DRA driver that remembers what it was asked.
type driver struct {
	draplugin.UnimplementedDRAPluginServer
	pluginregistration.UnimplementedRegistrationServer
	endpoint string

	mu    sync.Mutex
	calls []string
	fail  string
}

func (d *driver) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := strings.Join(d.calls, " ")
	d.calls = nil
	return out
}

func (d *driver) GetInfo(context.Context, *pluginregistration.InfoRequest) (*pluginregistration.PluginInfo, error) {
	return &pluginregistration.PluginInfo{Type: dra.PluginType, Name: driverName, Endpoint: d.endpoint, SupportedVersions: []string{"v1.DRAPlugin"}}, nil
}

func (d *driver) NotifyRegistrationStatus(context.Context, *pluginregistration.RegistrationStatus) (*pluginregistration.RegistrationStatusResponse, error) {
	return &pluginregistration.RegistrationStatusResponse{}, nil
}

func (d *driver) NodePrepareResources(_ context.Context, r *draplugin.NodePrepareResourcesRequest) (*draplugin.NodePrepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := &draplugin.NodePrepareResourcesResponse{Claims: map[string]*draplugin.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		d.calls = append(d.calls, "prepare("+c.Name+")")
		out.Claims[c.Uid] = &draplugin.NodePrepareResourceResponse{Error: d.fail, Devices: []*draplugin.Device{
			{RequestNames: []string{"first"}, PoolName: "pool", DeviceName: "a", CdiDeviceIds: []string{"example.com/gpu=a"}},
			{RequestNames: []string{"second/sub"}, PoolName: "pool", DeviceName: "b", CdiDeviceIds: []string{"example.com/gpu=b"}},
		}}
	}
	return out, nil
}

func (d *driver) NodeUnprepareResources(_ context.Context, r *draplugin.NodeUnprepareResourcesRequest) (*draplugin.NodeUnprepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := &draplugin.NodeUnprepareResourcesResponse{Claims: map[string]*draplugin.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		d.calls = append(d.calls, "unprepare("+c.Name+")")
		out.Claims[c.Uid] = &draplugin.NodeUnprepareResourceResponse{Error: d.fail}
	}
	return out, nil
}

func serve(t *testing.T, path string, register func(*grpc.Server)) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
}

func TestDRA(t *testing.T) {
	c := testcluster.Start(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	create := func(objects ...client.Object) {
		t.Helper()
		for _, o := range objects {
			must(c.Client.Create(t.Context(), o))
		}
	}
	dir, clk := t.TempDir(), testingclock.NewFakeClock(time.Now())
	registered := make(chan struct{}, 4)
	node := c.Set(&identity.User{Name: identity.NodePrefix + "n1", Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}).Client
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	newDrivers := func() *dra.Drivers {
		return &dra.Drivers{
			NodeName: "n1", File: filepath.Join(dir, "state"), Client: node, Clock: clk, Log: log, Changed: func() { registered <- struct{}{} },
		}
	}
	drivers := newDrivers()
	d := &driver{endpoint: filepath.Join(dir, "dra.sock")}
	registry := filepath.Join(dir, "registry")
	must(os.Mkdir(registry, 0o750))
	serve(t, d.endpoint, func(s *grpc.Server) { draplugin.RegisterDRAPluginServer(s, d) })
	ctx, cancel := context.WithCancel(context.Background())
	watcher := &plugins.Watcher{Dir: registry, Handlers: map[string]plugins.Handler{dra.PluginType: drivers}, Clock: clock.RealClock{}, Log: log}
	done := make(chan error, 1)
	go func() { done <- watcher.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	serve(t, filepath.Join(registry, "gpu.sock"), func(s *grpc.Server) { pluginregistration.RegisterRegistrationServer(s, d) })
	<-registered

	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "gpus"}}
	for _, name := range []string{"first", "second"} {
		claim.Spec.Devices.Requests = append(claim.Spec.Devices.Requests, resourcev1.DeviceRequest{Name: name, Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}})
	}
	create(&v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, claim)
	pod := func(name string) *v1.Pod {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.PodSpec{
			NodeName: "n1", ResourceClaims: []v1.PodResourceClaim{{Name: "g", ResourceClaimName: ptr.To("gpus")}},
			Containers: []v1.Container{
				{Name: "both", Image: "i", Resources: v1.ResourceRequirements{Claims: []v1.ResourceClaim{{Name: "g"}}}},
				{Name: "one", Image: "i", Resources: v1.ResourceRequirements{Claims: []v1.ResourceClaim{{Name: "g", Request: "second"}}}},
				{Name: "none", Image: "i"},
			},
		}}
		create(p)
		// The authorizer hears of the pod a moment later.
		must(wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
			return !apierrors.IsForbidden(node.Get(ctx, client.ObjectKey{Namespace: "default", Name: "gpus"}, &resourcev1.ResourceClaim{})), nil
		}))
		return p
	}
	one, two := pod("one"), pod("two")
	if err := drivers.Prepare(t.Context(), one); err == nil || !strings.Contains(err.Error(), "is not allowed to use ResourceClaim gpus") {
		t.Errorf("a claim that is not allocated: %v", err)
	}
	claim.Status.Allocation = &resourcev1.AllocationResult{}
	for _, name := range []string{"first", "second"} {
		claim.Status.Allocation.Devices.Results = append(claim.Status.Allocation.Devices.Results,
			resourcev1.DeviceRequestAllocationResult{Request: name, Driver: driverName, Pool: "pool", Device: name})
	}
	for _, p := range []*v1.Pod{one, two} {
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
	}
	must(c.Client.Status().Update(t.Context(), claim))

	d.fail = "no power"
	if err := drivers.Prepare(t.Context(), one); err == nil || !strings.Contains(err.Error(), "no power") || d.take() != "prepare(gpus)" {
		t.Errorf("a driver that fails: %v", err)
	}
	d.fail = ""
	for _, p := range []*v1.Pod{one, two, one} {
		must(drivers.Prepare(t.Context(), p))
	}
	if calls := d.take(); calls != "prepare(gpus)" {
		t.Errorf("calls %s", calls)
	}
	for i, want := range [][]string{{"example.com/gpu=a", "example.com/gpu=b"}, {"example.com/gpu=b"}, nil} {
		got, err := drivers.Devices(t.Context(), one, &one.Spec.Containers[i])
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("container %d gets %v, %v", i, got, err)
		}
	}

	// A new kubelet knows what the old one prepared, without the claim.
	must(c.Client.Delete(t.Context(), claim))
	next := newDrivers()
	must(next.Register(t.Context(), plugins.Plugin{Type: dra.PluginType, Name: driverName, Endpoint: d.endpoint, Versions: []string{"v1.DRAPlugin"}}))
	<-registered
	must(next.Unprepare(t.Context(), one.UID))
	if calls := d.take(); calls != "" {
		t.Errorf("taken back while in use: %s", calls)
	}
	d.fail = "busy"
	if err := next.Unprepare(t.Context(), two.UID); err == nil {
		t.Error("a failure was not told")
	}
	d.fail = ""
	must(next.Unprepare(t.Context(), two.UID))
	must(next.Unprepare(t.Context(), two.UID))
	if calls := d.take(); calls != "unprepare(gpus) unprepare(gpus)" {
		t.Errorf("calls %s", calls)
	}

	// What a driver published goes when it stays away.
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "n1-gpu"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: driverName, NodeName: ptr.To("n1"), Pool: resourcev1.ResourcePool{Name: "n1", ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "a"}},
	}}
	create(s)
	slices, err := c.Client.Watch(t.Context(), &resourcev1.ResourceSliceList{})
	must(err)
	defer slices.Stop()
	must(os.Remove(filepath.Join(registry, "gpu.sock")))
	for timeout := time.After(time.Minute); ; {
		if clk.HasWaiters() {
			clk.Step(time.Minute)
		}
		select {
		case e := <-slices.ResultChan():
			if e.Type == "DELETED" {
				return
			}
		case <-time.After(10 * time.Millisecond):
		case <-timeout:
			t.Fatal(errors.New("the devices are still published"))
		}
	}
}
