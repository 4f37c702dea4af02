// Package history keeps the past pod templates of an owner as
// ControllerRevisions, which kubectl rollout reads and goes back to.
package history

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/index"
	"skiff/internal/controllers/pods"
)

// maxPrefix leaves room for a hash in the name of a revision.
const maxPrefix = 223

// Control reads and writes the revisions of owners of one kind.
type Control struct {
	Client crclient.Client
	Cache  crclient.Reader
	Kind   schema.GroupVersionKind
	// HashLabel is the label that holds a revision's hash.
	HashLabel string
}

// List returns the revisions that owner controls, the oldest first; orphans
// that match the selector are adopted. The revisions are shared. live reads
// owner anew.
func (c Control) List(ctx context.Context, owner crclient.Object, selector labels.Selector, live func(context.Context) (crclient.Object, error)) ([]*appsv1.ControllerRevision, error) {
	var all []*appsv1.ControllerRevision
	for _, uid := range []string{string(owner.GetUID()), index.Orphans} {
		var list appsv1.ControllerRevisionList
		err := c.Cache.List(ctx, &list, crclient.InNamespace(owner.GetNamespace()), crclient.MatchingFields{index.Controller: uid},
			crclient.MatchingLabelsSelector{Selector: selector}, crclient.UnsafeDisableDeepCopy)
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
	}
	all, err := controller.Claim(ctx, c.Client, owner, c.Kind, selector, all, live)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

// Sync returns the revision of the template, and all revisions with it as the
// newest. It is made if there is none, and an older one with the same template
// becomes the newest again. collisions grows when a name is taken.
func (c Control) Sync(ctx context.Context, owner crclient.Object, template *corev1.PodTemplateSpec, all []*appsv1.ControllerRevision, collisions **int32) (*appsv1.ControllerRevision, []*appsv1.ControllerRevision, error) {
	var newest int64
	if n := len(all); n > 0 {
		newest = all[n-1].Revision
	}
	data, err := Data(template)
	if err != nil {
		return nil, all, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if !same(all[i], template, data) {
			continue
		}
		if i == len(all)-1 {
			return all[i], all, nil
		}
		back := all[i].DeepCopy()
		back.Revision = newest + 1
		if err := c.Client.Update(ctx, back); err != nil {
			return nil, all, err
		}
		return back, append(slices.Delete(slices.Clone(all), i, i+1), back), nil
	}
	for {
		r := c.new(owner, template, data, newest+1, *collisions)
		err := c.Client.Create(ctx, r)
		if !apierrors.IsAlreadyExists(err) {
			return r, append(slices.Clone(all), r), err
		}
		var other appsv1.ControllerRevision
		if err := c.Client.Get(ctx, controller.Key(r), &other); err != nil {
			return nil, all, err
		}
		if metav1.IsControlledBy(&other, owner) && same(&other, template, data) {
			return &other, append(slices.Clone(all), &other), nil
		}
		var n int32
		if *collisions != nil {
			n = **collisions
		}
		n++
		*collisions = &n
	}
}

func (c Control) new(owner crclient.Object, template *corev1.PodTemplateSpec, data []byte, number int64, collisions *int32) *appsv1.ControllerRevision {
	hash := pods.TemplateHash(template, collisions)
	prefix := owner.GetName()
	if len(prefix) > maxPrefix {
		prefix = prefix[:maxPrefix]
	}
	marked := maps.Clone(template.Labels)
	if marked == nil {
		marked = map[string]string{}
	}
	marked[c.HashLabel] = hash
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), Name: prefix + "-" + hash, Labels: marked, Annotations: maps.Clone(owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, c.Kind)},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: number,
	}
}

// Truncate deletes the oldest revisions that are not in use, until no more
// than limit of those are left.
func (c Control) Truncate(ctx context.Context, all []*appsv1.ControllerRevision, limit int32, inUse func(*appsv1.ControllerRevision) bool) error {
	if limit < 0 {
		return nil
	}
	var unused []*appsv1.ControllerRevision
	for _, r := range all {
		if !inUse(r) {
			unused = append(unused, r)
		}
	}
	for i := range len(unused) - int(limit) {
		if err := c.Client.Delete(ctx, unused[i], crclient.Preconditions{UID: &unused[i].UID}); crclient.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// Data is the content of a revision: a strategic merge patch of the owner that
// sets its template.
func Data(t *corev1.PodTemplateSpec) ([]byte, error) {
	template, err := runtime.DefaultUnstructuredConverter.ToUnstructured(t)
	if err != nil {
		return nil, err
	}
	template["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
}

// Template returns the template that a revision holds.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &patch); err != nil {
		return nil, fmt.Errorf("the data of ControllerRevision %s/%s holds no pod template: %w; delete the revision if it was made by hand", r.Namespace, r.Name, err)
	}
	return &patch.Spec.Template, nil
}

// same compares what is meant and not how it is written: revisions may come
// from other versions, which write other zero values.
func same(r *appsv1.ControllerRevision, template *corev1.PodTemplateSpec, data []byte) bool {
	if bytes.Equal(r.Data.Raw, data) {
		return true
	}
	old, err := Template(r)
	return err == nil && apiequality.Semantic.DeepEqual(old, template)
}
