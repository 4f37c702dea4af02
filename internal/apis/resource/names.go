package resource

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
	resourcev1 "k8s.io/api/resource/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis/checks"
)

func validateLabel(name string, path *field.Path) field.ErrorList {
	return checks.Name(name, path, utilvalidation.IsDNS1123Label)
}

func validatePoolName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.PoolNameMaxLength))
	}
	for _, part := range strings.Split(name, "/") {
		errs = append(errs, checks.Name(part, path, utilvalidation.IsDNS1123Subdomain)...)
	}
	return errs
}

func validateUID(uid string, path *field.Path) field.ErrorList {
	if err := uuid.Validate(uid); err != nil {
		return field.ErrorList{field.Invalid(path, uid, fmt.Sprintf("error validating uid: %v", err))}
	}
	if len(uid) != 36 || uid != strings.ToLower(uid) {
		return field.ErrorList{field.Invalid(path, uid, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
	}
	return nil
}

// validateQualifiedName checks the name of an attribute or a capacity: an
// identifier, which may have a domain before a slash.
func validateQualifiedName(name resourcev1.QualifiedName, path *field.Path) field.ErrorList {
	parts := strings.Split(string(name), "/")
	if len(parts) == 1 {
		return validateIdentifier(parts[0], path)
	}
	var errs field.ErrorList
	if parts[0] == "" {
		errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
	} else {
		errs = append(errs, checks.DriverName(parts[0], path)...)
	}
	if parts[1] == "" {
		return append(errs, field.Invalid(path, "", "the name must not be empty"))
	}
	return append(errs, validateIdentifier(parts[1], path)...)
}

func validateFullyQualifiedName(name resourcev1.FullyQualifiedName, path *field.Path) field.ErrorList {
	errs := validateQualifiedName(resourcev1.QualifiedName(name), path)
	if !strings.Contains(string(name), "/") {
		errs = append(errs, field.Invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return errs
}

func validateIdentifier(id string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
	}
	return append(errs, checks.Name(id, path, utilvalidation.IsCIdentifier)...)
}

// keyPath is the path of a map's entry; its end is cut short where the key is
// longer than any valid one.
func keyPath(path *field.Path, key string, limit int) *field.Path {
	if len(key) > limit {
		const dots = "..."
		rest := limit - len(dots)
		key = key[:(rest+1)/2] + dots + key[len(key)-rest/2:]
	}
	return path.Key(key)
}

// requestNames knows the requests of a claim, by which results, constraints
// and configuration refer to them: "request" or "request/subrequest".
type requestNames map[string]bool

func namesOf(d *resourcev1.DeviceClaim) requestNames {
	names := requestNames{}
	for i := range d.Requests {
		r := &d.Requests[i]
		names[r.Name] = true
		for k := range r.FirstAvailable {
			names[r.Name+"/"+r.FirstAvailable[k].Name] = true
		}
	}
	return names
}

func (n requestNames) validateRef(name string, path *field.Path) field.ErrorList {
	const unknown = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	parts := strings.Split(name, "/")
	if len(parts) > 2 {
		return field.ErrorList{field.Invalid(path, name, unknown)}
	}
	var errs field.ErrorList
	for _, part := range parts {
		errs = append(errs, validateLabel(part, path)...)
	}
	if !n[name] {
		errs = append(errs, field.Invalid(path, name, unknown))
	}
	return errs
}

func (n requestNames) validateRefs(names []string, path *field.Path) field.ErrorList {
	return checks.Set(names, resourcev1.DeviceRequestsMaxSize, path, func(name *string) string { return *name },
		func(name *string, at *field.Path) field.ErrorList { return n.validateRef(*name, at) })
}
