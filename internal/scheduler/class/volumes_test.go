package class_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
	"skiff/internal/scheduler/cache"
	"skiff/internal/scheduler/class"
	"skiff/internal/scheduler/framework"
	"skiff/internal/scheduler/plugins/nodevolumelimits"
	"skiff/internal/scheduler/plugins/volumebinding"
	"skiff/internal/scheduler/plugins/volumerestrictions"
	"skiff/internal/scheduler/plugins/volumezone"
)

// How many there are at most, of each kind.
const (
	someNodes   = 5
	someClaims  = 8
	someVolumes = 14
	somePods    = 6
)

// storage is a cluster of which the API knows nodes, claims and volumes. Pods
// are the scheduler's alone.
type storage struct {
	*testing.T
	r       *rand.Rand
	c       client.Client
	cache   *cache.Cache
	binding *volumebinding.Plugin
	profile *framework.Profile
	pods    map[string]*corev1.Pod
	// decided are pods of which the scheduler has decided what the API does not
	// show yet.
	decided []*decidedPod
}

// decidedPod is a pod that was given a node, and volumes by claim: nil for those
// to be made.
type decidedPod struct {
	info  *framework.PodInfo
	node  string
	given map[string]*corev1.PersistentVolume
}

func newStorage(t *testing.T, seed uint64) *storage {
	t.Helper()
	c := testcluster.Start(t)
	set := c.Set(identity.Component("system:kube-scheduler"))
	s := &storage{
		T: t, r: rand.New(rand.NewPCG(seed, 2)), c: c.Client, cache: cache.New(), pods: map[string]*corev1.Pod{},
		binding: volumebinding.New(set, clock.RealClock{}),
	}
	s.profile = &framework.Profile{Filter: []framework.FilterPlugin{
		volumerestrictions.Plugin{Cache: set.Cache}, nodevolumelimits.Plugin{Cache: set.Cache}, s.binding, volumezone.Plugin{Cache: set.Cache},
	}}
	waits, at := ptr.To(storagev1.VolumeBindingWaitForFirstConsumer), func(key, value string) corev1.TopologySelectorTerm {
		return corev1.TopologySelectorTerm{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: key, Values: []string{value, "elsewhere"}}}}
	}
	for _, class := range []*storagev1.StorageClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "immediate"}, Provisioner: "a.example.com"},
		{ObjectMeta: metav1.ObjectMeta{Name: "static"}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: waits},
		{ObjectMeta: metav1.ObjectMeta{Name: "made"}, Provisioner: "a.example.com", VolumeBindingMode: waits},
		{ObjectMeta: metav1.ObjectMeta{Name: "zoned"}, Provisioner: "b.example.com", VolumeBindingMode: waits, AllowedTopologies: []corev1.TopologySelectorTerm{
			at(corev1.LabelTopologyZone, "z0"), at("disk", "ssd"),
		}},
		{ObjectMeta: metav1.ObjectMeta{Name: "counted"}, Provisioner: "counted.example.com", VolumeBindingMode: waits},
	} {
		s.must(s.c.Create(t.Context(), class))
	}
	s.must(s.c.Create(t.Context(), &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "counted.example.com"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: ptr.To(true)}}))
	s.must(s.c.Create(t.Context(), &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "b.example.com"}}))
	return s
}

func (s *storage) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// find reads o, and reports whether it is there.
func (s *storage) find(o client.Object) bool {
	s.Helper()
	err := s.c.Get(s.Context(), client.ObjectKeyFromObject(o), o)
	s.must(client.IgnoreNotFound(err))
	return err == nil
}

// remove deletes an object for good; sometimes only a part of the way.
func (s *storage) remove(o client.Object) {
	s.Helper()
	if len(o.GetFinalizers()) > 0 && s.r.IntN(3) > 0 {
		o.SetFinalizers(nil)
		s.must(s.c.Update(s.Context(), o))
	}
	s.must(client.IgnoreNotFound(s.c.Delete(s.Context(), o)))
}

func (s *storage) name(prefix string, n int) string { return fmt.Sprint(prefix, s.r.IntN(n)) }

// happen changes something.
func (s *storage) happen() {
	s.Helper()
	switch s.r.IntN(13) {
	case 0:
		s.changeNode()
	case 1:
		s.changeLimits()
	case 2, 3, 12:
		s.changeVolume()
	case 4, 5, 6:
		s.changeClaim()
	case 7:
		s.changeCapacity()
	case 8:
		s.changeAttachment()
	case 9:
		s.bindClaim()
	case 10:
		s.changePod()
	case 11:
		s.show()
	}
}

