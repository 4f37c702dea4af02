package config

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
)

// Validate checks a configuration that has its defaults.
func Validate(c *configv1.KubeSchedulerConfiguration) error {
	var errs field.ErrorList
	if *c.Parallelism <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("parallelism"), *c.Parallelism, "should be an integer value greater than zero"))
	}
	errs = append(errs, validatePercentage(field.NewPath("percentageOfNodesToScore"), c.PercentageOfNodesToScore)...)
	if *c.PodInitialBackoffSeconds <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), *c.PodInitialBackoffSeconds, "must be greater than 0"))
	}
	if *c.PodMaxBackoffSeconds < *c.PodInitialBackoffSeconds {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), *c.PodMaxBackoffSeconds, "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	errs = append(errs, validateProfiles(field.NewPath("profiles"), c.Profiles)...)
	errs = append(errs, validateExtenders(field.NewPath("extenders"), c.Extenders)...)
	return errs.ToAggregate()
}

func validatePercentage(at *field.Path, p *int32) field.ErrorList {
	if p != nil && (*p < 0 || *p > 100) {
		return field.ErrorList{field.Invalid(at, *p, "not in valid range [0-100]")}
	}
	return nil
}

func validateProfiles(at *field.Path, profiles []configv1.KubeSchedulerProfile) (errs field.ErrorList) {
	first := map[string]int{}
	for i := range profiles {
		p, at := &profiles[i], at.Index(i)
		name := ptr.Deref(p.SchedulerName, "")
		if name == "" {
			errs = append(errs, field.Required(at.Child("schedulerName"), "each of several profiles needs a name"))
		} else if _, seen := first[name]; seen {
			errs = append(errs, field.Duplicate(at.Child("schedulerName"), name))
		}
		first[name] = i
		errs = append(errs, validatePercentage(at.Child("percentageOfNodesToScore"), p.PercentageOfNodesToScore)...)
		seen := sets.New[string]()
		for j := range p.PluginConfig {
			c, at := &p.PluginConfig[j], at.Child("pluginConfig").Index(j)
			if seen.Has(c.Name) {
				errs = append(errs, field.Duplicate(at, c.Name))
			}
			seen.Insert(c.Name)
			if c.Args.Object != nil {
				errs = append(errs, validateArgs(at.Child("args"), c.Args.Object)...)
			}
		}
		sort := queueSort(p)
		if len(sort.Enabled) > 1 {
			errs = append(errs, field.Invalid(at.Child("plugins", "queueSort", "enabled"), len(sort.Enabled), "only one queue sort plugin can be enabled"))
		}
		if !equality.Semantic.DeepEqual(sort, queueSort(&profiles[0])) {
			errs = append(errs, field.Invalid(at.Child("plugins", "queueSort"), sort, "must be the same for all profiles"))
		}
	}
	return errs
}

func queueSort(p *configv1.KubeSchedulerProfile) configv1.PluginSet {
	if p.Plugins == nil {
		return configv1.PluginSet{}
	}
	return p.Plugins.QueueSort
}

func validateExtenders(at *field.Path, extenders []configv1.Extender) (errs field.ErrorList) {
	binders := 0
	managed := sets.New[string]()
	for i := range extenders {
		e, at := &extenders[i], at.Index(i)
		if e.PrioritizeVerb != "" && e.Weight <= 0 {
			errs = append(errs, field.Invalid(at.Child("weight"), e.Weight, "must have a positive weight applied to it"))
		}
		if e.BindVerb != "" {
			binders++
		}
		for j, r := range e.ManagedResources {
			at := at.Child("managedResources").Index(j).Child("name")
			errs = append(errs, validateExtendedResource(at, r.Name)...)
			if managed.Has(r.Name) {
				errs = append(errs, field.Invalid(at, r.Name, "duplicate extender managed resource name"))
			}
			managed.Insert(r.Name)
		}
	}
	if binders > 1 {
		errs = append(errs, field.Invalid(at, fmt.Sprintf("found %d extenders implementing bind", binders), "only one extender can implement bind"))
	}
	return errs
}

func validateExtendedResource(at *field.Path, name string) (errs field.ErrorList) {
	for _, problem := range validation.IsQualifiedName(name) {
		errs = append(errs, field.Invalid(at, name, problem))
	}
	group, _, qualified := strings.Cut(name, "/")
	if len(errs) == 0 && (!qualified || strings.HasSuffix(group, "kubernetes.io") || strings.HasPrefix(name, "requests.")) {
		errs = append(errs, field.Invalid(at, name, "is an invalid extended resource name"))
	}
	return errs
}

// UnknownPlugins returns an error for each plugin that the profiles name and
// that is not known.
func UnknownPlugins(profiles []configv1.KubeSchedulerProfile, known []string) error {
	var errs field.ErrorList
	check := func(at *field.Path, name string) {
		if !slices.Contains(known, name) {
			errs = append(errs, field.NotSupported(at, name, known))
		}
	}
	for i := range profiles {
		at := field.NewPath("profiles").Index(i)
		for j := range profiles[i].PluginConfig {
			check(at.Child("pluginConfig").Index(j).Child("name"), profiles[i].PluginConfig[j].Name)
		}
		p := profiles[i].Plugins
		if p == nil {
			continue
		}
		at = at.Child("plugins")
		for _, point := range []struct {
			name string
			set  configv1.PluginSet
		}{
			{"multiPoint", p.MultiPoint}, {"preEnqueue", p.PreEnqueue}, {"queueSort", p.QueueSort}, {"preFilter", p.PreFilter},
			{"filter", p.Filter}, {"postFilter", p.PostFilter}, {"preScore", p.PreScore}, {"score", p.Score}, {"reserve", p.Reserve},
			{"permit", p.Permit}, {"preBind", p.PreBind}, {"bind", p.Bind}, {"postBind", p.PostBind},
		} {
			for k, e := range point.set.Enabled {
				check(at.Child(point.name, "enabled").Index(k).Child("name"), e.Name)
			}
		}
	}
	return errs.ToAggregate()
}
