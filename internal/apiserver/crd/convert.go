package crd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apiserver/webhook"
)

// conversionTimeout is how long a conversion webhook may take (upstream's).
const conversionTimeout = 30 * time.Second

// Caller calls webhooks.
type Caller interface {
	Call(ctx context.Context, t webhook.Target, timeout time.Duration, in, out any) error
}

// convert returns the objects in the version; those that have it already are
// returned as they are.
func (d *definition) convert(ctx context.Context, objs []apis.Object, name string) ([]apis.Object, error) {
	gv := schema.GroupVersion{Group: d.crd.Spec.Group, Version: name}
	out := make([]apis.Object, len(objs))
	var todo []*unstructured.Unstructured
	var at []int
	for i, obj := range objs {
		out[i] = obj
		if u := obj.(*unstructured.Unstructured); u.GetAPIVersion() != gv.String() {
			todo, at = append(todo, u), append(at, i)
		}
	}
	if len(todo) == 0 {
		return out, nil
	}
	v := d.versions[name]
	if v == nil {
		return nil, fmt.Errorf("request to convert CR to an invalid group/version: %s", gv)
	}
	var converted []*unstructured.Unstructured
	var err error
	if c := d.crd.Spec.Conversion; c != nil && c.Strategy == apiextensionsv1.WebhookConverter {
		converted, err = d.ask(ctx, c.Webhook, todo, gv)
	} else {
		for _, u := range todo {
			same := u.DeepCopy()
			same.SetAPIVersion(gv.String())
			converted = append(converted, same)
		}
	}
	if err != nil {
		return nil, err
	}
	for i, u := range converted {
		if _, err := v.coerce(u, coercion{}); err != nil {
			return nil, err
		}
		out[at[i]] = u
	}
	return out, nil
}

// conversionReview has the one form that v1 and v1beta1 share.
type conversionReview = apiextensionsv1.ConversionReview

// ask lets the webhook convert the objects.
func (d *definition) ask(ctx context.Context, w *apiextensionsv1.WebhookConversion, objs []*unstructured.Unstructured, gv schema.GroupVersion) ([]*unstructured.Unstructured, error) {
	from := objs[0].GroupVersionKind()
	review := &conversionReview{Request: &apiextensionsv1.ConversionRequest{UID: uuid.NewUUID(), DesiredAPIVersion: gv.String()}}
	review.Kind = "ConversionReview"
	for _, name := range w.ConversionReviewVersions {
		if name == "v1" || name == "v1beta1" {
			review.APIVersion = apiextensionsv1.GroupName + "/" + name
			break
		}
	}
	if review.APIVersion == "" {
		return nil, errors.New("no supported conversion review versions")
	}
	for _, u := range objs {
		review.Request.Objects = append(review.Request.Objects, runtime.RawExtension{Object: u})
	}
	answer := &conversionReview{}
	began := time.Now()
	err := d.config.Webhooks.Call(ctx, targetOf(w.ClientConfig), conversionTimeout, review, answer)
	d.config.Metrics.converted(d.crd.Name, from.Version, gv.Version, began, err)
	if err != nil {
		return nil, fmt.Errorf("conversion webhook for %v failed: %v", from, err)
	}
	raw, err := answered(answer, review.APIVersion, review.Request.UID)
	if err != nil {
		return nil, fmt.Errorf("conversion webhook for %v failed: %v", from, err)
	}
	if len(raw) != len(objs) {
		return nil, fmt.Errorf("conversion webhook for %v returned %d objects, expected %d", from, len(raw), len(objs))
	}
	out := make([]*unstructured.Unstructured, len(raw))
	for i := range raw {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw[i].Raw); err != nil {
			return nil, fmt.Errorf("conversion webhook for %v returned invalid converted object at index %d: %v", from, i, err)
		}
		if err := accept(objs[i], u, gv); err != nil {
			return nil, fmt.Errorf("conversion webhook for %v returned invalid converted object at index %d: %v", from, i, err)
		}
		out[i] = u
	}
	return out, nil
}

