package core

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

// mountableSecrets makes a service account's secrets list the only ones that
// its pods may mount.
const mountableSecrets = "kubernetes.io/enforce-mountable-secrets"

func serviceAccounts() *apis.Resource {
	return apis.Of[*corev1.ServiceAccount]{
		MetadataOnUpdate: []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Names:            apis.Names{Resource: "serviceaccounts", Singular: "serviceaccount", Kind: "ServiceAccount", ShortNames: []string{"sa"}, Namespaced: true},
		Version:          "v1",
		New:              func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
		NewList:          func() runtime.Object { return &corev1.ServiceAccountList{} },
		ReturnDeleted:    true,
		ValidateName:     apivalidation.ValidateServiceAccountName,
		PrepareCreate:    func(_ context.Context, s *corev1.ServiceAccount) { keepSecretNames(s) },
		PrepareUpdate:    func(_ context.Context, s, _ *corev1.ServiceAccount) { keepSecretNames(s) },
		Warnings:         serviceAccountWarnings,
		Columns:          []metav1.TableColumnDefinition{columns.Name(), columns.AgeColumn()},
		Cells: func(s *corev1.ServiceAccount) []any {
			return []any{s.Name, columns.Age(s.CreationTimestamp)}
		},
		Subresources: []apis.Subresource{{
			Name:  "token",
			Kind:  authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"),
			New:   func() runtime.Object { return &authenticationv1.TokenRequest{} },
			Verbs: []string{"create"},
		}},
	}.Resource()
}

// keepSecretNames drops all but the names of the secrets, which are in the
// account's namespace.
func keepSecretNames(s *corev1.ServiceAccount) {
	for i := range s.Secrets {
		s.Secrets[i] = corev1.ObjectReference{Name: s.Secrets[i].Name}
	}
}

func serviceAccountWarnings(_ context.Context, s, _ *corev1.ServiceAccount) []string {
	if _, set := s.Annotations[mountableSecrets]; !set {
		return nil
	}
	at := field.NewPath("metadata", "annotations").Key(mountableSecrets)
	return []string{fmt.Sprintf("%s: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets", at)}
}
