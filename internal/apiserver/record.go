package apiserver

import (
	"context"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

// recordRequest completes the audit record by the request's body. What cannot
// be encoded is left out: the record is better than none.
func recordRequest(ctx context.Context, obj runtime.Object, gvk schema.GroupVersionKind) {
	record := audit.FromContext(ctx)
	if record == nil {
		return
	}
	if o, ok := obj.(metav1.Object); ok {
		record.Named(o.GetNamespace(), o.GetName(), o.GetUID(), o.GetResourceVersion())
	}
	if !record.WantsRequest() {
		return
	}
	if body, err := verbs.EncodeJSON(gvk, obj); err == nil {
		record.Request(body)
	}
}

// recordPatch completes the audit record by a patch, which is recorded as it
// is if it is JSON.
func recordPatch(ctx context.Context, patch []byte) {
	if record := audit.FromContext(ctx); record.WantsRequest() && json.Valid(patch) {
		record.Request(patch)
	}
}

// recordEntry completes the audit record by the object that is answered.
func recordEntry(ctx context.Context, v *verbs.Version, e *cache.Entry) {
	record := audit.FromContext(ctx)
	if !record.WantsResponse() {
		return
	}
	if item, err := encodeItem(ctx, e, v, mediaJSON); err == nil {
		record.Response(verbs.WithKind(v.GVK(), item))
	}
}

// recordList completes the audit record by the list that is answered.
func recordList(ctx context.Context, v *verbs.Version, list *verbs.ListResult) {
	record := audit.FromContext(ctx)
	if !record.WantsResponse() {
		return
	}
	if body, err := encodeList(ctx, v, list); err == nil {
		record.Response(body)
	}
}

// recordAnswer completes the audit record by an answer that is not stored.
func recordAnswer(ctx context.Context, obj runtime.Object, gvk schema.GroupVersionKind) {
	record := audit.FromContext(ctx)
	if record == nil {
		return
	}
	if status, ok := obj.(*metav1.Status); ok && status.Status == metav1.StatusFailure {
		record.Failed(status)
	}
	if !record.WantsResponse() {
		return
	}
	if body, err := verbs.EncodeJSON(gvk, obj); err == nil {
		record.Response(body)
	}
}
