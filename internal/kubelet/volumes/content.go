package volumes

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff/internal/kubelet/podspec"
)

// Default modes of files in content volumes, as the Pod API documents them.
const defaultMode fs.FileMode = 0o644

// collector gathers the files of one content volume.
type collector struct {
	m     *Manager
	pod   *v1.Pod
	mode  fs.FileMode
	files map[string]File
	// refresh is when the content has to be made again, zero for never.
	refresh time.Time
}

func modeOf(mode *int32, otherwise fs.FileMode) fs.FileMode {
	if mode == nil {
		return otherwise
	}
	return fs.FileMode(*mode)
}

// ShowPod reports whether a volume of the pod shows what is in the pod itself,
// which may change.
func ShowPod(pod *v1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool { return v.DownwardAPI != nil }) ||
		projects(pod, func(s v1.VolumeProjection) bool { return s.DownwardAPI != nil })
}

// ShowTrustBundles reports whether a volume of the pod shows trust anchors of
// the cluster, which may change.
func ShowTrustBundles(pod *v1.Pod) bool {
	return projects(pod, func(s v1.VolumeProjection) bool { return s.ClusterTrustBundle != nil })
}

// projects reports whether a projected volume of the pod has a source of a kind.
func projects(pod *v1.Pod, kind func(v1.VolumeProjection) bool) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, kind)
	})
}

// content returns the files of a content volume, or nil for another kind.
func (m *Manager) content(ctx context.Context, pod *v1.Pod, v *v1.Volume) (*collector, error) {
	c := &collector{m: m, pod: pod, files: map[string]File{}}
	switch {
	case v.ConfigMap != nil:
		c.mode = modeOf(v.ConfigMap.DefaultMode, defaultMode)
		return c, c.configMap(ctx, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional)
	case v.Secret != nil:
		c.mode = modeOf(v.Secret.DefaultMode, defaultMode)
		return c, c.secret(ctx, v.Secret.SecretName, v.Secret.Items, v.Secret.Optional)
	case v.DownwardAPI != nil:
		c.mode = modeOf(v.DownwardAPI.DefaultMode, defaultMode)
		return c, c.downward(v.DownwardAPI.Items)
	case v.Projected != nil:
		c.mode = modeOf(v.Projected.DefaultMode, defaultMode)
		for i := range v.Projected.Sources {
			if err := c.projected(ctx, &v.Projected.Sources[i]); err != nil {
				return c, err
			}
		}
		return c, nil
	}
	return nil, nil
}

