// Package imagepolicy asks a webhook whether pods may run their images
// (ImagePolicyWebhook).
package imagepolicy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/webhook/kubeconfig"
)

const (
	// asked are the annotations of pods that the webhook is told.
	asked = ".image-policy.k8s.io/"
	// told begins the keys of what is noted in the audit record.
	told = "imagepolicywebhook.image-policy.k8s.io/"
	// remembered is how many answers are kept.
	remembered = 1024
)

// Configuration is upstream's.
type Configuration struct {
	ImagePolicy struct {
		KubeConfigFile string `json:"kubeConfigFile"`
		// AllowTTL and DenyTTL are how many seconds answers hold (default 300 and
		// 30), RetryBackoff the milliseconds before the first further try
		// (default 500); -1 is none.
		AllowTTL     int64 `json:"allowTTL"`
		DenyTTL      int64 `json:"denyTTL"`
		RetryBackoff int64 `json:"retryBackoff"`
		// DefaultAllow lets pods through when the webhook cannot be asked.
		DefaultAllow bool `json:"defaultAllow"`
	} `json:"imagePolicy"`
}

// Plugin implements admission.Validator.
type Plugin struct {
	hook         *kubeconfig.Webhook
	allow, deny  time.Duration
	defaultAllow bool
	answers      *utilcache.LRUExpireCache
}

// New returns the plug-in.
func New(c Configuration) (*Plugin, error) {
	o := c.ImagePolicy
	if o.KubeConfigFile == "" {
		return nil, fmt.Errorf("imagePolicy.kubeConfigFile: Required value: name the webhook in a kubeconfig file")
	}
	p := &Plugin{defaultAllow: o.DefaultAllow, answers: utilcache.NewLRUExpireCache(remembered)}
	var errs [3]error
	var backoff time.Duration
	p.allow, errs[0] = within("allowTTL", o.AllowTTL, time.Second, 5*time.Minute, time.Second, 30*time.Minute)
	p.deny, errs[1] = within("denyTTL", o.DenyTTL, time.Second, 30*time.Second, time.Second, 30*time.Minute)
	backoff, errs[2] = within("retryBackoff", o.RetryBackoff, time.Millisecond, 500*time.Millisecond, time.Millisecond, 5*time.Minute)
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	var err error
	p.hook, err = kubeconfig.New(o.KubeConfigFile, imagepolicyv1alpha1.SchemeGroupVersion, imagepolicyv1alpha1.AddToScheme, 30*time.Second,
		wait.Backoff{Duration: backoff, Factor: 1.5, Jitter: 0.2, Steps: 5})
	return p, err
}

// within reads a time of the configuration: 0 is the usual one, -1 none.
func within(name string, value int64, unit, usual, least, most time.Duration) (time.Duration, error) {
	d := time.Duration(value) * unit
	switch {
	case value == 0:
		return usual, nil
	case value == -1:
		return 0, nil
	case d < least || d > most:
		return 0, fmt.Errorf("imagePolicy.%s: Invalid value: %d: must be between %s and %s, or -1", name, value, least, most)
	}
	return d, nil
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	whole, debugging := a.Is("", "pods", ""), a.Is("", "pods", "ephemeralcontainers")
	if !whole && !debugging || a.Operation != admission.Create && a.Operation != admission.Update {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	images := imagesOf(pod, debugging)
	if old, ok := a.Old.(*corev1.Pod); ok && slices.Equal(images, imagesOf(old, debugging)) && maps.Equal(annotationsOf(pod), annotationsOf(old)) {
		return nil
	}
	spec := imagepolicyv1alpha1.ImageReviewSpec{Namespace: a.Namespace, Annotations: annotationsOf(pod)}
	for _, image := range images {
		spec.Containers = append(spec.Containers, imagepolicyv1alpha1.ImageReviewContainerSpec{Image: image})
	}
	status, err := p.ask(ctx, spec)
	switch {
	case err != nil && p.defaultAllow:
		note(a, "failed-open", "true")
		return nil
	case err != nil:
		return a.Forbidden("%w", err)
	}
	for key, value := range status.AuditAnnotations {
		note(a, key, value)
	}
	switch {
	case status.Allowed:
		return nil
	case status.Reason != "":
		return a.Forbidden("image policy webhook backend denied one or more images: %s", status.Reason)
	}
	return a.Forbidden("one or more images rejected by webhook backend")
}

func (p *Plugin) ask(ctx context.Context, spec imagepolicyv1alpha1.ImageReviewSpec) (*imagepolicyv1alpha1.ImageReviewStatus, error) {
	key, err := json.Marshal(&spec)
	if err != nil {
		return nil, err
	}
	if known, ok := p.answers.Get(string(key)); ok {
		return known.(*imagepolicyv1alpha1.ImageReviewStatus), nil
	}
	answer := &imagepolicyv1alpha1.ImageReview{}
	if err := p.hook.Post(ctx, &imagepolicyv1alpha1.ImageReview{Spec: spec}, answer); err != nil {
		return nil, fmt.Errorf("the image policy webhook failed: %w", err)
	}
	ttl := p.deny
	if answer.Status.Allowed {
		ttl = p.allow
	}
	if ttl > 0 {
		p.answers.Add(string(key), &answer.Status, ttl)
	}
	return &answer.Status, nil
}

func imagesOf(pod *corev1.Pod, debugging bool) (images []string) {
	if debugging {
		for i := range pod.Spec.EphemeralContainers {
			images = append(images, pod.Spec.EphemeralContainers[i].Image)
		}
		return images
	}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			images = append(images, containers[i].Image)
		}
	}
	return images
}

func annotationsOf(pod *corev1.Pod) map[string]string {
	out := map[string]string{}
	for key, value := range pod.Annotations {
		if strings.Contains(key, asked) {
			out[key] = value
		}
	}
	return out
}

func note(a *admission.Attributes, key, value string) {
	if a.Annotate != nil {
		a.Annotate(told+key, value)
	}
}
