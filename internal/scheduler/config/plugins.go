package config

import (
	"slices"

	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
)

// Enabled is a plugin that takes part at an extension point.
type Enabled struct {
	Name   string
	Weight int64
}

// all stands for all plugins that are enabled by default.
const all = "*"

// At returns the plugins of an extension point in the order in which they are
// asked, for a profile with plugins p, which may be nil. defaults are enabled
// unless the profile says otherwise; point returns what p says about the
// extension point; fills reports whether a plugin has something to say there.
func At(defaults []Enabled, p *configv1.Plugins, point func(*configv1.Plugins) configv1.PluginSet, fills func(name string) bool) []Enabled {
	var multi, own configv1.PluginSet
	if p != nil {
		multi, own = p.MultiPoint, point(p)
	}
	everywhere := merge(defaults, multi)
	var out, added []Enabled
	for _, e := range own.Enabled {
		w := Enabled{e.Name, weight(e)}
		if has(everywhere, e.Name) {
			// What is enabled here explicitly is asked before what is enabled
			// everywhere.
			out = append(out, w)
		} else {
			added = append(added, w)
		}
	}
	if !listed(own.Disabled, all) {
		for _, e := range everywhere {
			if !has(out, e.Name) && !listed(own.Disabled, e.Name) && fills(e.Name) {
				out = append(out, e)
			}
		}
	}
	return append(out, added...)
}

// merge returns the plugins that are enabled everywhere.
func merge(defaults []Enabled, set configv1.PluginSet) []Enabled {
	var out []Enabled
	if !listed(set.Disabled, all) {
		for _, e := range defaults {
			if listed(set.Disabled, e.Name) {
				continue
			}
			// One that is enabled once more keeps its place.
			if i := slices.IndexFunc(set.Enabled, func(o configv1.Plugin) bool { return o.Name == e.Name }); i >= 0 {
				e.Weight = weight(set.Enabled[i])
			}
			out = append(out, e)
		}
	}
	for _, e := range set.Enabled {
		if !has(out, e.Name) {
			out = append(out, Enabled{e.Name, weight(e)})
		}
	}
	return out
}

func weight(p configv1.Plugin) int64 { return int64(max(ptr.Deref(p.Weight, 0), 1)) }

func has(plugins []Enabled, name string) bool {
	return slices.ContainsFunc(plugins, func(e Enabled) bool { return e.Name == name })
}

func listed(plugins []configv1.Plugin, name string) bool {
	return slices.ContainsFunc(plugins, func(p configv1.Plugin) bool { return p.Name == name })
}
