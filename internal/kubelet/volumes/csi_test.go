package volumes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	pluginregistration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
	kubeletcsi "skiff/internal/kubelet/csi"
	"skiff/internal/kubelet/plugins"
	"skiff/internal/kubelet/volumes"
)

const driverName = "test.csi.example.com"

// driver is a CSI driver whose volumes are directories.
type driver struct {
	csi.UnimplementedNodeServer
	pluginregistration.UnimplementedRegistrationServer
	dir string

	mu    sync.Mutex
	calls []string
	// last are the last requests of each kind.
	stage   *csi.NodeStageVolumeRequest
	publish *csi.NodePublishVolumeRequest
}

func (d *driver) called(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
}

// take returns the calls since the last take.
func (d *driver) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := strings.Join(d.calls, " ")
	d.calls = nil
	return out
}

func (d *driver) GetInfo(context.Context, *pluginregistration.InfoRequest) (*pluginregistration.PluginInfo, error) {
	return &pluginregistration.PluginInfo{
		Type: "CSIPlugin", Name: driverName, Endpoint: filepath.Join(d.dir, "csi.sock"), SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (d *driver) NotifyRegistrationStatus(_ context.Context, s *pluginregistration.RegistrationStatus) (*pluginregistration.RegistrationStatusResponse, error) {
	if !s.PluginRegistered {
		d.called("refused: %s", s.Error)
	}
	return &pluginregistration.RegistrationStatusResponse{}, nil
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "id-of-n1", MaxVolumesPerNode: 7, AccessibleTopology: &csi.Topology{
		Segments: map[string]string{"topology.test.csi.example.com/rack": "r1"},
	}}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	out := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range []csi.NodeServiceCapability_RPC_Type{csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csi.NodeServiceCapability_RPC_EXPAND_VOLUME} {
		out.Capabilities = append(out.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return out, nil
}

func (d *driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	d.called("stage(%s)", r.VolumeId)
	d.stage = r
	return &csi.NodeStageVolumeResponse{}, os.WriteFile(filepath.Join(r.StagingTargetPath, "staged"), nil, 0o600)
}

func (d *driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	d.called("unstage(%s)", r.VolumeId)
	return &csi.NodeUnstageVolumeResponse{}, os.Remove(filepath.Join(r.StagingTargetPath, "staged"))
}

func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	d.called("publish")
	d.publish = r
	source := filepath.Join(d.dir, r.VolumeId)
	if err := os.MkdirAll(source, 0o755); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.TargetPath, 0o755); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, unix.Mount(source, r.TargetPath, "", unix.MS_BIND, "")
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	d.called("unpublish")
	if err := unix.Unmount(r.TargetPath, 0); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, os.Remove(r.TargetPath)
}

func (d *driver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	d.called("expand(%d)", r.CapacityRange.RequiredBytes>>30)
	return &csi.NodeExpandVolumeResponse{}, nil
}

// serve makes the driver listen and register.
func (d *driver) serve(t *testing.T, registry string) {
	t.Helper()
	for path, register := range map[string]func(*grpc.Server){
		filepath.Join(d.dir, "csi.sock"):     func(s *grpc.Server) { csi.RegisterNodeServer(s, d) },
		filepath.Join(registry, "test.sock"): func(s *grpc.Server) { pluginregistration.RegisterRegistrationServer(s, d) },
	} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		register(s)
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
	}
}

// api reads what volumes refer to as the node.
type api struct{ client.Client }

func (a api) ConfigMap(ctx context.Context, ns, name string) (*v1.ConfigMap, error) {
	o := &v1.ConfigMap{}
	return o, a.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, o)
}

func (a api) Secret(ctx context.Context, ns, name string) (*v1.Secret, error) {
	o := &v1.Secret{}
	return o, a.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, o)
}

func (a api) PersistentVolumeClaim(ctx context.Context, ns, name string) (*v1.PersistentVolumeClaim, error) {
	o := &v1.PersistentVolumeClaim{}
	return o, a.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, o)
}

func (a api) PersistentVolume(ctx context.Context, name string) (*v1.PersistentVolume, error) {
	o := &v1.PersistentVolume{}
	return o, a.Get(ctx, client.ObjectKey{Name: name}, o)
}

func (api) TrustAnchors(context.Context, *v1.ClusterTrustBundleProjection) ([]byte, error) {
	return nil, errors.New("there are none")
}