func (s *storage) changeNode() {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.name("n", someNodes)}}
	there := s.find(n)
	if there && s.r.IntN(3) == 0 {
		s.must(s.c.Delete(s.Context(), n))
		s.cache.DeleteNode(n.Name)
		return
	}
	n.Labels = map[string]string{"disk": pick(s.r, "ssd", "hdd")}
	if s.r.IntN(4) > 0 {
		n.Labels[pick(s.r, corev1.LabelTopologyZone, corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone)] = s.name("z", 3)
	}
	if s.r.IntN(4) == 0 {
		n.Labels[corev1.LabelTopologyRegion] = s.name("r", 2)
	}
	if there {
		s.must(s.c.Update(s.Context(), n))
	} else {
		s.must(s.c.Create(s.Context(), n))
	}
	s.cache.SetNode(n)
}

func (s *storage) changeLimits() {
	n := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: s.name("n", someNodes)}}
	if s.find(n) {
		s.remove(n)
		return
	}
	for _, driver := range []string{"a.example.com", "b.example.com", "counted.example.com"} {
		d := storagev1.CSINodeDriver{Name: driver, NodeID: n.Name}
		if s.r.IntN(3) > 0 {
			d.Allocatable = &storagev1.VolumeNodeResources{Count: ptr.To(int32(s.r.IntN(3)))}
		}
		n.Spec.Drivers = append(n.Spec.Drivers, d)
	}
	s.must(s.c.Create(s.Context(), n))
}

func (s *storage) changeVolume() {
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: s.name("v", someVolumes)}}
	if s.find(pv) {
		if !s.isDecided(pv) && (pv.Spec.ClaimRef != nil || s.r.IntN(4) == 0) {
			s.remove(pv)
		}
		return
	}
	pv.Labels = map[string]string{"kind": pick(s.r, "x", "y")}
	if s.r.IntN(3) == 0 {
		pv.Labels[pick(s.r, zoneLabels...)] = pick(s.r, "z0", "z1__z2", "r0", "z1____z0")
	}
	pv.Spec = corev1.PersistentVolumeSpec{
		Capacity:         corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(2+s.r.IntN(3))<<30, resource.BinarySI)},
		AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteMany},
		StorageClassName: pick(s.r, "static", "static", "static", "made", "zoned", "immediate"),
		VolumeMode:       s.mode(),
	}
	if s.r.IntN(3) == 0 {
		pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{pick(s.r, corev1.ReadWriteOncePod, corev1.ReadWriteOnce)}
	}
	if s.r.IntN(3) == 0 {
		pv.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/x"}
	} else {
		pv.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: pick(s.r, "a.example.com", "b.example.com"), VolumeHandle: pv.Name}
	}
	if s.r.IntN(2) == 0 {
		e := corev1.NodeSelectorRequirement{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}
		if s.r.IntN(2) == 0 {
			e.Key, e.Values = corev1.LabelTopologyZone, []string{s.name("z", 3), s.name("z", 3)}
		}
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{e}}}}}
	}
	if s.r.IntN(6) == 0 {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "default", Name: s.name("c", someClaims)}
	}
	s.must(s.c.Create(s.Context(), pv))
	if s.r.IntN(6) > 0 {
		pv.Status.Phase = corev1.VolumeAvailable
		s.must(s.c.Status().Update(s.Context(), pv))
	}
}

func (s *storage) size() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(1+s.r.IntN(3))<<30, resource.BinarySI)}
}

func (s *storage) mode() *corev1.PersistentVolumeMode {
	if s.r.IntN(8) == 0 {
		return ptr.To(corev1.PersistentVolumeBlock)
	}
	return ptr.To(corev1.PersistentVolumeFilesystem)
}

func (s *storage) changeClaim() {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: s.name("c", someClaims)}}
	if s.find(claim) {
		switch {
		case s.hasDecided(claim.Name):
		case s.r.IntN(20) == 0:
			claim.Status.Phase = corev1.ClaimLost
			s.must(s.c.Status().Update(s.Context(), claim))
		case s.r.IntN(4) == 0 && claim.Annotations["volume.kubernetes.io/selected-node"] != "":
			// Its driver gives up.
			delete(claim.Annotations, "volume.kubernetes.io/selected-node")
			s.must(s.c.Update(s.Context(), claim))
		case s.r.IntN(3) == 0 || claim.DeletionTimestamp != nil || claim.Status.Phase == corev1.ClaimLost:
			s.remove(claim)
		}
		return
	}
	claim.Spec = corev1.PersistentVolumeClaimSpec{
		AccessModes:      []corev1.PersistentVolumeAccessMode{pick(s.r, corev1.ReadWriteOnce, corev1.ReadWriteOnce, corev1.ReadWriteOncePod, corev1.ReadWriteMany)},
		StorageClassName: ptr.To(pick(s.r, "static", "static", "static", "static", "static", "static", "made", "made", "zoned", "zoned", "counted", "counted", "immediate", "nowhere", "")),
		VolumeMode:       s.mode(),
		Resources:        corev1.VolumeResourceRequirements{Requests: s.size()},
	}
	if s.r.IntN(5) == 0 {
		claim.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"kind": "x"}}
	}
	if s.r.IntN(20) == 0 {
		claim.Spec.VolumeName = s.name("v", someVolumes)
	}
	s.must(s.c.Create(s.Context(), claim))
}

