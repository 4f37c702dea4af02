package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"skiff/internal/kubelet/podspec"
)

func TestWriteAtomic(t *testing.T) {
	dir := t.TempDir()
	write := func(want bool, files map[string]File) {
		t.Helper()
		changed, err := writeAtomic(dir, files, nil)
		if err != nil || changed != want {
			t.Fatalf("changed %v, %v; want %v", changed, err, want)
		}
		for name, f := range files {
			path := filepath.Join(dir, name)
			have, err := os.ReadFile(path)
			if err != nil || string(have) != string(f.Data) {
				t.Errorf("%s holds %q, %v; want %q", name, have, err, f.Data)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != f.Mode {
				t.Errorf("%s has mode %v, %v; want %v", name, info.Mode(), err, f.Mode)
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		hidden := 0
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "..") {
				hidden++
			}
		}
		if hidden != 2 { // ..data and the directory it names
			t.Errorf("left in the volume: %v", entries)
		}
	}
	write(true, map[string]File{"a": {Data: []byte("1"), Mode: 0o644}, "d/b": {Data: []byte("2"), Mode: 0o400}})
	write(false, map[string]File{"a": {Data: []byte("1"), Mode: 0o644}, "d/b": {Data: []byte("2"), Mode: 0o400}})
	write(true, map[string]File{"a": {Data: []byte("3"), Mode: 0o600}, "c": {Data: nil, Mode: 0o666}})
	if _, err := os.Lstat(filepath.Join(dir, "d")); !os.IsNotExist(err) {
		t.Errorf("what is gone is still visible: %v", err)
	}
	write(true, nil)
	for _, name := range []string{"/abs", "../out", "a/../../b", "..hidden", ""} {
		if _, err := writeAtomic(dir, map[string]File{name: {}}, nil); err == nil {
			t.Errorf("path %q was taken", name)
		}
	}
}

type objects struct {
	data  map[string]string
	local string // where the local volume is
}

func (o *objects) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if name != "m" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
	}
	return &v1.ConfigMap{Data: o.data, BinaryData: map[string][]byte{"bin": {0}}}, nil
}

func (o *objects) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	return &v1.Secret{Data: map[string][]byte{"s": []byte("secret")}}, nil
}

func (o *objects) PersistentVolumeClaim(_ context.Context, _, name string) (*v1.PersistentVolumeClaim, error) {
	c := &v1.PersistentVolumeClaim{Spec: v1.PersistentVolumeClaimSpec{VolumeName: name}}
	c.UID = "claim"
	if name != "unbound" {
		c.Status.Phase = v1.ClaimBound
	}
	return c, nil
}

func (o *objects) PersistentVolume(_ context.Context, name string) (*v1.PersistentVolume, error) {
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PersistentVolumeSpec{ClaimRef: &v1.ObjectReference{UID: "claim"}}}
	if name == "local" {
		pv.Spec.Local = &v1.LocalVolumeSource{Path: o.local}
	} else {
		pv.Spec.ISCSI = &v1.ISCSIPersistentVolumeSource{}
	}
	return pv, nil
}

func (o *objects) TrustAnchors(_ context.Context, p *v1.ClusterTrustBundleProjection) ([]byte, error) {
	if p.Name == nil {
		return nil, errors.New("nothing is selected")
	}
	return []byte("anchors of " + *p.Name), nil
}

func (o *objects) ClaimExpanded(context.Context, *v1.PersistentVolumeClaim, resource.Quantity) error {
	return nil
}

func newManager(t *testing.T) (*Manager, *objects, *testingclock.FakeClock, *int) {
	clock := testingclock.NewFakeClock(time.Unix(1000, 0))
	store, tokens := &objects{data: map[string]string{"k": "one"}, local: t.TempDir()}, 0
	m := (&Manager{
		Root: t.TempDir(), Objects: store, Clock: clock,
		Place: func(*v1.Pod) podspec.Place { return podspec.Place{NodeName: "node"} },
		Tokens: func(_ context.Context, _, _ string, r *authv1.TokenRequest) error {
			tokens++
			r.Status.Token = fmt.Sprintf("token-%d", tokens)
			r.Status.ExpirationTimestamp = metav1.NewTime(clock.Now().Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second))
			return nil
		},
	}).Init()
	t.Cleanup(func() {
		if err := m.Unmount(context.Background(), "u"); err != nil {
			t.Error(err)
		}
	})
	return m, store, clock, &tokens
}

