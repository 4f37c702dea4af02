package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/kubelet/podspec"
)

// objects reads what pods refer to.
type objects struct{ k *Kubelet }

// ConfigMap implements volumes.Objects.
func (o objects) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	return o.k.references.ConfigMap(ctx, namespace, name)
}

// Secret implements volumes.Objects.
func (o objects) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	return o.k.references.Secret(ctx, namespace, name)
}

// TrustAnchors implements volumes.Objects.
func (o objects) TrustAnchors(ctx context.Context, p *v1.ClusterTrustBundleProjection) ([]byte, error) {
	if !o.k.TrustBundles {
		return nil, errors.New("ClusterTrustBundle projection is not supported: the feature ClusterTrustBundleProjection is off on this node")
	}
	return o.k.trustBundles.Anchors(ctx, p)
}

// PersistentVolumeClaim implements volumes.Objects.
func (o objects) PersistentVolumeClaim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, error) {
	c := &v1.PersistentVolumeClaim{}
	return c, o.k.Client.Client.Get(ctx, ctrl.ObjectKey{Namespace: namespace, Name: name}, c)
}

// PersistentVolume implements volumes.Objects.
func (o objects) PersistentVolume(ctx context.Context, name string) (*v1.PersistentVolume, error) {
	pv := &v1.PersistentVolume{}
	return pv, o.k.Client.Client.Get(ctx, ctrl.ObjectKey{Name: name}, pv)
}

// ClaimExpanded implements volumes.Objects.
func (o objects) ClaimExpanded(ctx context.Context, claim *v1.PersistentVolumeClaim, size resource.Quantity) error {
	next := claim.DeepCopy()
	if next.Status.Capacity == nil {
		next.Status.Capacity = v1.ResourceList{}
	}
	next.Status.Capacity[v1.ResourceStorage] = size
	next.Status.Conditions = slices.DeleteFunc(next.Status.Conditions, func(c v1.PersistentVolumeClaimCondition) bool {
		return c.Type == v1.PersistentVolumeClaimResizing || c.Type == v1.PersistentVolumeClaimFileSystemResizePending
	})
	delete(next.Status.AllocatedResourceStatuses, v1.ResourceStorage)
	return o.k.Client.Client.Status().Patch(ctx, next, ctrl.MergeFrom(claim))
}

// live reads straight from the API server: environment variables are fixed
// when a container starts, so that they must not come from a watch that lags.
type live struct{ client ctrl.Client }

// ConfigMap implements podspec.Objects.
func (l live) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	o := &v1.ConfigMap{}
	return o, l.client.Get(ctx, ctrl.ObjectKey{Namespace: namespace, Name: name}, o)
}

// Secret implements podspec.Objects.
func (l live) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	o := &v1.Secret{}
	return o, l.client.Get(ctx, ctrl.ObjectKey{Namespace: namespace, Name: name}, o)
}

// podSources are what the environment of one pod's containers refers to.
type podSources struct {
	live
	w *worker
}

// File implements podspec.Sources. The pod may have left links there, which lead
// nowhere outside the volume.
func (p podSources) File(volume, path string) ([]byte, error) {
	dir, err := p.w.k.volumes.Path(p.w.uid, volume)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxEnvFile {
		return nil, fmt.Errorf("it is no file of at most %d bytes", maxEnvFile)
	}
	return root.ReadFile(path)
}

// maxEnvFile is how large a file of variables may be: what a pod writes must not
// take up the node's memory.
const maxEnvFile = 1 << 20

// requestToken asks the API server for a service account token.
func (k *Kubelet) requestToken(ctx context.Context, namespace, serviceAccount string, request *authv1.TokenRequest) error {
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceAccount}}
	return k.Client.Client.SubResource("token").Create(ctx, account, request)
}

// services returns the services that a pod's environment names.
func (k *Kubelet) services(ctx context.Context, pod *v1.Pod) ([]v1.Service, error) {
	var out []v1.Service
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		var list v1.ServiceList
		if err := k.Client.Cache.List(ctx, &list, ctrl.InNamespace(pod.Namespace)); err != nil {
			return nil, err
		}
		out = list.Items
		if pod.Namespace == v1.NamespaceDefault {
			return out, nil
		}
	}
	apiServer := v1.Service{}
	err := k.Client.Cache.Get(ctx, ctrl.ObjectKey{Namespace: v1.NamespaceDefault, Name: "kubernetes"}, &apiServer)
	if ctrl.IgnoreNotFound(err) != nil {
		return nil, err
	}
	if err == nil {
		// First, so that one of the same name in the pod's namespace wins.
		out = append([]v1.Service{apiServer}, out...)
	}
	return out, nil
}

// place says where a pod runs, for its downward API.
func (k *Kubelet) place(pod *v1.Pod) podspec.Place {
	p := podspec.Place{NodeName: k.NodeName}
	for _, ip := range k.NodeIPs {
		p.HostIPs = append(p.HostIPs, ip.String())
	}
	for _, ip := range pod.Status.PodIPs {
		p.PodIPs = append(p.PodIPs, ip.IP)
	}
	if pod.Spec.HostNetwork {
		p.PodIPs = p.HostIPs
	}
	if n := k.node.Node(); n != nil {
		p.Allocatable = n.Status.Allocatable
	}
	return p
}

// minor returns v1.36.0 as 1.36.
func minor(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return version
	}
	return parts[0] + "." + parts[1]
}