// bindClaim does what the controller of volumes does.
func (s *storage) bindClaim() {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: s.name("c", someClaims)}}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: s.name("v", someVolumes)}}
	if !s.find(claim) || !s.find(pv) || claim.Spec.VolumeName != "" || pv.Spec.ClaimRef != nil || s.hasDecided(claim.Name) || s.isDecided(pv) {
		return
	}
	s.bind(claim, pv)
}

func (s *storage) bind(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
	s.Helper()
	pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "default", Name: claim.Name, UID: claim.UID}
	s.must(s.c.Update(s.Context(), pv))
	claim.Spec.VolumeName = pv.Name
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, "pv.kubernetes.io/bind-completed", "yes")
	s.must(s.c.Update(s.Context(), claim))
	claim.Status.Phase = corev1.ClaimBound
	s.must(s.c.Status().Update(s.Context(), claim))
}

func (s *storage) changeCapacity() {
	c := &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: s.name("k", 4)}}
	if s.find(c) {
		s.remove(c)
		return
	}
	c.StorageClassName = pick(s.r, "counted", "counted", "zoned")
	if s.r.IntN(5) > 0 {
		c.NodeTopology = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": pick(s.r, "ssd", "hdd")}}
	}
	if q := s.size()[corev1.ResourceStorage]; s.r.IntN(5) > 0 {
		c.Capacity = &q
	}
	if q := s.size()[corev1.ResourceStorage]; s.r.IntN(4) == 0 {
		c.MaximumVolumeSize = &q
	}
	s.must(s.c.Create(s.Context(), c))
}

func (s *storage) changeAttachment() {
	a := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: s.name("a", 4)}}
	if s.find(a) {
		s.remove(a)
		return
	}
	pv := s.name("v", someVolumes)
	a.Spec = storagev1.VolumeAttachmentSpec{Attacher: "a.example.com", NodeName: s.name("n", someNodes), Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}}
	s.must(s.c.Create(s.Context(), a))
}

func (s *storage) changePod() {
	name := s.name("p", somePods)
	if p := s.pods[name]; p != nil {
		if !slices.ContainsFunc(s.decided, func(d *decidedPod) bool { return d.info.Name == name }) {
			s.cache.DeletePod(p.UID)
			delete(s.pods, name)
		}
		return
	}
	p := s.randomPod(name)
	p.Spec.NodeName = s.name("n", someNodes)
	if s.cache.Node(p.Spec.NodeName) != nil {
		s.cache.SetPod(framework.NewPodInfo(p))
		s.pods[name] = p
	}
}

func (s *storage) randomPod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	for i := range 1 + s.r.IntN(3) {
		v := corev1.Volume{Name: fmt.Sprint(i)}
		if s.r.IntN(8) == 0 {
			v.GCEPersistentDisk = &corev1.GCEPersistentDiskVolumeSource{PDName: s.name("disk", 2), ReadOnly: s.r.IntN(2) == 0}
		} else if claim := s.name("c", someClaims); !slices.Contains(claimsOf(p), claim) {
			v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}
		} else {
			continue
		}
		p.Spec.Volumes = append(p.Spec.Volumes, v)
	}
	return p
}

// hasDecided reports whether it was decided about the claim.
func (s *storage) hasDecided(claim string) bool {
	return slices.ContainsFunc(s.decided, func(d *decidedPod) bool { _, ok := d.given[claim]; return ok })
}

func (s *storage) isDecided(pv *corev1.PersistentVolume) bool {
	return slices.ContainsFunc(s.decided, func(d *decidedPod) bool {
		for _, given := range d.given {
			if given != nil && given.Name == pv.Name {
				return true
			}
		}
		return false
	})
}

