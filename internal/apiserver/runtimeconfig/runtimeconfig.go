// Package runtimeconfig says which of the built-in APIs are served
// (--runtime-config): stable ones unless they are turned off, beta ones if they
// are turned on.
package runtimeconfig

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"

	"skiff/internal/apis"
)

// Config says true or false of levels (api/all, api/ga, api/beta, api/alpha),
// versions (group/version) and resources (group/version/resource). What is said
// of a resource counts more than what is said of its version, and that more than
// what is said of a level. The core group is that without a name: /v1.
type Config map[string]string

// levels are kinds of versions, the later ones count more.
var levels = []struct {
	key   string
	holds *regexp.Regexp
}{
	{"api/all", regexp.MustCompile(``)},
	{"api/ga", stable},
	{"api/beta", regexp.MustCompile(`^v\d+beta\d+$`)},
	{"api/alpha", regexp.MustCompile(`^v\d+alpha\d+$`)},
}

var stable = regexp.MustCompile(`^v\d+$`)

// unavailable are the versions that upstream can serve and this server cannot.
var unavailable = []schema.GroupVersion{
	{Group: "admissionregistration.k8s.io", Version: "v1alpha1"},
	{Group: "certificates.k8s.io", Version: "v1alpha1"},
	{Group: "coordination.k8s.io", Version: "v1alpha2"},
	{Group: "internal.apiserver.k8s.io", Version: "v1alpha1"},
	{Group: "resource.k8s.io", Version: "v1alpha3"},
	{Group: "scheduling.k8s.io", Version: "v1alpha2"},
	{Group: "storagemigration.k8s.io", Version: "v1beta1"},
}

// Parse adds what a flag says: KEY=true or KEY=false, divided by commas.
func (c Config) Parse(text string) {
	for pair := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case key == "v1" || strings.HasPrefix(key, "v1/") || key == "api/v1" || strings.HasPrefix(key, "api/v1/"):
			key = "/v1" // as upstream: the whole group
		case key == "api/legacy" || key == "":
			continue // without a meaning since there are no such APIs
		}
		c[key] = value
	}
}

// Check returns an error if the configuration names what there is not, or means
// nothing.
func (c Config) Check() error {
	if len(c) == 1 && c["api/all"] == "false" {
		return errors.New("invalid runtime-config with only api/all=false")
	}
	var unknown []string
	for _, key := range slices.Sorted(maps.Keys(c)) {
		if isLevel(key) {
			if c[key] != "true" && c[key] != "false" {
				return fmt.Errorf("runtime-config: invalid value %s=%s", key, c[key])
			}
			continue
		}
		gv, resource, err := parse(key)
		if err != nil {
			return err
		}
		if !registered(gv.Group) {
			unknown = append(unknown, gv.String())
			continue
		}
		if !scheme.Scheme.IsVersionRegistered(gv) && !extension(gv) {
			return fmt.Errorf("runtime-config: group version %s that has not been registered", gv)
		}
		on, err := truth(c[key])
		if err != nil {
			return fmt.Errorf("runtime-config: invalid value of %s: %s, err: %w", key, c[key], err)
		}
		if strings.ToLower(resource) != resource {
			return fmt.Errorf("runtime-config: invalid key %s: group/version/resource and resource is always lowercase plural, not %q", key, resource)
		}
		if on && slices.Contains(unavailable, gv) {
			return fmt.Errorf("runtime-config: %s cannot be served: this server does not have it yet", key)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("runtime-config: unknown api groups %s", strings.Join(unknown, ","))
	}
	return nil
}

// Fairness returns an error if the API is turned off by which priority and
// fairness are configured.
func (c Config) Fairness() error {
	for _, key := range []string{"flowcontrol.apiserver.k8s.io/v1", "api/ga", "api/all"} {
		switch c[key] {
		case "true":
			return nil
		case "false":
			return fmt.Errorf("--runtime-config=%s=false conflicts with --enable-priority-and-fairness=true", key)
		}
	}
	return nil
}

// Select returns the resources without the versions that are not served. Stable
// ones stay for the server's own parts, marked as off. on tells which features
// are.
func (c Config) Select(all []*apis.Resource, on func(gate string) bool) []*apis.Resource {
	var out []*apis.Resource
	for _, r := range all {
		served := func(v *apis.Version) bool {
			return c.enabled(v.GroupVersion(), r.Names.Resource) && (v.Gate == "" || on(v.Gate))
		}
		r.Hub.Off = !served(&r.Hub)
		r.Other = slices.DeleteFunc(r.Other, func(v apis.Version) bool { return !stable.MatchString(v.Version) && !served(&v) })
		for i := range r.Other {
			r.Other[i].Off = !served(&r.Other[i])
		}
		if stable.MatchString(r.Hub.Version) || !r.Hub.Off || len(r.Other) > 0 {
			out = append(out, r)
		}
	}
	return out
}

func (c Config) enabled(gv schema.GroupVersion, resource string) bool {
	on := stable.MatchString(gv.Version)
	for _, level := range levels {
		if said, ok := c[level.key]; ok && level.holds.MatchString(gv.Version) {
			on = said == "true"
		}
	}
	version := gv.Group + "/" + gv.Version
	for _, key := range []string{version, version + "/" + resource} {
		if said, ok := c[key]; ok {
			on, _ = truth(said)
		}
	}
	return on
}

func isLevel(key string) bool {
	for _, level := range levels {
		if level.key == key {
			return true
		}
	}
	return false
}

func parse(key string) (gv schema.GroupVersion, resource string, err error) {
	parts := strings.Split(key, "/")
	if len(parts) != 2 && len(parts) != 3 {
		return gv, "", fmt.Errorf("runtime-config invalid key %s", key)
	}
	if len(parts) == 3 {
		resource = parts[2]
	}
	return schema.GroupVersion{Group: parts[0], Version: parts[1]}, resource, nil
}

// truth is true where only the key was written.
func truth(value string) (bool, error) {
	if value == "" {
		return true, nil
	}
	return strconv.ParseBool(value)
}

func registered(group string) bool {
	return scheme.Scheme.IsGroupRegistered(group) || group == "apiextensions.k8s.io" || group == "apiregistration.k8s.io"
}

// extension reports whether gv is of the groups that are about extending the API.
func extension(gv schema.GroupVersion) bool {
	return (gv.Group == "apiextensions.k8s.io" || gv.Group == "apiregistration.k8s.io") && (gv.Version == "v1" || gv.Version == "v1beta1")
}
