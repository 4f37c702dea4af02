package core

import (
	"context"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sealed is why an immutable object's content may not change.
const sealed = "field is immutable when `immutable` is set"

func configMaps() *apis.Resource {
	return apis.Of[*corev1.ConfigMap]{
		Names:            apis.Names{Resource: "configmaps", Singular: "configmap", Kind: "ConfigMap", ShortNames: []string{"cm"}, Namespaced: true},
		Version:          "v1",
		New:              func() *corev1.ConfigMap { return &corev1.ConfigMap{} },
		NewList:          func() runtime.Object { return &corev1.ConfigMapList{} },
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Validate:         func(_ context.Context, c *corev1.ConfigMap) field.ErrorList { return validateConfigMap(c) },
		ValidateUpdate:   validateConfigMapUpdate,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Data", corev1.ConfigMap{}.SwaggerDoc()["data"]),
			columns.AgeColumn(),
		},
		Cells: func(c *corev1.ConfigMap) []any {
			return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), columns.Age(c.CreationTimestamp)}
		},
	}.Resource()
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	var p problems
	data, binary := field.NewPath("data"), field.NewPath("binaryData")
	size := 0
	for key, value := range c.Data {
		p.invalids(data.Key(key), key, validation.IsConfigMapKey(key))
		if _, both := c.BinaryData[key]; both {
			p.invalid(data.Key(key), key, "duplicate of key present in binaryData")
		}
		size += len(value)
	}
	for key, value := range c.BinaryData {
		p.invalids(binary.Key(key), key, validation.IsConfigMapKey(key))
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		p.one(field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return p.list()
}

func validateConfigMapUpdate(_ context.Context, c, old *corev1.ConfigMap) field.ErrorList {
	var p problems
	if old.Immutable != nil && *old.Immutable {
		if c.Immutable == nil || !*c.Immutable {
			p.forbidden(field.NewPath("immutable"), sealed)
		}
		if !reflect.DeepEqual(c.Data, old.Data) {
			p.forbidden(field.NewPath("data"), sealed)
		}
		if !reflect.DeepEqual(c.BinaryData, old.BinaryData) {
			p.forbidden(field.NewPath("binaryData"), sealed)
		}
	}
	p.add(validateConfigMap(c))
	return p.list()
}