func pod(volumes ...v1.Volume) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", Labels: map[string]string{"l": "v"}}}
	p.Spec.Volumes = volumes
	return p
}

func read(t *testing.T, m *Manager, volume, file string) string {
	t.Helper()
	path, err := m.Path("u", volume)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(path, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestContentVolumes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	m, store, clock, tokens := newManager(t)
	mode, group := int32(0o400), int64(1234)
	p := pod(
		v1.Volume{Name: "map", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
			LocalObjectReference: v1.LocalObjectReference{Name: "m"}, Items: []v1.KeyToPath{{Key: "k", Path: "dir/file"}},
		}}},
		v1.Volume{Name: "secret", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: &mode}}},
		v1.Volume{Name: "all", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
			{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{Name: ptr.To("b"), Path: "tls/roots.pem"}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}}},
	)
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	refresh, err := m.Mount(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if want := clock.Now().Add(48 * time.Minute); refresh != want {
		t.Errorf("refresh at %v, want %v", refresh, want)
	}
	if got := read(t, m, "map", "dir/file") + read(t, m, "secret", "s") + read(t, m, "all", "token") + read(t, m, "all", "labels"); got != `onesecrettoken-1l="v"` {
		t.Errorf("content %s", got)
	}
	if got := read(t, m, "all", "tls/roots.pem"); got != "anchors of b" {
		t.Errorf("trust anchors %s", got)
	}
	// The group may read what the kubelet wrote, and no more than before.
	for file, want := range map[[2]string]uint32{{"secret", "s"}: 0o440, {"all", "token"}: 0o640, {"all", "tls/roots.pem"}: 0o640, {"map", "dir/file"}: 0o644, {"map", "dir"}: 0o2755} {
		path, _ := m.Path("u", file[0])
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(path, file[1]), &st); err != nil || st.Gid != 1234 || st.Mode&0o7777 != want {
			t.Errorf("%v belongs to group %d with mode %o, not %o: %v", file, st.Gid, st.Mode, want, err)
		}
	}
	path, _ := m.Path("u", "secret")
	if mounted, err := isMountPoint(path); err != nil || !mounted {
		t.Errorf("the secret is on disk: %v", err)
	}

	store.data["k"] = "two"
	clock.Step(time.Minute)
	if _, err := m.Mount(t.Context(), p); err != nil || *tokens != 1 || read(t, m, "map", "dir/file") != "two" {
		t.Errorf("after a change: %v, %d tokens, %q", err, *tokens, read(t, m, "map", "dir/file"))
	}
	clock.Step(time.Hour)
	if _, err := m.Mount(t.Context(), p); err != nil || read(t, m, "all", "token") != "token-2" {
		t.Errorf("an old token was not replaced: %v", err)
	}
	if err := m.Unmount(context.Background(), "u"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(m.PodDir("u")); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

func TestErrors(t *testing.T) {
	m, _, _, _ := newManager(t)
	yes := true
	directory := v1.HostPathDirectory
	for name, test := range map[string]struct {
		source v1.VolumeSource
		err    string
	}{
		"missing map":        {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "nope"}}}, `MountVolume.SetUp failed for volume "v" : configmaps "nope" not found`},
		"optional map":       {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "nope"}, Optional: &yes}}, ""},
		"missing key":        {v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "m"}, Items: []v1.KeyToPath{{Key: "nope", Path: "x"}}}}, "references non-existent"},
		"not a directory":    {v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/proc/version", Type: &directory}}, "hostPath type check failed: /proc/version is not a directory"},
		"claim is not bound": {v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "unbound"}}, "is not bound"},
		"network volume":     {v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "network"}}, "does not support"},
		"unsupported kind":   {v1.VolumeSource{ISCSI: &v1.ISCSIVolumeSource{}}, "does not support"},
		"no such CSI driver": {v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: "d"}}, "has no CSI drivers"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.Mount(t.Context(), pod(v1.Volume{Name: "v", VolumeSource: test.source}))
			if (test.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		kind v1.HostPathType
		ok   bool
	}{
		{dir, v1.HostPathDirectory, true}, {file, v1.HostPathDirectory, false}, {filepath.Join(dir, "no"), v1.HostPathDirectory, false},
		{file, v1.HostPathFile, true}, {dir, v1.HostPathFile, false},
		{filepath.Join(dir, "a/b"), v1.HostPathDirectoryOrCreate, true}, {file, v1.HostPathDirectoryOrCreate, false},
		{filepath.Join(dir, "new"), v1.HostPathFileOrCreate, true}, {dir, v1.HostPathFileOrCreate, false},
		{"/dev/null", v1.HostPathCharDev, true}, {file, v1.HostPathCharDev, false}, {"/dev/null", v1.HostPathBlockDev, false},
		{file, v1.HostPathSocket, false}, {filepath.Join(dir, "no"), v1.HostPathUnset, true}, {dir, "Nonsense", false},
	} {
		if err := prepareHostPath(&v1.HostPathVolumeSource{Path: test.path, Type: &test.kind}); (err == nil) != test.ok {
			t.Errorf("%s as %q: %v", test.path, test.kind, err)
		}
	}
}

