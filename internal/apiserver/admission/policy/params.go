package policy

import (
	"context"
	"errors"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apiserver/admission"
	"skiff/internal/apiserver/admission/review"
	"skiff/internal/apiserver/verbs"
	"skiff/internal/store/cache"
)

// param is an object that parameterises a policy. The zero value is none.
type param struct {
	namespace, name string
	value           map[string]any
}

func paramGVK(k *admissionregistrationv1.ParamKind) schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(k.APIVersion, k.Kind)
}

// params returns the parameters that the policy is to be carried out with, each
// on its own. A policy or binding that wants none is carried out once, without.
func (d *Deps) params(ctx context.Context, kind *admissionregistrationv1.ParamKind, ref *admissionregistrationv1.ParamRef, a *admission.Attributes) ([]param, error) {
	if kind == nil || ref == nil {
		return []param{{}}, nil
	}
	r, v := d.Server.LookupKind(paramGVK(kind))
	if r == nil || r.Collection == nil {
		return nil, fmt.Errorf("paramKind kind `%v` not known", kind)
	}
	namespace := ""
	if r.Namespaced {
		if namespace = ref.Namespace; namespace == "" {
			namespace = a.RequestNamespace()
		}
		if namespace == "" {
			// The policy would be carried out with nothing.
			return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
		}
	} else if ref.Namespace != "" {
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	}
	found, err := find(ctx, r.Collection, v, namespace, ref)
	if err == nil && len(found) == 0 && ref.ParameterNotFoundAction != nil && *ref.ParameterNotFoundAction == admissionregistrationv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	return found, err
}

func find(ctx context.Context, c *cache.Collection, v *verbs.Version, namespace string, ref *admissionregistrationv1.ParamRef) ([]param, error) {
	var found []param
	add := func(e *cache.Entry, selector labels.Selector) error {
		obj, err := v.Object(ctx, e)
		if err != nil || !selector.Matches(labels.Set(obj.GetLabels())) {
			return err
		}
		value, err := review.Value(v.GVK(), obj)
		found = append(found, param{obj.GetNamespace(), obj.GetName(), value})
		return err
	}
	if ref.Name != "" {
		if e := c.Get(c.Key(namespace, ref.Name)); e != nil {
			err := add(e, labels.Everything())
			return found, err
		}
		return nil, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(ref.Selector)
	if err != nil {
		return nil, err
	}
	c.Snapshot().Ascend(c.Key(namespace, ""), "", func(e *cache.Entry) bool {
		err = add(e, selector)
		return err == nil
	})
	return found, err
}
