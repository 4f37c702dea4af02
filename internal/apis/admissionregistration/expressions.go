package admissionregistration

import (
	"regexp"
	"slices"
	"strings"

	celgo "github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"skiff/internal/apis/checks"
	"skiff/internal/apiserver/cel"
)

// expressions compiles the expressions of one object that is being written.
type expressions struct {
	admission *cel.Admission
	// stored are the expressions that the object had before: they stay valid.
	stored []string
}

// The types of what mutations evaluate to.
var (
	applyType = celgo.ObjectType("Object")
	patchType = celgo.ListType(celgo.ObjectType("JSONPatch"))
)

// compiler is an environment or a policy's scope.
type compiler func(source string, stored bool) *apiservercel.Error

// in compiles in an environment without the policy's variables.
func (e expressions) in(d cel.Declares, returns ...*celgo.Type) compiler {
	return func(source string, stored bool) *apiservercel.Error {
		_, err := e.admission.Environment(d).Compile(source, stored, returns...)
		return err
	}
}

// within compiles in a policy's scope.
func within(s *cel.Scope, d cel.Declares, returns ...*celgo.Type) compiler {
	return func(source string, stored bool) *apiservercel.Error {
		_, err := s.Compile(source, d, stored, returns...)
		return err
	}
}

// check compiles an expression that must be there; missing says so.
func (e expressions) check(source, missing string, path *field.Path, compile compiler) field.ErrorList {
	if strings.TrimSpace(source) == "" {
		return field.ErrorList{field.Required(path, missing)}
	}
	err := compile(source, slices.Contains(e.stored, source))
	switch {
	case err == nil:
		return nil
	case err.Type == apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, source, err.Detail)}
	}
	return field.ErrorList{field.InternalError(path, err)}
}

func (e expressions) conditions(conditions []admissionregistrationv1.MatchCondition, params bool, path *field.Path) field.ErrorList {
	const maxConditions = 64
	var errs field.ErrorList
	if len(conditions) > maxConditions {
		errs = append(errs, field.TooMany(path, len(conditions), maxConditions))
	}
	seen := map[string]bool{}
	for i, c := range conditions {
		at := path.Index(i)
		errs = append(errs, e.check(strings.TrimSpace(c.Expression), "", at.Child("expression"),
			e.in(cel.Declares{Params: params, Authorizer: true}, celgo.BoolType))...)
		errs = append(errs, checks.QualifiedName(c.Name, at.Child("name"))...)
		if c.Name != "" && seen[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen[c.Name] = true
	}
	return errs
}

// identifier is what CEL accepts as a variable's name, reserved words apart.
var identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)

var reserved = []string{
	"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
	"loop", "package", "namespace", "return", "var", "void", "while",
}

func (e expressions) variables(variables []admissionregistrationv1.Variable, s *cel.Scope, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range variables {
		at := path.Index(i)
		if strings.TrimSpace(v.Name) == "" {
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		} else if !identifier.MatchString(v.Name) || slices.Contains(reserved, v.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		errs = append(errs, e.check(v.Expression, "expression is not specified", at.Child("expression"),
			func(source string, stored bool) *apiservercel.Error { return s.Variable(v.Name, source, stored) })...)
	}
	return errs
}

// conditionsOf lists the expressions of match conditions.
func conditionsOf(conditions []admissionregistrationv1.MatchCondition) []string {
	var all []string
	for _, c := range conditions {
		all = append(all, strings.TrimSpace(c.Expression))
	}
	return all
}
