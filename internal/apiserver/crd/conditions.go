package crd

import (
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/api/equality"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// acceptNames gives crd the names that it asks for and that no other definition
// of its group has, and notes in the conditions what came of it. Once
// established, a definition stays so.
func (c *Controller) acceptNames(crd *apiextensionsv1.CustomResourceDefinition) {
	if !equality.Semantic.DeepEqual(crd.Spec.Names, crd.Status.AcceptedNames) || apihelpers.FindCRDCondition(crd, apiextensionsv1.NamesAccepted) == nil {
		var used usedNames
		used.resources, used.kinds = sets.New[string](), sets.New[string]()
		for name, other := range c.claims {
			if other.group == crd.Spec.Group && name != crd.Name {
				used.add(&other.names)
			}
		}
		apihelpers.SetCRDCondition(crd, used.accept(&crd.Spec.Names, &crd.Status.AcceptedNames))
	}
	switch {
	case apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established):
	case apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.NamesAccepted):
		apihelpers.SetCRDCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue,
			Reason: "InitialNamesAccepted", Message: "the initial names have been accepted",
		})
	default:
		apihelpers.SetCRDCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse,
			Reason: "NotAccepted", Message: "not all names are accepted",
		})
	}
}

// usedNames are the names that the other definitions of a group have.
type usedNames struct {
	resources, kinds sets.Set[string]
}

func (u *usedNames) add(n *apiextensionsv1.CustomResourceDefinitionNames) {
	u.resources.Insert(n.Plural, n.Singular)
	u.resources.Insert(n.ShortNames...)
	u.kinds.Insert(n.Kind, n.ListKind)
}

// accept moves into have what is free of want, and returns the condition.
func (u *usedNames) accept(want, have *apiextensionsv1.CustomResourceDefinitionNames) apiextensionsv1.CustomResourceDefinitionCondition {
	result := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	conflict := func(reason, text string) {
		result.Status, result.Reason, result.Message = apiextensionsv1.ConditionFalse, reason, text
	}
	take := func(want string, have *string, used sets.Set[string], reason string) {
		if want != *have && used.Has(want) {
			conflict(reason, inUse(want).Error())
			return
		}
		*have = want
	}
	take(want.Plural, &have.Plural, u.resources, "PluralConflict")
	take(want.Singular, &have.Singular, u.resources, "SingularConflict")
	var errs []error
	for _, short := range want.ShortNames {
		if u.resources.Has(short) && !slices.Contains(have.ShortNames, short) {
			errs = append(errs, inUse(short))
		}
	}
	if len(errs) > 0 {
		conflict("ShortNamesConflict", utilerrors.NewAggregate(errs).Error())
	} else {
		have.ShortNames = slices.Clone(want.ShortNames)
	}
	take(want.Kind, &have.Kind, u.kinds, "KindConflict")
	take(want.ListKind, &have.ListKind, u.kinds, "ListKindConflict")
	have.Categories = slices.Clone(want.Categories)
	return result
}

func inUse(name string) error { return fmt.Errorf("%q is already in use", name) }

// noteApproval says of definitions in the community's groups whether they were
// approved.
func noteApproval(crd *apiextensionsv1.CustomResourceDefinition) {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return
	}
	state, text := apihelpers.GetAPIApprovalState(crd.Annotations)
	condition := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse, Message: text,
	}
	switch state {
	case apihelpers.APIApproved:
		condition.Status, condition.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		condition.Reason = "UnapprovedAnnotation"
	case apihelpers.APIApprovalMissing:
		condition.Reason = "MissingAnnotation"
	default:
		condition.Reason = "InvalidAnnotation"
	}
	apihelpers.SetCRDCondition(crd, condition)
}

// noteStructure says what is wrong with the schemas of definitions from before
// schemas had to be structural; all others were checked when they were written.
func noteStructure(crd *apiextensionsv1.CustomResourceDefinition) {
	if !crd.Spec.PreserveUnknownFields {
		apihelpers.RemoveCRDCondition(crd, apiextensionsv1.NonStructuralSchema)
		return
	}
	errs := field.ErrorList{field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false")}
	for i := range crd.Spec.Versions {
		at := field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema")
		s, err := structureOf(&crd.Spec.Versions[i])
		if err != nil {
			errs = append(errs, field.Invalid(at, "", err.Error()))
		} else if s != nil {
			errs = append(errs, structural.ValidateStructural(at, s)...)
		}
	}
	condition := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionTrue, Reason: "Violations", Message: errs.ToAggregate().Error(),
	}
	apihelpers.SetCRDCondition(crd, condition)
}
