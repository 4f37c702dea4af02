package scheduler

import (
	"cmp"
	"fmt"

	"k8s.io/client-go/tools/record"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff/internal/scheduler/config"
	"skiff/internal/scheduler/framework"
)

// profile is how pods of one schedulerName are scheduled.
type profile struct {
	*framework.Profile
	hints    map[string]framework.HintPlugin
	metrics  *profileMetrics
	recorder record.EventRecorder
	// percentage is how many of all nodes extenders are asked about; 0 lets the
	// cluster's size decide.
	percentage int32
}

// newProfiles makes the profiles by the names of their schedulers.
func (s *Scheduler) newProfiles() (map[string]*profile, error) {
	known := s.plugins()
	names := make([]string, len(known))
	for i, p := range known {
		names[i] = p.name
	}
	if err := config.UnknownPlugins(s.config.Profiles, names); err != nil {
		return nil, err
	}
	profiles := make(map[string]*profile)
	for i := range s.config.Profiles {
		c := &s.config.Profiles[i]
		b := &builder{config: c, known: known, made: make(map[string]framework.Plugin), errs: nil}
		p := &profile{Profile: b.build(), hints: make(map[string]framework.HintPlugin), recorder: s.client.Recorder(*c.SchedulerName), metrics: s.metrics.profiles(*c.SchedulerName)}
		p.percentage = *cmp.Or(c.PercentageOfNodesToScore, s.config.PercentageOfNodesToScore)
		if b.errs != nil {
			return nil, fmt.Errorf("scheduler profile %q: %w", *c.SchedulerName, b.errs)
		}
		for name, made := range b.made {
			if h, ok := made.(framework.HintPlugin); ok {
				p.hints[name] = h
			}
		}
		profiles[*c.SchedulerName] = p
	}
	return profiles, nil
}

// builder makes one profile.
type builder struct {
	config *configv1.KubeSchedulerProfile
	known  []plugin
	made   map[string]framework.Plugin
	errs   error
}

func (b *builder) build() *framework.Profile {
	for _, k := range b.known {
		made, err := k.new(b.config)
		if err != nil {
			b.errs = fmt.Errorf("plugin %s: %w", k.name, err)
			return nil
		}
		b.made[k.name] = made
	}
	p := &framework.Profile{
		PreEnqueue: at[framework.PreEnqueuePlugin](b, "PreEnqueue", func(p *configv1.Plugins) configv1.PluginSet { return p.PreEnqueue }),
		Filter:     at[framework.FilterPlugin](b, "Filter", func(p *configv1.Plugins) configv1.PluginSet { return p.Filter }),
		PostFilter: at[framework.PostFilterPlugin](b, "PostFilter", func(p *configv1.Plugins) configv1.PluginSet { return p.PostFilter }),
		Reserve:    at[framework.ReservePlugin](b, "Reserve", func(p *configv1.Plugins) configv1.PluginSet { return p.Reserve }),
		Permit:     at[framework.PermitPlugin](b, "Permit", func(p *configv1.Plugins) configv1.PluginSet { return p.Permit }),
		PreBind:    at[framework.PreBindPlugin](b, "PreBind", func(p *configv1.Plugins) configv1.PluginSet { return p.PreBind }),
		Bind:       at[framework.BindPlugin](b, "Bind", func(p *configv1.Plugins) configv1.PluginSet { return p.Bind }),
		PostBind:   at[framework.PostBindPlugin](b, "PostBind", func(p *configv1.Plugins) configv1.PluginSet { return p.PostBind }),
	}
	for _, e := range b.enabled("Score", func(p *configv1.Plugins) configv1.PluginSet { return p.Score }, fills[framework.ScorePlugin]) {
		p.Score = append(p.Score, framework.Weighted{ScorePlugin: b.made[e.Name].(framework.ScorePlugin), Weight: e.Weight})
	}
	sorts := at[framework.QueueSortPlugin](b, "QueueSort", func(p *configv1.Plugins) configv1.PluginSet { return p.QueueSort })
	switch {
	case b.errs != nil:
	case len(sorts) != 1:
		b.errs = fmt.Errorf("one queue sort plugin is required, but %d are enabled", len(sorts))
	case len(p.Bind) == 0:
		b.errs = fmt.Errorf("at least one bind plugin is needed for profile with scheduler name %q", *b.config.SchedulerName)
	default:
		p.QueueSort = sorts[0]
	}
	return p
}

func fills[T any](p framework.Plugin) bool {
	_, ok := p.(T)
	return ok
}

// at returns the plugins of an extension point.
func at[T framework.Plugin](b *builder, name string, point func(*configv1.Plugins) configv1.PluginSet) []T {
	var out []T
	for _, e := range b.enabled(name, point, fills[T]) {
		out = append(out, b.made[e.Name].(T))
	}
	return out
}

func (b *builder) enabled(name string, point func(*configv1.Plugins) configv1.PluginSet, fills func(framework.Plugin) bool) []config.Enabled {
	defaults := make([]config.Enabled, len(b.known))
	for i, k := range b.known {
		defaults[i] = config.Enabled{Name: k.name, Weight: max(k.weight, 1)}
	}
	enabled := config.At(defaults, b.config.Plugins, point, func(plugin string) bool { return fills(b.made[plugin]) })
	for i, e := range enabled {
		if !fills(b.made[e.Name]) {
			b.errs = fmt.Errorf("plugin %q does not extend %s plugin", e.Name, name)
			return enabled[:i]
		}
	}
	return enabled
}
