// Package serviceaccount gives pods their service account, and the volume with
// which they reach the API as it.
package serviceaccount

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"skiff/internal/apis/podrefs"
	"skiff/internal/apiserver/admission"
)

const (
	defaultName  = "default"
	mountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
	volumePrefix = "kube-api-access-"
	// enforceSecrets is the annotation of a service account whose pods may only
	// use the secrets that it lists.
	enforceSecrets = "kubernetes.io/enforce-mountable-secrets"
	// tokenSeconds marks tokens of this volume: see serviceaccount.TokenCreate.
	tokenSeconds = 3607
	// patience is how long a pod waits for its namespace's default service
	// account, which a controller makes a moment after the namespace.
	patience = 5 * time.Second
)

// Accounts finds service accounts.
type Accounts interface {
	// Get returns the account; if there is none it waits for one for up to the
	// given time. The error is then NotFound.
	Get(ctx context.Context, namespace, name string, patience time.Duration) (*corev1.ServiceAccount, error)
}

// Plugin implements admission.Mutator and admission.Validator.
type Plugin struct{ Accounts Accounts }

func (p *Plugin) concerns(a *admission.Attributes) bool {
	return a.Operation == admission.Create && a.Is("", "pods", "")
}

// Mutate implements admission.Mutator.
func (p *Plugin) Mutate(ctx context.Context, a *admission.Attributes) error {
	if !p.concerns(a) {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	if isMirror(pod) {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultName
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if automounts(account, pod) {
		mount(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return nil
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	debugging := a.Operation == admission.Update && a.Is("", "pods", "ephemeralcontainers")
	if !p.concerns(a) && !debugging {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	switch {
	case isMirror(pod) && !debugging:
		return checkMirror(a, pod)
	case pod.Spec.ServiceAccountName == "":
		return a.Forbidden("no service account specified for pod %s/%s", a.Namespace, pod.Name)
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if enforced, _ := strconv.ParseBool(account.Annotations[enforceSecrets]); !enforced {
		return nil
	}
	if debugging {
		return checkEphemeral(a, account, pod)
	}
	return checkSecrets(a, account, pod)
}

func (p *Plugin) account(ctx context.Context, a *admission.Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	name, wait := pod.Spec.ServiceAccountName, time.Duration(0)
	if name == defaultName {
		wait = patience
	}
	if wrong := content.IsPathSegmentName(name); len(wrong) > 0 {
		return nil, a.Forbidden("error looking up service account %s/%s: invalid resource name %q: %v", a.Namespace, name, name, wrong)
	}
	account, err := p.Accounts.Get(ctx, a.Namespace, name, wait)
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)
	}
	if err != nil {
		return nil, a.Forbidden("error looking up service account %s/%s: %w", a.Namespace, name, err)
	}
	return account, nil
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

func automounts(account *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken
}

// mount mounts the token into each container that has nothing at its place.
func mount(pod *corev1.Pod) {
	name, exists := "", false
	for i := range pod.Spec.Volumes {
		if strings.HasPrefix(pod.Spec.Volumes[i].Name, volumePrefix) {
			name, exists = pod.Spec.Volumes[i].Name, true
			break
		}
	}
	if !exists {
		name = volumePrefix + utilrand.String(5)
	}
	needed := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == mountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: mountPath})
			needed = true
		}
	}
	if needed && !exists {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{
			Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenVolume()},
		})
	}
}

func tokenVolume() *corev1.ProjectedVolumeSource {
	return &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path:     "namespace",
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}

// checkMirror refuses what would let a node that makes static pods get at what
// is not its own.
func checkMirror(a *admission.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return a.Forbidden("a mirror pod may not reference service accounts")
	}
	if podrefs.Has(pod, podrefs.Secret) {
		return a.Forbidden("a mirror pod may not reference secrets")
	}
	for i := range pod.Spec.Volumes {
		if projected := pod.Spec.Volumes[i].Projected; projected != nil {
			for j := range projected.Sources {
				if projected.Sources[j].ServiceAccountToken != nil {
					return a.Forbidden("a mirror pod may not use ServiceAccountToken volume projections")
				}
			}
		}
	}
	return nil
}

// unlisted tells secrets that the account does not list.
func unlisted(account *corev1.ServiceAccount) func(name string) bool {
	return func(name string) bool {
		return !slices.ContainsFunc(account.Secrets, func(r corev1.ObjectReference) bool { return r.Name == name })
	}
}

func checkSecrets(a *admission.Attributes, account *corev1.ServiceAccount, pod *corev1.Pod) error {
	if use := firstSecret(pod, unlisted(account)); use != "" {
		return notReferenced(a, account, use)
	}
	for i, ref := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, ref) {
			return a.Forbidden(`imagePullSecrets[%d].name="%s" is not allowed because service account %s does not reference that imagePullSecret`, i, ref.Name, account.Name)
		}
	}
	return nil
}

func checkEphemeral(a *admission.Attributes, account *corev1.ServiceAccount, pod *corev1.Pod) error {
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		if use := secretInEnvironment("ephemeral container "+c.Name, c.Env, c.EnvFrom, unlisted(account)); use != "" {
			return notReferenced(a, account, use)
		}
	}
	return nil
}

func notReferenced(a *admission.Attributes, account *corev1.ServiceAccount, use string) error {
	return a.Forbidden("%s is not allowed because service account %s does not reference that secret", use, account.Name)
}

// firstSecret says, in upstream's words, where the pod first uses a secret that
// bad names.
func firstSecret(pod *corev1.Pod, bad func(name string) bool) string {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Secret != nil && bad(v.Secret.SecretName) {
			return fmt.Sprintf("volume with secret.secretName=%q", v.Secret.SecretName)
		}
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			if s := v.Projected.Sources[j].Secret; s != nil && bad(s.Name) {
				return fmt.Sprintf("volume with projected.sources.secret.name=%q", s.Name)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if use := secretInEnvironment("init container "+c.Name, c.Env, c.EnvFrom, bad); use != "" {
			return use
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if use := secretInEnvironment("container "+c.Name, c.Env, c.EnvFrom, bad); use != "" {
			return use
		}
	}
	return ""
}

func secretInEnvironment(container string, env []corev1.EnvVar, from []corev1.EnvFromSource, bad func(name string) bool) string {
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && bad(e.ValueFrom.SecretKeyRef.Name) {
			return fmt.Sprintf("%s with envVar %s referencing secret.secretName=%q", container, e.Name, e.ValueFrom.SecretKeyRef.Name)
		}
	}
	for _, f := range from {
		if f.SecretRef != nil && bad(f.SecretRef.Name) {
			return fmt.Sprintf("%s with envFrom referencing secret.secretName=%q", container, f.SecretRef.Name)
		}
	}
	return ""
}
