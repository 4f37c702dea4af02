package core

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

func secrets() *apis.Resource {
	return apis.Of[*corev1.Secret]{
		Names:            apis.Names{Resource: "secrets", Singular: "secret", Kind: "Secret", Namespaced: true},
		Version:          "v1",
		New:              func() *corev1.Secret { return &corev1.Secret{} },
		NewList:          func() runtime.Object { return &corev1.SecretList{} },
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Default:          defaultSecret,
		Validate:         func(_ context.Context, s *corev1.Secret) field.ErrorList { return validateSecret(s) },
		ValidateUpdate:   validateSecretUpdate,
		Warnings:         secretWarnings,
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Type", corev1.Secret{}.SwaggerDoc()["type"]),
			columns.String("Data", corev1.Secret{}.SwaggerDoc()["data"]),
			columns.AgeColumn(),
		},
		Cells: func(s *corev1.Secret) []any {
			return []any{s.Name, string(s.Type), int64(len(s.Data)), columns.Age(s.CreationTimestamp)}
		},
		Fields: map[string]func(*corev1.Secret) string{
			"type": func(s *corev1.Secret) string { return string(s.Type) },
		},
	}.Resource()
}

// defaultSecret also moves stringData, which is for writing only, into data.
func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	if len(s.StringData) > 0 {
		if s.Data == nil {
			s.Data = make(map[string][]byte, len(s.StringData))
		}
		for key, value := range s.StringData {
			s.Data[key] = []byte(value)
		}
	}
	s.StringData = nil
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	var p problems
	data := field.NewPath("data")
	size := 0
	for key, value := range s.Data {
		p.invalids(data.Key(key), key, validation.IsConfigMapKey(key))
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		p.one(field.TooLong(data, "", corev1.MaxSecretSize))
	}
	has := func(key string) bool {
		_, ok := s.Data[key]
		return ok
	}
	isJSON := func(key string) {
		if !has(key) {
			p.required(data.Key(key))
		} else if err := json.Unmarshal(s.Data[key], &map[string]any{}); err != nil {
			p.invalid(data.Key(key), "<secret contents redacted>", err.Error())
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			p.required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey))
		}
	case corev1.SecretTypeDockercfg:
		isJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		isJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		if !has(corev1.BasicAuthUsernameKey) && !has(corev1.BasicAuthPasswordKey) {
			p.required(data.Key(corev1.BasicAuthUsernameKey))
			p.required(data.Key(corev1.BasicAuthPasswordKey))
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			p.required(data.Key(corev1.SSHAuthPrivateKey))
		}
	case corev1.SecretTypeTLS:
		for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if !has(key) {
				p.required(data.Key(key))
			}
		}
	}
	return p.list()
}

func validateSecretUpdate(_ context.Context, s, old *corev1.Secret) field.ErrorList {
	var p problems
	p.immutable(field.NewPath("type"), s.Type, old.Type)
	if old.Immutable != nil && *old.Immutable {
		if s.Immutable == nil || !*s.Immutable {
			p.forbidden(field.NewPath("immutable"), sealed)
		}
		if !reflect.DeepEqual(s.Data, old.Data) {
			p.forbidden(field.NewPath("data"), sealed)
		}
	}
	p.add(validateSecret(s))
	return p.list()
}

// secretWarnings tells of a certificate and key that do not belong together.
func secretWarnings(_ context.Context, s, _ *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}