func TestEmptyDirAndSubPath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	m, _, _, _ := newManager(t)
	size := resource.MustParse("1Mi")
	p := pod(
		v1.Volume{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		v1.Volume{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &size}}},
	)
	if _, err := m.Mount(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	memory, _ := m.Path("u", "memory")
	var st unix.Statfs_t
	if err := unix.Statfs(memory, &st); err != nil || int64(st.Blocks)*st.Bsize != 1<<20 {
		t.Errorf("the memory volume has %d bytes, %v", int64(st.Blocks)*st.Bsize, err)
	}
	disk, _ := m.Path("u", "disk")
	if info, err := os.Stat(disk); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// What a container wrote survives another look at the volume.
	if err := os.WriteFile(filepath.Join(disk, "kept"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(disk, "escape")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mount(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	sub, err := m.SubPath("u", "c", "disk", "new/dir", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sub, "in"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(disk, "new/dir/in")); err != nil {
		t.Error(err)
	}
	file, err := m.SubPath("u", "c", "disk", "kept", 1)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Errorf("file %q, %v", b, err)
	}
	if _, err := m.SubPath("u", "c", "disk", "escape", 2); err == nil {
		t.Error("a link led out of the volume")
	}
	if err := m.Unmount(context.Background(), "u"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(disk); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
	if _, err := os.Stat("/etc/passwd"); err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestDirectories(t *testing.T) {
	d := Directories{Root: filepath.Join(t.TempDir(), "storage")}
	path, err := d.Make("pvc-1")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(path, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := d.Make("pvc-1"); err != nil || again != path {
		t.Errorf("made again: %s, %v", again, err)
	}
	for _, name := range []string{"", ".", "..", "../pvc-1", "a/b", "/etc"} {
		if _, err := d.Make(name); err == nil {
			t.Errorf("name %q was taken", name)
		}
		if err := d.Remove(name); err == nil {
			t.Errorf("name %q was removed", name)
		}
	}
	for range 2 {
		if err := d.Remove("pvc-1"); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(d.Root); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestLocalVolume(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	m, store, _, _ := newManager(t)
	group := int64(1234)
	onMismatch := v1.FSGroupChangeOnRootMismatch
	file := filepath.Join(store.local, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := pod(
		v1.Volume{Name: "rw", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "local"}}},
	)
	p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group, FSGroupChangePolicy: &onMismatch}
	groupOf := func() int {
		var st unix.Stat_t
		if err := unix.Stat(file, &st); err != nil {
			t.Fatal(err)
		}
		return int(st.Gid)
	}
	for range 2 {
		if _, err := m.Mount(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	path, _ := m.Path("u", "rw")
	if want := filepath.Join(m.PodDir("u"), "volumes/kubernetes.io~local-volume/local"); path != want || read(t, m, "rw", "file") != "x" {
		t.Errorf("the volume is at %s", path)
	}
	if g := groupOf(); g != 1234 {
		t.Errorf("the file belongs to group %d", g)
	}
	// The root is the group's: files are left as they are.
	if err := os.Chown(file, 0, 99); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Fatalf("the data went with the pod: %v", err)
	}
	if _, err := m.Mount(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if g := groupOf(); g != 99 {
		t.Errorf("the file belongs to group %d", g)
	}
	if err := m.Unmount(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	p.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	if _, err := m.Mount(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	path, _ = m.Path("u", "rw")
	if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to a read-only volume: %v", err)
	}
}
