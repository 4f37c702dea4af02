//go:build e2e

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	draplugin "k8s.io/kubelet/pkg/apis/dra/v1"
	pluginregistration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// kubelet is where a driver works: a node's kubelet directory as this process
// sees it, and the process that has the node's namespaces.
type kubelet struct {
	dir string
	pid int
}

func (c *testCluster) kubelet(name string) kubelet {
	c.Helper()
	data, err := os.ReadFile(filepath.Join(c.home, c.name, name, "init.json"))
	if err != nil {
		c.Fatal(err)
	}
	var process struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(data, &process); err != nil {
		c.Fatal(err)
	}
	return kubelet{filepath.Join(c.home, c.name, name, "kubelet"), process.PID}
}

// root returns a path of the node as this process sees it.
func (n kubelet) root(path string) string { return fmt.Sprintf("/proc/%d/root%s", n.pid, path) }

// run runs a command in the node's mount namespace.
func (n kubelet) run(args ...string) error {
	out, err := exec.Command("nsenter", append([]string{"--mount", "--target", strconv.Itoa(n.pid)}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, out)
	}
	return nil
}

// registration says what a plug-in is.
type registration struct {
	pluginregistration.UnimplementedRegistrationServer
	info *pluginregistration.PluginInfo
}

func (r registration) GetInfo(context.Context, *pluginregistration.InfoRequest) (*pluginregistration.PluginInfo, error) {
	return r.info, nil
}

func (registration) NotifyRegistrationStatus(context.Context, *pluginregistration.RegistrationStatus) (*pluginregistration.RegistrationStatusResponse, error) {
	return &pluginregistration.RegistrationStatusResponse{}, nil
}

// plugIn serves a driver on the node and registers it.
func (c *testCluster) plugIn(n kubelet, kind, name, version string, register func(*grpc.Server)) {
	c.Helper()
	serve := func(path string, register func(*grpc.Server)) {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			c.Fatal(err)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			c.Fatal(err)
		}
		s := grpc.NewServer()
		register(s)
		go func() { _ = s.Serve(l) }()
		c.Cleanup(s.Stop)
	}
	serve(filepath.Join(n.dir, "plugins", name, "s"), register)
	info := &pluginregistration.PluginInfo{
		Type: kind, Name: name, Endpoint: filepath.Join("/var/lib/kubelet/plugins", name, "s"), SupportedVersions: []string{version},
	}
	serve(filepath.Join(n.dir, "plugins_registry", name), func(s *grpc.Server) {
		pluginregistration.RegisterRegistrationServer(s, registration{info: info})
	})
}

// disks is a CSI driver whose volumes are directories of the node.
type disks struct {
	csi.UnimplementedNodeServer
	node kubelet
}

func (d disks) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "here", MaxVolumesPerNode: 3}, nil
}

func (d disks) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (d disks) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	source := "/var/lib/kubelet/plugins/disk.example.com/" + r.VolumeId
	if err := d.node.run("mkdir", "-p", source, r.TargetPath); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, d.node.run("mount", "--bind", source, r.TargetPath)
}

func (d disks) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := d.node.run("umount", r.TargetPath); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, d.node.run("rmdir", r.TargetPath)
}

// lamps is a DRA driver whose devices are variables in the environment.
type lamps struct {
	draplugin.UnimplementedDRAPluginServer
	node kubelet
}

func (d lamps) spec(uid string) string { return d.node.root("/run/cdi/lamp-" + uid + ".json") }