func targetOf(c *apiextensionsv1.WebhookClientConfig) webhook.Target {
	t := webhook.Target{CABundle: bytes.TrimSpace(c.CABundle)}
	if c.URL != nil {
		t.URL = *c.URL
	}
	if s := c.Service; s != nil {
		t.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Path != nil {
			t.Service.Path = *s.Path
		}
		if s.Port != nil {
			t.Service.Port = *s.Port
		}
	}
	return t
}

// answered returns the converted objects of a review that says they are. The
// older form of reviews carries neither kind nor UID for certain.
func answered(answer *conversionReview, apiVersion string, uid types.UID) ([]runtime.RawExtension, error) {
	strict := apiVersion == apiextensionsv1.SchemeGroupVersion.String()
	want := schema.FromAPIVersionAndKind(apiVersion, "ConversionReview")
	if got := answer.GroupVersionKind(); strict && got != want {
		return nil, fmt.Errorf("expected webhook response of %v, got %v", want, got)
	}
	r := answer.Response
	switch {
	case r == nil:
		return nil, errors.New("no response provided")
	case strict && r.UID != uid:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, r.UID)
	case r.Result.Status != metav1.StatusSuccess && r.Result.Message != "":
		return nil, errors.New(r.Result.Message)
	case r.Result.Status != metav1.StatusSuccess:
		return nil, fmt.Errorf("response.result.status was '%s', not 'Success'", r.Result.Status)
	}
	return r.ConvertedObjects, nil
}

// accept checks that out is in in the wanted version, and puts back the
// metadata, of which a webhook may only change labels and annotations.
func accept(in, out *unstructured.Unstructured, gv schema.GroupVersion) error {
	switch got := out.GroupVersionKind(); {
	case got.GroupVersion() != gv:
		return fmt.Errorf("invalid groupVersion (expected %v, received %v)", gv, got.GroupVersion())
	case got.Kind != in.GetKind():
		return fmt.Errorf("invalid kind (expected %v, received %v)", in.GetKind(), got.Kind)
	case out.GetName() != in.GetName():
		return fmt.Errorf("must have the same name: %v != %v", in.GetName(), out.GetName())
	case out.GetNamespace() != in.GetNamespace():
		return fmt.Errorf("must have the same namespace: %v != %v", in.GetNamespace(), out.GetNamespace())
	case out.GetUID() != in.GetUID():
		return fmt.Errorf("must have the same UID: %v != %v", in.GetUID(), out.GetUID())
	}
	answered, ok := out.Object["metadata"].(map[string]any)
	if !ok {
		return fmt.Errorf("invalid metadata of type %T in converted object", out.Object["metadata"])
	}
	kept, err := keptMetadata(in, answered)
	if err != nil {
		return err
	}
	out.Object["metadata"] = kept
	return nil
}

// keptMetadata is that of in with the labels and annotations that a webhook
// answered.
func keptMetadata(in *unstructured.Unstructured, answered map[string]any) (map[string]any, error) {
	kept := map[string]any{}
	if m, ok := in.Object["metadata"].(map[string]any); ok {
		kept = runtime.DeepCopyJSON(m)
	}
	for _, name := range []string{"labels", "annotations"} {
		delete(kept, name)
		value, found := answered[name]
		if !found || value == nil {
			continue
		}
		all, ok := value.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("invalid metadata.%s of type %T in converted object", name, value)
		}
		texts := make(map[string]string, len(all))
		for k, v := range all {
			if texts[k], ok = v.(string); !ok {
				return nil, fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, k, v)
			}
		}
		check := metav1validation.ValidateLabels
		if name == "annotations" {
			check = apivalidation.ValidateAnnotations
		}
		if errs := check(texts, field.NewPath("metadata", name)); len(errs) > 0 {
			return nil, errs.ToAggregate()
		}
		kept[name] = all
	}
	return kept, nil
}