func (c *collector) projected(ctx context.Context, s *v1.VolumeProjection) error {
	switch {
	case s.ConfigMap != nil:
		return c.configMap(ctx, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
	case s.Secret != nil:
		return c.secret(ctx, s.Secret.Name, s.Secret.Items, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return c.downward(s.DownwardAPI.Items)
	case s.ServiceAccountToken != nil:
		return c.token(ctx, s.ServiceAccountToken)
	case s.ClusterTrustBundle != nil:
		return c.trustAnchors(ctx, s.ClusterTrustBundle)
	}
	return fmt.Errorf("projected volume source is of a kind this kubelet does not support")
}

func missingIsFine(err error, optional *bool) bool {
	return apierrors.IsNotFound(err) && optional != nil && *optional
}

func (c *collector) configMap(ctx context.Context, name string, items []v1.KeyToPath, optional *bool) error {
	m, err := c.m.Objects.ConfigMap(ctx, c.pod.Namespace, name)
	if missingIsFine(err, optional) {
		return nil
	}
	if err != nil {
		return err
	}
	data := make(map[string][]byte, len(m.Data)+len(m.BinaryData))
	for k, v := range m.Data {
		data[k] = []byte(v)
	}
	for k, v := range m.BinaryData {
		data[k] = v
	}
	return c.add(data, items, optional, "configmap")
}

func (c *collector) secret(ctx context.Context, name string, items []v1.KeyToPath, optional *bool) error {
	s, err := c.m.Objects.Secret(ctx, c.pod.Namespace, name)
	if missingIsFine(err, optional) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.add(s.Data, items, optional, "secret")
}

func (c *collector) add(data map[string][]byte, items []v1.KeyToPath, optional *bool, kind string) error {
	if len(items) == 0 {
		for k, v := range data {
			c.files[k] = File{Data: v, Mode: c.mode}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("%s references non-existent %s key: %s", kind, kind, item.Key)
		}
		c.files[item.Path] = File{Data: v, Mode: modeOf(item.Mode, c.mode)}
	}
	return nil
}

func (c *collector) downward(items []v1.DownwardAPIVolumeFile) error {
	place := c.m.Place(c.pod)
	for i := range items {
		item := &items[i]
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = podspec.Field(c.pod, item.FieldRef.FieldPath, place)
		case item.ResourceFieldRef != nil:
			value, err = podspec.Resource(c.pod, nil, item.ResourceFieldRef, place)
		}
		if err != nil {
			return err
		}
		c.files[item.Path] = File{Data: []byte(value), Mode: modeOf(item.Mode, c.mode)}
	}
	return nil
}

// token adds a service account token, and notes when it must be replaced: at
// 80 % of its life, or after a day.
func (c *collector) token(ctx context.Context, s *v1.ServiceAccountTokenProjection) error {
	token, err := c.m.token(ctx, c.pod, s)
	if err != nil {
		return err
	}
	if c.refresh.IsZero() || token.refresh.Before(c.refresh) {
		c.refresh = token.refresh
	}
	c.addOwned(s.Path, []byte(token.value))
	return nil
}

// addOwned adds a file that belongs to the user of all containers, if there is
// one, and is then nobody else's.
func (c *collector) addOwned(path string, data []byte) {
	f := File{Data: data, Mode: c.mode, Owner: commonUser(c.pod)}
	if f.Owner != nil || fsGroup(c.pod) != nil {
		f.Mode = 0o600
	}
	c.files[path] = f
}

// trustAnchors adds a file even if there is nothing to trust, where that is
// fine.
func (c *collector) trustAnchors(ctx context.Context, s *v1.ClusterTrustBundleProjection) error {
	data, err := c.m.Objects.TrustAnchors(ctx, s)
	if err != nil {
		return err
	}
	c.addOwned(s.Path, data)
	return nil
}

// commonUser returns the user that all containers of the pod run as, or nil if
// they differ or do not say.
func commonUser(pod *v1.Pod) *int64 {
	var common *int64
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			var user *int64
			if sc := pod.Spec.SecurityContext; sc != nil {
				user = sc.RunAsUser
			}
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				user = sc.RunAsUser
			}
			if user == nil || (common != nil && *common != *user) {
				return nil
			}
			common = user
		}
	}
	return common
}

// cachedToken is a token and when it has to be replaced.
type cachedToken struct {
	value   string
	refresh time.Time
}

const (
	maxTokenAge      = 24 * time.Hour
	defaultTokenLife = int64(3600)
)

// token returns a token for the projection, from memory while it is young.
func (m *Manager) token(ctx context.Context, pod *v1.Pod, s *v1.ServiceAccountTokenProjection) (cachedToken, error) {
	key := tokenKey{uid: string(pod.UID), audience: s.Audience, path: s.Path}
	now := m.Clock.Now()
	m.mu.Lock()
	known, ok := m.tokens[key]
	m.mu.Unlock()
	if ok && now.Before(known.refresh) {
		return known, nil
	}
	life := defaultTokenLife
	if s.ExpirationSeconds != nil {
		life = *s.ExpirationSeconds
	}
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: &life,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	if err := m.Tokens(ctx, pod.Namespace, pod.Spec.ServiceAccountName, request); err != nil {
		return cachedToken{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	lifetime := request.Status.ExpirationTimestamp.Sub(now)
	token := cachedToken{value: request.Status.Token, refresh: now.Add(min(lifetime*4/5, maxTokenAge))}
	m.mu.Lock()
	m.tokens[key] = token
	m.mu.Unlock()
	return token, nil
}

type tokenKey struct{ uid, audience, path string }