// show ends a decision: it is taken back, or the API comes to show it.
func (s *storage) show() {
	s.Helper()
	if len(s.decided) == 0 {
		return
	}
	d := s.decided[0]
	s.decided = s.decided[1:]
	if s.r.IntN(3) == 0 {
		s.cache.DeletePod(d.info.UID)
		delete(s.pods, d.info.Name)
	} else {
		for name, pv := range d.given {
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
			if !s.find(claim) || claim.Spec.VolumeName != "" {
				s.Fatalf("claim %s is not as it was", name)
			}
			if pv != nil {
				s.find(pv)
				s.bind(claim, pv)
				continue
			}
			metav1.SetMetaDataAnnotation(&claim.ObjectMeta, "volume.kubernetes.io/selected-node", d.node)
			s.must(s.c.Update(s.Context(), claim))
		}
	}
	s.binding.Unreserve(d.info, d.node)
}

// look is what the API shows, and what was decided besides.
func (s *storage) look() *naiveVolumes {
	s.Helper()
	var claims corev1.PersistentVolumeClaimList
	var volumes corev1.PersistentVolumeList
	var classes storagev1.StorageClassList
	var nodes storagev1.CSINodeList
	var drivers storagev1.CSIDriverList
	var capacities storagev1.CSIStorageCapacityList
	var attachments storagev1.VolumeAttachmentList
	for _, list := range []client.ObjectList{&claims, &volumes, &classes, &nodes, &drivers, &capacities, &attachments} {
		s.must(s.c.List(s.Context(), list))
	}
	v := &naiveVolumes{claims.Items, volumes.Items, classes.Items, nodes.Items, drivers.Items, capacities.Items, attachments.Items, nil}
	for _, p := range s.pods {
		if s.cache.Node(p.Spec.NodeName) != nil {
			v.pods = append(v.pods, p)
		}
	}
	for _, d := range s.decided {
		for name, pv := range d.given {
			if pv == nil {
				metav1.SetMetaDataAnnotation(&named(v.claims, name).ObjectMeta, "volume.kubernetes.io/selected-node", d.node)
			} else {
				named(v.volumes, pv.Name).Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: name, UID: named(v.claims, name).UID}
			}
		}
	}
	return v
}

// TestVolumesAsNaively compares with the naive implementation in a cluster in
// which nodes, claims, volumes and pods come, go and change. NAIVE_STEPS sets
// how often.
func TestVolumesAsNaively(t *testing.T) {
	steps := 1500
	if n, err := strconv.Atoi(os.Getenv("NAIVE_STEPS")); err == nil {
		steps = n
	}
	s := newStorage(t, 1)
	for range 40 {
		s.happen()
	}
	fitting, bound, made := 0, 0, 0
	for step := range steps {
		s.happen()
		pod := s.randomPod("new")
		info := framework.NewPodInfo(pod)
		k := class.New(s.profile, s.cache, info, seed)
		k.Best()
		naive := s.look()
		var good []*framework.NodeInfo
		for _, n := range s.cache.Rows() {
			if n.Node == nil {
				continue
			}
			why := k.Rejected()
			if why == nil {
				why = k.Why(n)
			}
			given, fits := naive.fits(pod, n.Node)
			if (why == nil) != fits {
				t.Fatalf("step %d, node %s: %v, but the naive implementation says %t, with %v, for %v", step, n.Node.Name, why, fits, given, claimsOf(pod))
			}
			if fits {
				good = append(good, n)
				fitting++
			}
		}
		name := s.name("p", somePods)
		if len(good) == 0 || s.pods[name] != nil || len(s.decided) > 2 || slices.ContainsFunc(claimsOf(pod), s.hasDecided) {
			continue
		}
		// It goes there, and the API does not show it for a while.
		n := pick(s.r, good...)
		pod.Name, pod.UID = name, types.UID(name)
		info = framework.NewPodInfo(pod)
		if why := s.binding.Reserve(info, n.Node.Name); why != nil {
			t.Fatalf("step %d: %v", step, why)
		}
		given, _ := naive.fits(pod, n.Node)
		for _, pv := range given {
			if pv == nil {
				made++
			} else {
				bound++
			}
		}
		s.decided = append(s.decided, &decidedPod{info: info, node: n.Node.Name, given: given})
		s.cache.Assume(info, n.Node.Name)
		placed := pod.DeepCopy()
		placed.Spec.NodeName = n.Node.Name
		s.pods[name] = placed
	}
	t.Logf("fits %d times; %d claims bound, %d volumes made", fitting, bound, made)
	if steps >= 1000 && (fitting < steps/4 || bound < steps/250 || made < steps/250) {
		t.Errorf("in %d steps pods fit %d times, %d claims were bound and %d volumes made: that tests little", steps, fitting, bound, made)
	}
}
