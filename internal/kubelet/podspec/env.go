// Package podspec turns a pod's spec into what the runtime is asked for: the
// sandbox, and each container's command, environment, mounts and security
// settings. It reads no cluster state itself; what it needs comes in as
// values or through Objects.
package podspec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Objects reads what environment variables and volumes refer to.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Sources are what a pod's environment variables refer to.
type Sources interface {
	Objects
	// File reads a file in one of the pod's volumes; it is an fs.ErrNotExist if
	// there is none.
	File(volume, path string) ([]byte, error)
}

// environment collects variables; later ones win, and each is seen by those
// after it.
type environment struct {
	values map[string]string
}

func (e *environment) lookup(services map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if v, ok := e.values[name]; ok {
			return v, true
		}
		v, ok := services[name]
		return v, ok
	}
}

// Env returns the environment of a container: service variables, then envFrom,
// then env, each overriding the ones before.
func Env(ctx context.Context, pod *v1.Pod, c *v1.Container, place Place, services []v1.Service, sources Sources) (map[string]string, error) {
	links := serviceEnv(pod, services)
	e := environment{values: map[string]string{}}
	for i := range c.EnvFrom {
		if err := e.addSource(ctx, pod.Namespace, &c.EnvFrom[i], sources); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		v := &c.Env[i]
		if v.ValueFrom == nil {
			e.values[v.Name] = expand(v.Value, e.lookup(links))
			continue
		}
		value, ok, err := valueFrom(ctx, pod, c, v.ValueFrom, place, sources)
		if err != nil {
			return nil, err
		}
		if ok {
			e.values[v.Name] = value
		}
	}
	for name, value := range links {
		if _, ok := e.values[name]; !ok {
			e.values[name] = value
		}
	}
	return e.values, nil
}

func (e *environment) addSource(ctx context.Context, namespace string, from *v1.EnvFromSource, objects Objects) error {
	switch {
	case from.ConfigMapRef != nil:
		ref := from.ConfigMapRef
		m, err := objects.ConfigMap(ctx, namespace, ref.Name)
		if err != nil {
			return unlessOptional(err, ref.Optional)
		}
		for k, v := range m.Data {
			e.values[from.Prefix+k] = v
		}
	case from.SecretRef != nil:
		ref := from.SecretRef
		s, err := objects.Secret(ctx, namespace, ref.Name)
		if err != nil {
			return unlessOptional(err, ref.Optional)
		}
		for k, v := range s.Data {
			e.values[from.Prefix+k] = string(v)
		}
	}
	return nil
}

// unlessOptional drops the error that an optional object is missing.
func unlessOptional(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	return err
}

func valueFrom(ctx context.Context, pod *v1.Pod, c *v1.Container, from *v1.EnvVarSource, place Place, sources Sources) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = Field(pod, from.FieldRef.FieldPath, place)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = Resource(pod, c, from.ResourceFieldRef, place)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		m, err := sources.ConfigMap(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		if value, ok = m.Data[ref.Key]; !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return value, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := sources.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		b, ok := s.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(b), ok, nil
	case from.FileKeyRef != nil:
		return fileKey(from.FileKeyRef, sources)
	}
	return "", false, fmt.Errorf("environment variable source of container %s is of a kind this kubelet does not know", c.Name)
}

func fileKey(ref *v1.FileKeySelector, sources Sources) (value string, ok bool, err error) {
	file, err := sources.File(ref.VolumeName, ref.Path)
	if errors.Is(err, fs.ErrNotExist) && isTrue(ref.Optional) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("couldn't read env file %s of volume %s: %w", ref.Path, ref.VolumeName, err)
	}
	value, ok, err = envFileValue(string(file), ref.Key)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("couldn't parse env file %s of volume %s: %w", ref.Path, ref.VolumeName, err)
	case !ok && !isTrue(ref.Optional):
		return "", false, fmt.Errorf("environment variable key %q not found in file %q of volume %q", ref.Key, ref.Path, ref.VolumeName)
	}
	return value, ok, nil
}

func isTrue(b *bool) bool { return b != nil && *b }

// serviceEnv returns the variables that name services: those of the pod's
// namespace if the pod wants them, and always the API server's.
func serviceEnv(pod *v1.Pod, services []v1.Service) map[string]string {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	env := map[string]string{}
	for i := range services {
		s := &services[i]
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		if isAPIServer(s) || (links && s.Namespace == pod.Namespace) {
			addService(env, s, !isAPIServer(s) || s.Namespace == pod.Namespace)
		}
	}
	return env
}

func isAPIServer(s *v1.Service) bool {
	return s.Namespace == v1.NamespaceDefault && s.Name == "kubernetes"
}

// addService adds a service's variables (see "Service: environment
// variables"). One of the pod's own namespace is never overwritten by the API
// server's.
func addService(env map[string]string, s *v1.Service, overwrite bool) {
	set := func(name, value string) {
		if _, ok := env[name]; !ok || overwrite {
			env[name] = value
		}
	}
	prefix := envName(s.Name)
	port := s.Spec.Ports[0]
	host := s.Spec.ClusterIP
	set(prefix+"_SERVICE_HOST", host)
	set(prefix+"_SERVICE_PORT", strconv.Itoa(int(port.Port)))
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			set(prefix+"_SERVICE_PORT_"+envName(p.Name), strconv.Itoa(int(p.Port)))
		}
	}
	for i, p := range s.Spec.Ports {
		protocol := string(p.Protocol)
		if protocol == "" {
			protocol = string(v1.ProtocolTCP)
		}
		number := strconv.Itoa(int(p.Port))
		address := host
		if strings.Contains(host, ":") {
			address = "[" + host + "]"
		}
		url := strings.ToLower(protocol) + "://" + address + ":" + number
		if i == 0 {
			set(prefix+"_PORT", url)
		}
		base := prefix + "_PORT_" + number + "_" + strings.ToUpper(protocol)
		set(base, url)
		set(base+"_PROTO", strings.ToLower(protocol))
		set(base+"_PORT", number)
		set(base+"_ADDR", host)
	}
}

func envName(s string) string {
	return strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
}

// keyValues returns the environment in a stable order.
func keyValues(env map[string]string) []*cri.KeyValue {
	names := make([]string, 0, len(env))
	for name := range env {
		names = append(names, name)
	}
	sort.Strings(names)
	out := make([]*cri.KeyValue, len(names))
	for i, name := range names {
		out[i] = &cri.KeyValue{Key: name, Value: []byte(env[name])}
	}
	return out
}