func (d lamps) NodePrepareResources(_ context.Context, r *draplugin.NodePrepareResourcesRequest) (*draplugin.NodePrepareResourcesResponse, error) {
	out := &draplugin.NodePrepareResourcesResponse{Claims: map[string]*draplugin.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		spec := fmt.Sprintf(`{"cdiVersion":"0.6.0","kind":"example.com/lamp","devices":[{"name":%q,"containerEdits":{"env":["LAMP=lit"]}}]}`, c.Uid)
		if err := os.MkdirAll(filepath.Dir(d.spec(c.Uid)), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(d.spec(c.Uid), []byte(spec), 0o644); err != nil {
			return nil, err
		}
		out.Claims[c.Uid] = &draplugin.NodePrepareResourceResponse{Devices: []*draplugin.Device{{
			RequestNames: []string{"lamp"}, PoolName: "p", DeviceName: "lamp", CdiDeviceIds: []string{"example.com/lamp=" + c.Uid},
		}}}
	}
	return out, nil
}

func (d lamps) NodeUnprepareResources(_ context.Context, r *draplugin.NodeUnprepareResourcesRequest) (*draplugin.NodeUnprepareResourcesResponse, error) {
	out := &draplugin.NodeUnprepareResourcesResponse{Claims: map[string]*draplugin.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		if err := os.Remove(d.spec(c.Uid)); err != nil {
			return nil, err
		}
		out.Claims[c.Uid] = &draplugin.NodeUnprepareResourceResponse{}
	}
	return out, nil
}

const driven = `
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: disk.example.com}
spec: {attachRequired: false, fsGroupPolicy: File}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  storageClassName: ""
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  csi: {driver: disk.example.com, volumeHandle: disk-1}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec:
  storageClassName: ""
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: lamp}
spec: {selectors: [{cel: {expression: 'device.driver == "lamp.example.com"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: lamp}
spec: {spec: {devices: {requests: [{name: lamp, exactly: {deviceClassName: lamp}}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: driven}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  resourceClaims: [{name: light, resourceClaimTemplateName: lamp}]
  containers:
  - name: with
    image: skiff.local/busybox:1
    command: [sh, -c, "echo the lamp is $LAMP | tee /data/file"]
    resources: {claims: [{name: light}]}
    volumeMounts: [{name: data, mountPath: /data}]
  - name: without
    image: skiff.local/busybox:1
    command: [sh, -c, "echo here it is ${LAMP:-dark}"]
  volumes: [{name: data, persistentVolumeClaim: {claimName: disk}}]
`

// TestDrivers runs a pod with a volume of a CSI driver and a device of a DRA
// driver, which only one of the two nodes has.
func TestDrivers(t *testing.T) {
	c := start(t, "e2edrivers", 2)
	const name = "e2edrivers-2"
	n := c.kubelet(name)
	c.plugIn(n, "CSIPlugin", "disk.example.com", "1.0.0", func(s *grpc.Server) { csi.RegisterNodeServer(s, disks{node: n}) })
	c.plugIn(n, "DRAPlugin", "lamp.example.com", draplugin.DRAPluginService, func(s *grpc.Server) { draplugin.RegisterDRAPluginServer(s, lamps{node: n}) })
	c.eventually("the node has the driver", func(ctx context.Context) error {
		node, err := c.client.StorageV1().CSINodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil && (len(node.Spec.Drivers) != 1 || node.Spec.Drivers[0].NodeID != "here") {
			err = fmt.Errorf("it has %+v", node.Spec.Drivers)
		}
		return err
	})
	at := name
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "lamps"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "lamp.example.com", NodeName: &at, Pool: resourcev1.ResourcePool{Name: "p", ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "lamp"}},
	}}
	if _, err := c.client.ResourceV1().ResourceSlices().Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.apply(driven)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := c.command(context.Background(), nil, "kubectl", "describe", "pod,pvc,pv,resourceclaims").CombinedOutput()
			t.Logf("%s", out)
		}
	})
	c.kubectl("wait", "pod/driven", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
	if got := c.pod("driven").Spec.NodeName; got != name {
		t.Errorf("the pod ran on %s", got)
	}
	c.expect(c.kubectl("logs", "driven", "--all-containers"), "the lamp is lit", "here it is dark")
	file := filepath.Join(n.dir, "plugins", "disk.example.com", "disk-1", "file")
	if data, err := os.ReadFile(file); err != nil || string(data) != "the lamp is lit\n" {
		t.Errorf("the disk holds %q, %v", data, err)
	}
	c.kubectl("delete", "pod", "driven", "--grace-period=1")
	c.eventually("everything is given back", func(ctx context.Context) error {
		specs, err := filepath.Glob(n.root("/run/cdi/*"))
		if err != nil || len(specs) > 0 {
			return fmt.Errorf("%v is left, %w", specs, err)
		}
		claims, err := c.client.ResourceV1().ResourceClaims("default").List(ctx, metav1.ListOptions{})
		if err == nil && len(claims.Items) > 0 {
			err = fmt.Errorf("claim %+v is left", claims.Items[0].Status)
		}
		return err
	})
}
