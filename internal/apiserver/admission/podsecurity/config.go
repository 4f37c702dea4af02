package podsecurity

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Configuration is upstream's pod-security.admission.config.k8s.io/v1
// PodSecurityConfiguration.
type Configuration struct {
	APIVersion string     `json:"apiVersion,omitempty"`
	Kind       string     `json:"kind,omitempty"`
	Defaults   Defaults   `json:"defaults"`
	Exemptions Exemptions `json:"exemptions"`
}

// Defaults are the labels of namespaces that have none, each privileged and
// latest unless set.
type Defaults struct {
	Enforce        string `json:"enforce,omitempty"`
	EnforceVersion string `json:"enforce-version,omitempty"`
	Audit          string `json:"audit,omitempty"`
	AuditVersion   string `json:"audit-version,omitempty"`
	Warn           string `json:"warn,omitempty"`
	WarnVersion    string `json:"warn-version,omitempty"`
}

// Exemptions are whose pods are let through.
type Exemptions struct {
	Usernames      []string `json:"usernames,omitempty"`
	Namespaces     []string `json:"namespaces,omitempty"`
	RuntimeClasses []string `json:"runtimeClasses,omitempty"`
}

// settings are a configuration that was found good.
type settings struct {
	defaults                          policy
	users, namespaces, runtimeClasses []string
}

func (c *Configuration) settings() (settings, error) {
	s := settings{open, c.Exemptions.Usernames, c.Exemptions.Namespaces, c.Exemptions.RuntimeClasses}
	var errs field.ErrorList
	path := field.NewPath("defaults")
	for _, mode := range []struct {
		name, level, version string
		into                 *standard
	}{
		{"enforce", c.Defaults.Enforce, c.Defaults.EnforceVersion, &s.defaults.enforce},
		{"audit", c.Defaults.Audit, c.Defaults.AuditVersion, &s.defaults.audit},
		{"warn", c.Defaults.Warn, c.Defaults.WarnVersion, &s.defaults.warn},
	} {
		if mode.level != "" {
			levels := []string{"privileged", "baseline", "restricted"}
			mode.into.level = level(slices.Index(levels, mode.level))
			if mode.into.level < 0 {
				errs = append(errs, field.Invalid(path.Child(mode.name), mode.level, "must be one of privileged, baseline, restricted"))
			}
		}
		if mode.version != "" {
			version, ok := parseVersion(mode.version)
			if !ok {
				errs = append(errs, field.Invalid(path.Child(mode.name+"-version"), mode.version, `must be "latest" or "v1.x"`))
			}
			mode.into.version = version
		}
	}
	path = field.NewPath("exemptions")
	errs = append(errs, validateList(s.namespaces, path.Child("namespaces"), func(n string) []string { return validation.ValidateNamespaceName(n, false) })...)
	errs = append(errs, validateList(s.runtimeClasses, path.Child("runtimeClasses"), func(n string) []string { return validation.NameIsDNSSubdomain(n, false) })...)
	errs = append(errs, validateList(s.users, path.Child("usernames"), func(n string) []string {
		if n == "" {
			return []string{"username must not be empty"}
		}
		return nil
	})...)
	if len(errs) > 0 {
		return s, fmt.Errorf("PodSecurityConfiguration: %w", errs.ToAggregate())
	}
	return s, nil
}

func validateList(names []string, path *field.Path, check func(string) []string) (errs field.ErrorList) {
	for i, name := range names {
		for _, text := range check(name) {
			errs = append(errs, field.Invalid(path.Index(i), name, text))
		}
		if slices.Index(names, name) < i {
			errs = append(errs, field.Duplicate(path.Index(i), name))
		}
	}
	return errs
}
