// Package images makes sure that a container's image is on the node.
package images

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/reference"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"skiff/internal/kubelet/podspec"
)

// Error is a failure with the reason that the container's status shows.
type Error struct {
	Reason  string
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Back-off between pulls of one image for one pod.
const (
	initialDelay = 10 * time.Second
	maxDelay     = 5 * time.Minute
)

// Manager pulls images.
type Manager struct {
	images   cri.ImageServiceClient
	recorder record.EventRecorder
	clock    clock.Clock
	backoff  *flowcontrol.Backoff
}

// New returns a manager.
func New(images cri.ImageServiceClient, recorder record.EventRecorder, c clock.Clock) *Manager {
	return &Manager{
		images: images, recorder: recorder, clock: c,
		backoff: flowcontrol.NewBackOff(initialDelay, maxDelay),
	}
}

// Image is an image on the node.
type Image struct {
	Ref  string
	User podspec.ImageUser
}

// Request asks for the image of a container.
type Request struct {
	Pod       *v1.Pod
	Container *v1.Container
	Reference *v1.ObjectReference
	Sandbox   *cri.PodSandboxConfig
	// Secrets are the pod's pull secrets.
	Secrets []*v1.Secret
}

// Ensure returns the image, pulled if the policy asks for it. Its errors are
// *Error. retry is when another try makes sense, zero unless backing off.
func (m *Manager) Ensure(ctx context.Context, r Request) (image Image, retry time.Time, err error) {
	name := r.Container.Image
	full, err := FullName(name)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", name, name, err)
		m.recorder.Event(r.Reference, v1.EventTypeWarning, "InspectFailed", message)
		return Image{}, time.Time{}, &Error{"InvalidImageName", message}
	}
	image, present, err := m.inspect(ctx, full)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", name, message(err))
		m.recorder.Event(r.Reference, v1.EventTypeWarning, "InspectFailed", message)
		return Image{}, time.Time{}, &Error{"ImageInspectError", message}
	}
	policy := r.Container.ImagePullPolicy
	if present && policy != v1.PullAlways {
		m.recorder.Event(r.Reference, v1.EventTypeNormal, "Pulled",
			fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", name))
		return image, time.Time{}, nil
	}
	if policy == v1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", name)
		m.recorder.Event(r.Reference, v1.EventTypeWarning, "ErrImageNeverPull", message)
		return Image{}, time.Time{}, &Error{"ErrImageNeverPull", message}
	}
	return m.pull(ctx, r, full)
}

func (m *Manager) pull(ctx context.Context, r Request, full string) (Image, time.Time, error) {
	name := r.Container.Image
	key := string(r.Pod.UID) + "_" + name
	now := m.clock.Now()
	if m.backoff.IsInBackOffSinceUpdate(key, now) {
		message := fmt.Sprintf("Back-off pulling image %q", name)
		m.recorder.Event(r.Reference, v1.EventTypeNormal, "BackOff", message)
		return Image{}, now.Add(m.backoff.Get(key)), &Error{"ImagePullBackOff", message}
	}
	m.recorder.Event(r.Reference, v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", name))
	var err error
	for _, auth := range credentials(full, r.Secrets) {
		if _, err = m.images.PullImage(ctx, &cri.PullImageRequest{
			Image: &cri.ImageSpec{Image: full, UserSpecifiedImage: name}, Auth: auth, SandboxConfig: r.Sandbox,
		}); err == nil {
			break
		}
	}
	if err != nil {
		text := message(err)
		m.recorder.Event(r.Reference, v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", name, text))
		m.backoff.Next(key, m.clock.Now())
		return Image{}, m.clock.Now().Add(m.backoff.Get(key)), &Error{"ErrImagePull", text}
	}
	m.backoff.GC()
	image, present, err := m.inspect(ctx, full)
	if err == nil && !present {
		err = errors.New("the runtime does not find the image it has pulled")
	}
	if err != nil {
		return Image{}, time.Time{}, &Error{"ImageInspectError", fmt.Sprintf("Failed to inspect image %q: %v", name, message(err))}
	}
	took := m.clock.Since(now).Truncate(time.Millisecond)
	m.recorder.Event(r.Reference, v1.EventTypeNormal, "Pulled",
		fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", name, took, took, m.size(ctx, full)))
	return image, time.Time{}, nil
}

func (m *Manager) size(ctx context.Context, name string) uint64 {
	r, err := m.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	if err != nil {
		return 0
	}
	return r.GetImage().GetSize()
}

func (m *Manager) inspect(ctx context.Context, name string) (Image, bool, error) {
	r, err := m.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	if err != nil || r.Image == nil {
		return Image{}, false, err
	}
	image := Image{Ref: r.Image.Id, User: podspec.ImageUser{Name: r.Image.Username}}
	if uid := r.Image.Uid; uid != nil {
		image.User.UID = &uid.Value
	}
	return image, true, nil
}

// message returns the text of a runtime's error without gRPC's prefix.
func message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// FullName adds :latest to a name with neither tag nor digest.
func FullName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	if reference.IsNameOnly(named) {
		return name + ":latest", nil
	}
	return name, nil
}

// credentials returns what to try, in order: what the secrets have for the
// image's registry, else nothing at all.
func credentials(image string, secrets []*v1.Secret) []*cri.AuthConfig {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return []*cri.AuthConfig{nil}
	}
	full := named.Name()
	var out []*cri.AuthConfig
	for _, s := range secrets {
		for registry, entry := range registryAuths(s) {
			if matches(registry, full) {
				out = append(out, entry)
			}
		}
	}
	if len(out) == 0 {
		return []*cri.AuthConfig{nil}
	}
	return out
}

type authEntry struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"`
}

// registryAuths decodes a pull secret of either type; one that is broken has
// nothing to offer.
func registryAuths(s *v1.Secret) map[string]*cri.AuthConfig {
	auths := map[string]authEntry{}
	switch s.Type {
	case v1.SecretTypeDockerConfigJson:
		var file struct {
			Auths map[string]authEntry `json:"auths"`
		}
		if json.Unmarshal(s.Data[v1.DockerConfigJsonKey], &file) == nil {
			auths = file.Auths
		}
	case v1.SecretTypeDockercfg:
		if json.Unmarshal(s.Data[v1.DockerConfigKey], &auths) != nil {
			return nil
		}
	}
	out := map[string]*cri.AuthConfig{}
	for registry, a := range auths {
		if a.Username == "" && a.Auth != "" {
			if b, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
				a.Username, a.Password, _ = strings.Cut(string(b), ":")
			}
		}
		out[registry] = &cri.AuthConfig{Username: a.Username, Password: a.Password}
	}
	return out
}

// matches reports whether credentials for registry (a host, maybe with scheme
// and path) are for the image with this full name.
func matches(registry, image string) bool {
	registry = strings.TrimPrefix(strings.TrimPrefix(registry, "https://"), "http://")
	registry = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(registry, "/"), "/v1"), "/v2")
	if registry == "index.docker.io" {
		registry = "docker.io"
	}
	return image == registry || strings.HasPrefix(image, registry+"/")
}
