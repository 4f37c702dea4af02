package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
)

// maxTrustBundle is how long a bundle may be.
const maxTrustBundle = 1 << 20

func clusterTrustBundle() *apis.Resource {
	return apis.Of[*certificatesv1beta1.ClusterTrustBundle]{
		Names: apis.Names{
			Group: "certificates.k8s.io", Resource: "clustertrustbundles", Singular: "clustertrustbundle", Kind: "ClusterTrustBundle",
		},
		Version:                "v1beta1",
		Gate:                   "ClusterTrustBundle",
		New:                    func() *certificatesv1beta1.ClusterTrustBundle { return &certificatesv1beta1.ClusterTrustBundle{} },
		NewList:                func() runtime.Object { return &certificatesv1beta1.ClusterTrustBundleList{} },
		RequireResourceVersion: true,
		// The name depends on the signer, so that Validate checks all of it.
		ValidateName: func(string, bool) []string { return nil },
		Validate: func(_ context.Context, b *certificatesv1beta1.ClusterTrustBundle) field.ErrorList {
			return append(validateBundle(b), validateTrustAnchors(b.Spec.TrustBundle)...)
		},
		ValidateUpdate: func(_ context.Context, b, old *certificatesv1beta1.ClusterTrustBundle) field.ErrorList {
			errs := validateBundle(b)
			// What was accepted once stays so, even if parsers have become stricter.
			if b.Spec.TrustBundle != old.Spec.TrustBundle {
				errs = append(errs, validateTrustAnchors(b.Spec.TrustBundle)...)
			}
			return append(errs, validation.ValidateImmutableField(b.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
		},
		Fields: map[string]func(*certificatesv1beta1.ClusterTrustBundle) string{
			"spec.signerName": func(b *certificatesv1beta1.ClusterTrustBundle) string { return b.Spec.SignerName },
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("SignerName", certificatesv1beta1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
		},
		Cells: func(b *certificatesv1beta1.ClusterTrustBundle) []any {
			signer := columns.None
			if b.Spec.SignerName != "" {
				signer = b.Spec.SignerName
			}
			return []any{b.Name, signer}
		},
	}.Resource()
}

func validateBundle(b *certificatesv1beta1.ClusterTrustBundle) field.ErrorList {
	var errs field.ErrorList
	check := func(name, kind string, prefix bool) {
		if name == "" {
			return
		}
		for _, problem := range bundleName(name, b.Spec.SignerName, prefix) {
			errs = append(errs, field.Invalid(field.NewPath("metadata", kind), name, problem))
		}
	}
	check(b.GenerateName, "generateName", true)
	check(b.Name, "name", false)
	if b.Spec.SignerName != "" {
		errs = append(errs, validateSignerName(b.Spec.SignerName, field.NewPath("spec", "signerName"))...)
	}
	return errs
}

// bundleName checks that the name of a signer's bundle begins with the signer,
// with colons for slashes, and that of another has no colon.
func bundleName(name, signer string, isPrefix bool) []string {
	if signer == "" {
		if strings.Contains(name, ":") {
			return []string{"ClusterTrustBundle without signer name must not have \":\" in its name"}
		}
		return validation.NameIsDNSSubdomain(name, isPrefix)
	}
	prefix := strings.ReplaceAll(signer, "/", ":") + ":"
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)}
	}
	return validation.NameIsDNSSubdomain(rest, isPrefix)
}

// validateTrustAnchors demands certificates of authorities and nothing else,
// each once.
func validateTrustAnchors(bundle string) field.ErrorList {
	path := field.NewPath("spec", "trustBundle")
	if len(bundle) > maxTrustBundle {
		return field.ErrorList{field.TooLong(path, "", maxTrustBundle)}
	}
	var errs field.ErrorList
	wrong := func(format string, args ...any) {
		errs = append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	entries := map[string][]int{}
	rest := []byte(bundle)
	for i := 0; ; i++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			wrong("entry %d has bad block type: %v", i, block.Type)
			continue
		}
		if len(block.Headers) > 0 {
			wrong("entry %d has PEM block headers", i)
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			wrong("entry %d does not parse as X.509", i)
		case !certificate.IsCA:
			wrong("entry %d does not have the CA bit set", i)
		case !certificate.BasicConstraintsValid:
			wrong("entry %d has invalid basic constraints", i)
		default:
			entries[string(block.Bytes)] = append(entries[string(block.Bytes)], i)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if len(entries) == 0 {
		wrong("at least one trust anchor must be provided")
	}
	for _, same := range slices.SortedFunc(maps.Values(entries), slices.Compare[[]int]) {
		if len(same) > 1 {
			wrong("duplicate trust anchor (indices %v)", same)
		}
	}
	return errs
}