func (a api) ClaimExpanded(ctx context.Context, claim *v1.PersistentVolumeClaim, size resource.Quantity) error {
	next := claim.DeepCopy()
	next.Status.Capacity = v1.ResourceList{v1.ResourceStorage: size}
	return a.Status().Patch(ctx, next, client.MergeFrom(claim))
}

type world struct {
	*testcluster.Cluster
	t        *testing.T
	root     string
	node     client.Client
	csi      *kubeletcsi.Drivers
	volumes  *volumes.Manager
	restart  func()
	registry string
	pods     []string
}

// newWorld is a cluster with a node whose kubelet has volumes and plug-ins.
func newWorld(t *testing.T) *world {
	w := &world{Cluster: testcluster.Start(t), t: t, root: t.TempDir()}
	w.registry = filepath.Join(w.root, "plugins_registry")
	w.node = w.Set(&identity.User{Name: identity.NodePrefix + "n1", Groups: []string{identity.GroupNodes, identity.GroupAuthenticated}}).Client
	w.create(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	stop := func() {}
	w.restart = func() {
		stop()
		registered := make(chan struct{}, 8)
		log := slog.New(slog.NewTextHandler(t.Output(), nil))
		w.csi = &kubeletcsi.Drivers{
			NodeName: "n1", Root: w.root, Client: w.node, Log: log, Secret: api{w.node}.Secret,
			Tokens: func(ctx context.Context, ns, name string, r *authv1.TokenRequest) error {
				return w.node.SubResource("token").Create(ctx, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}, r)
			},
			Changed: func() { registered <- struct{}{} }, InUseChanged: func() {},
		}
		w.volumes = (&volumes.Manager{Root: w.root, Objects: api{w.node}, CSI: w.csi, Clock: clock.RealClock{}, Log: log}).Init()
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		watcher := &plugins.Watcher{Dir: w.registry, Handlers: map[string]plugins.Handler{kubeletcsi.PluginType: w.csi}, Clock: clock.RealClock{}, Log: log}
		wg.Go(func() {
			if err := watcher.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		stop = func() { cancel(); wg.Wait() }
		if _, err := os.Stat(filepath.Join(w.registry, "test.sock")); err == nil {
			<-registered
		}
	}
	t.Cleanup(func() { stop() })
	t.Cleanup(func() {
		for _, uid := range w.pods {
			_ = w.volumes.Unmount(context.Background(), uid)
		}
	})
	return w
}

func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		if err := w.Client.Create(w.t.Context(), o); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) eventually(what string, list client.ObjectList, ok func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	events, err := w.Client.Watch(ctx, list)
	if err != nil {
		w.t.Fatal(err)
	}
	defer events.Stop()
	for !ok() {
		select {
		case <-events.ResultChan():
		case <-ctx.Done():
			w.t.Fatalf("%s: not in time", what)
		}
	}
}

// pod makes a pod on the node, which lets the node read what it refers to.
func (w *world) pod(name string, source v1.VolumeSource) *v1.Pod {
	w.t.Helper()
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.PodSpec{
		NodeName: "n1", Containers: []v1.Container{{Name: "c", Image: "i"}}, SecurityContext: &v1.PodSecurityContext{FSGroup: ptr.To(int64(4321))},
		Volumes: []v1.Volume{{Name: "v", VolumeSource: source}}, ServiceAccountName: "default", AutomountServiceAccountToken: ptr.To(false),
	}}
	w.create(p)
	w.pods = append(w.pods, string(p.UID))
	if source.PersistentVolumeClaim != nil {
		// The authorizer hears of the pod a moment later.
		claim := client.ObjectKey{Namespace: "default", Name: source.PersistentVolumeClaim.ClaimName}
		err := wait.PollUntilContextTimeout(w.t.Context(), time.Millisecond, 20*time.Second, true, func(ctx context.Context) (bool, error) {
			return !apierrors.IsForbidden(w.node.Get(ctx, claim, &v1.PersistentVolumeClaim{})), nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return p
}

func TestCSI(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	w := newWorld(t)
	if err := os.MkdirAll(w.registry, 0o750); err != nil {
		t.Fatal(err)
	}
	w.restart()
	d := &driver{dir: t.TempDir()}
	d.serve(t, w.registry)

	node, csiNode := &v1.Node{}, &storagev1.CSINode{}
	w.eventually("the driver is announced", &storagev1.CSINodeList{}, func() bool {
		return w.Client.Get(t.Context(), client.ObjectKey{Name: "n1"}, csiNode) == nil && len(csiNode.Spec.Drivers) == 1
	})
	if err := w.Client.Get(t.Context(), client.ObjectKey{Name: "n1"}, node); err != nil {
		t.Fatal(err)
	}
	want := storagev1.CSINodeDriver{
		Name: driverName, NodeID: "id-of-n1", TopologyKeys: []string{"topology.test.csi.example.com/rack"},
		Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To(int32(7))},
	}
	have, _ := json.Marshal(csiNode.Spec.Drivers[0])
	if text, _ := json.Marshal(want); string(have) != string(text) {
		t.Errorf("CSINode says %s", have)
	}
	if node.Labels["topology.test.csi.example.com/rack"] != "r1" || node.Annotations["csi.volume.kubernetes.io/nodeid"] != `{"`+driverName+`":"id-of-n1"}` {
		t.Errorf("the node has labels %v, annotations %v", node.Labels, node.Annotations)
	}
	if csiNode.OwnerReferences[0].UID != node.UID {
		t.Errorf("CSINode belongs to %v", csiNode.OwnerReferences)
	}

	policy := storagev1.FileFSGroupPolicy
	claim := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}, Spec: v1.PersistentVolumeClaimSpec{
		VolumeName: "pv", AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, StorageClassName: ptr.To(""),
		Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	w.create(claim)
	w.create(&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{
		PodInfoOnMount: ptr.To(true), FSGroupPolicy: &policy, TokenRequests: []storagev1.TokenRequest{{Audience: "vault"}},
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral},
	}}, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "key"}, Data: map[string][]byte{"k": []byte("v")}},
		&v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: v1.PersistentVolumeSpec{
			Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("2Gi")}, AccessModes: claim.Spec.AccessModes,
			ClaimRef:     &v1.ObjectReference{Namespace: "default", Name: "data", UID: claim.UID},
			MountOptions: []string{"noatime"},
			PersistentVolumeSource: v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{
				Driver: driverName, VolumeHandle: "disk-1", FSType: "ext4", VolumeAttributes: map[string]string{"a": "b"},
				NodeStageSecretRef: &v1.SecretReference{Namespace: "default", Name: "key"},
			}},
		}})
	claim.Status = v1.PersistentVolumeClaimStatus{
		Phase: v1.ClaimBound, Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")},
		Conditions: []v1.PersistentVolumeClaimCondition{{Type: v1.PersistentVolumeClaimFileSystemResizePending, Status: v1.ConditionTrue}},
	}
	if err := w.Client.Status().Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	source := v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}
	one, two := w.pod("one", source), w.pod("two", source)
	d.take()
	if _, err := w.volumes.Mount(t.Context(), one); err == nil || !strings.Contains(err.Error(), "is not there yet") {
		t.Errorf("a volume that is not attached: %v", err)
	}
	attachment := &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: kubeletcsi.AttachmentName("disk-1", driverName, "n1")},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: driverName, NodeName: "n1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pv")}},
	}
	w.create(attachment)
	attachment.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"device": "/dev/x"}}
	if err := w.Client.Status().Update(t.Context(), attachment); err != nil {
		t.Fatal(err)
	}
	if _, err := w.volumes.Mount(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if calls := d.take(); calls != "stage(disk-1) publish expand(2)" {
		t.Errorf("calls %s", calls)
	}
	if s := d.stage; s.PublishContext["device"] != "/dev/x" || s.Secrets["k"] != "v" || s.VolumeContext["a"] != "b" ||
		s.VolumeCapability.GetMount().FsType != "ext4" || !slices.Contains(s.VolumeCapability.GetMount().MountFlags, "noatime") {
		t.Errorf("staged with %v", s)
	}
	attributes := d.publish.VolumeContext
	if attributes["csi.storage.k8s.io/pod.name"] != "one" || attributes["csi.storage.k8s.io/ephemeral"] != "false" ||
		!strings.HasPrefix(attributes["csi.storage.k8s.io/serviceAccount.tokens"], `{"vault":{"token":"`) {
		t.Errorf("published with %v", attributes)
	}
	path, err := w.volumes.Path(string(one.UID), "v")
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Gid != 4321 || st.Mode&unix.S_ISGID == 0 {
		t.Errorf("the volume belongs to group %d, mode %o, %v", st.Gid, st.Mode, err)
	}
	if err := w.Client.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
		t.Fatal(err)
	}
	if size := claim.Status.Capacity.Storage().String(); size != "2Gi" {
		t.Errorf("the claim has %s", size)
	}
	// Another look needs nothing of the driver; another pod only a publication.
	for _, p := range []*v1.Pod{one, two} {
		if _, err := w.volumes.Mount(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if calls := d.take(); calls != "stage(disk-1) publish" {
		t.Errorf("calls %s", calls)
	}
	if in := w.csi.InUse(); len(in) != 1 || in[0] != "kubernetes.io/csi/"+driverName+"^disk-1" {
		t.Errorf("in use: %v", in)
	}

	// A kubelet that was restarted knows what to take back.
	w.restart()
	d.take()
	if err := w.volumes.Unmount(t.Context(), string(one.UID)); err != nil {
		t.Fatal(err)
	}
	if calls := d.take(); calls != "unpublish" {
		t.Errorf("calls %s", calls)
	}
	if err := w.volumes.Unmount(t.Context(), string(two.UID)); err != nil {
		t.Fatal(err)
	}
	if calls := d.take(); calls != "unpublish unstage(disk-1)" {
		t.Errorf("calls %s", calls)
	}
	if left, _ := filepath.Glob(filepath.Join(w.root, "plugins/kubernetes.io/csi/*/*")); len(left) > 0 || len(w.csi.InUse()) > 0 {
		t.Errorf("left: %v, in use %v", left, w.csi.InUse())
	}

	inline := w.pod("inline", v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: driverName, ReadOnly: ptr.To(true), VolumeAttributes: map[string]string{"x": "y"}}})
	if _, err := w.volumes.Mount(t.Context(), inline); err != nil {
		t.Fatal(err)
	}
	if r := d.publish; d.take() != "publish" || !r.Readonly || r.VolumeContext["csi.storage.k8s.io/ephemeral"] != "true" || !strings.HasPrefix(r.VolumeId, "csi-") {
		t.Errorf("published %v", r)
	}
	if err := w.volumes.Unmount(t.Context(), string(inline.UID)); err != nil || d.take() != "unpublish" {
		t.Errorf("taking back the inline volume: %v", err)
	}

	// A volume without a file system is a device at its path.
	raw := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "raw"}, Spec: *claim.Spec.DeepCopy()}
	raw.Spec.VolumeName, raw.Spec.VolumeMode = "raw", ptr.To(v1.PersistentVolumeBlock)
	w.create(raw)
	w.create(&v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "raw"}, Spec: v1.PersistentVolumeSpec{
		Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: raw.Spec.AccessModes, VolumeMode: raw.Spec.VolumeMode,
		ClaimRef:               &v1.ObjectReference{Namespace: "default", Name: "raw", UID: raw.UID},
		PersistentVolumeSource: v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: "raw"}},
	}})
	raw.Status = v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound, Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}}
	if err := w.Client.Status().Update(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	attachment = &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: kubeletcsi.AttachmentName("raw", driverName, "n1")},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: driverName, NodeName: "n1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("raw")}},
	}
	w.create(attachment)
	attachment.Status.Attached = true
	if err := w.Client.Status().Update(t.Context(), attachment); err != nil {
		t.Fatal(err)
	}
	rawPod := w.pod("raw", v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "raw"}})
	if _, err := w.volumes.Mount(t.Context(), rawPod); err != nil {
		t.Fatal(err)
	}
	if d.stage.VolumeCapability.GetBlock() == nil || d.publish.VolumeCapability.GetBlock() == nil || !strings.Contains(d.publish.TargetPath, "/volumeDevices/") {
		t.Errorf("published %v", d.publish)
	}
	d.take()
	if err := w.volumes.Unmount(t.Context(), string(rawPod.UID)); err != nil || d.take() != "unpublish unstage(raw)" {
		t.Errorf("taking back the device: %v", err)
	}

	// The driver goes away.
	if err := os.Remove(filepath.Join(w.registry, "test.sock")); err != nil {
		t.Fatal(err)
	}
	w.eventually("the driver is gone", &storagev1.CSINodeList{}, func() bool {
		return w.Client.Get(t.Context(), client.ObjectKey{Name: "n1"}, csiNode) == nil && len(csiNode.Spec.Drivers) == 0
	})
	if _, err := w.volumes.Mount(t.Context(), one); err == nil || !strings.Contains(err.Error(), "not found in the list of registered CSI drivers") {
		t.Errorf("without the driver: %v", err)
	}
}
