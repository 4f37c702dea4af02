package coordination

import (
	"context"
	"strings"

	"github.com/blang/semver/v4"
	coordinationv1 "k8s.io/api/coordination/v1"
	coordinationv1beta1 "k8s.io/api/coordination/v1beta1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
)

func leaseCandidate() *apis.Resource {
	return apis.Of[*coordinationv1beta1.LeaseCandidate]{
		Names: apis.Names{
			Group: "coordination.k8s.io", Resource: "leasecandidates", Singular: "leasecandidate", Kind: "LeaseCandidate",
			Namespaced: true,
		},
		Version:                "v1beta1",
		New:                    func() *coordinationv1beta1.LeaseCandidate { return &coordinationv1beta1.LeaseCandidate{} },
		NewList:                func() runtime.Object { return &coordinationv1beta1.LeaseCandidateList{} },
		AllowCreateOnUpdate:    true,
		RequireResourceVersion: true,
		ValidateName:           func(name string, _ bool) []string { return utilvalidation.IsConfigMapKey(name) },
		Validate: func(_ context.Context, c *coordinationv1beta1.LeaseCandidate) field.ErrorList {
			return validateCandidate(&c.Spec)
		},
		ValidateUpdate: func(_ context.Context, c, old *coordinationv1beta1.LeaseCandidate) field.ErrorList {
			return append(validateCandidate(&c.Spec), validation.ValidateImmutableField(c.Spec.LeaseName, old.Spec.LeaseName, field.NewPath("spec", "leaseName"))...)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("LeaseName", "LeaseName is the name of the lease for which this candidate is contending. This field is immutable."),
			columns.String("BinaryVersion", ""),
			columns.String("EmulationVersion", ""),
			columns.AgeColumn(),
		},
		Cells: func(c *coordinationv1beta1.LeaseCandidate) []any {
			return []any{c.Name, c.Spec.LeaseName, c.Spec.BinaryVersion, c.Spec.EmulationVersion, columns.Age(c.CreationTimestamp)}
		},
	}.Resource()
}

func validateCandidate(s *coordinationv1beta1.LeaseCandidateSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if s.LeaseName == "" {
		errs = append(errs, field.Required(path.Child("leaseName"), ""))
	}
	version := func(text, name string) (v semver.Version) {
		if text == "" {
			return v
		}
		v, err := semver.Parse(text)
		if err != nil {
			errs = append(errs, field.Invalid(path.Child(name), text, "must be a valid semantic version"))
		}
		return v
	}
	emulation := version(s.EmulationVersion, "emulationVersion")
	if s.BinaryVersion == "" {
		errs = append(errs, field.Required(path.Child("binaryVersion"), ""))
	}
	binary := version(s.BinaryVersion, "binaryVersion")
	if s.BinaryVersion != "" && s.EmulationVersion != "" && binary.LT(emulation) {
		errs = append(errs, field.Invalid(path.Child("binaryVersion"), s.BinaryVersion, "must be greater than or equal to `emulationVersion`"))
	}
	if s.Strategy == "" {
		return append(errs, field.Required(path.Child("strategy"), ""))
	}
	if s.Strategy == coordinationv1.OldestEmulationVersion && emulation.EQ(semver.Version{}) {
		errs = append(errs, field.Required(path.Child("emulationVersion"), "must be specified when `strategy` is 'OldestEmulationVersion'"))
	}
	return append(errs, validateStrategy(s.Strategy, path.Child("strategy"))...)
}

// validateStrategy takes upstream's own, and qualified names of others. The field
// is named twice in what it says.
func validateStrategy(s coordinationv1.CoordinatedLeaseStrategy, path *field.Path) field.ErrorList {
	path = path.Child("strategy")
	if !strings.Contains(string(s), "/") {
		return checks.Enum(s, path, coordinationv1.OldestEmulationVersion)
	}
	return checks.Name(string(s), path, utilvalidation.IsQualifiedName)
}
