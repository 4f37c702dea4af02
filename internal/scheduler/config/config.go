// Package config reads upstream's KubeSchedulerConfiguration, fills in what is
// left out, and checks it. Some fields have no effect here; Ignored tells which.
package config

import (
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	configv1alpha1 "k8s.io/component-base/config/v1alpha1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
)

const defaultParallelism = 16

// ReadFile reads the configuration in a file.
func ReadFile(path string) (*configv1.KubeSchedulerConfiguration, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration: %w", err)
	}
	c, err := Load(data)
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration %s: %w", path, err)
	}
	return c, nil
}

// Load reads a configuration in YAML or JSON. Unknown fields are errors.
func Load(data []byte) (*configv1.KubeSchedulerConfiguration, error) {
	scheme := runtime.NewScheme()
	if err := configv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	o, _, err := decoder.Decode(data, nil, nil)
	if err != nil {
		return nil, err
	}
	c, ok := o.(*configv1.KubeSchedulerConfiguration)
	if !ok {
		return nil, fmt.Errorf("it is a %s, but must be a KubeSchedulerConfiguration", o.GetObjectKind().GroupVersionKind().Kind)
	}
	if err := c.DecodeNestedObjects(decoder); err != nil {
		return nil, err
	}
	SetDefaults(c)
	return c, Validate(c)
}

// Default returns the configuration of a scheduler that is given none.
func Default() *configv1.KubeSchedulerConfiguration {
	c := &configv1.KubeSchedulerConfiguration{}
	SetDefaults(c)
	return c
}

// SetDefaults fills in what is left out.
func SetDefaults(c *configv1.KubeSchedulerConfiguration) {
	fill(&c.Parallelism, defaultParallelism)
	fill(&c.PercentageOfNodesToScore, 0)
	fill(&c.PodInitialBackoffSeconds, 1)
	fill(&c.PodMaxBackoffSeconds, 10)
	if len(c.Profiles) == 0 {
		c.Profiles = []configv1.KubeSchedulerProfile{{}}
	}
	if len(c.Profiles) == 1 {
		fill(&c.Profiles[0].SchedulerName, corev1.DefaultSchedulerName)
	}
	for i := range c.Profiles {
		for j := range c.Profiles[i].PluginConfig {
			if args := c.Profiles[i].PluginConfig[j].Args.Object; args != nil {
				setArgsDefaults(args)
			}
		}
	}
	for i := range c.Extenders {
		if e := &c.Extenders[i]; e.HTTPTimeout.Duration == 0 {
			e.HTTPTimeout.Duration = defaultExtenderTimeout
		}
	}
}

// Ignored returns the fields that c sets and that have no effect, each with the
// reason.
func Ignored(c *configv1.KubeSchedulerConfiguration) []string {
	var out []string
	note := func(set bool, why string) {
		if set {
			out = append(out, why)
		}
	}
	process := " is up to the process that runs the scheduler"
	note(c.LeaderElection != configv1alpha1.LeaderElectionConfiguration{}, "leaderElection"+process)
	note(c.ClientConnection != configv1alpha1.ClientConnectionConfiguration{}, "clientConnection"+process)
	note(c.DebuggingConfiguration != configv1alpha1.DebuggingConfiguration{}, "enableProfiling and enableContentionProfiling"+process)
	note(*c.Parallelism != defaultParallelism, "parallelism: nodes are not looked at one by one")
	note(c.DelayCacheUntilActive, "delayCacheUntilActive: the cache is the API server's")
	percentage := *c.PercentageOfNodesToScore != 0
	for i := range c.Profiles {
		percentage = percentage || c.Profiles[i].PercentageOfNodesToScore != nil
	}
	note(percentage && len(c.Extenders) == 0, "percentageOfNodesToScore: all nodes are compared, which costs no more; only extenders are asked about some of them")
	return out
}

func fill[T any](field **T, value T) {
	if *field == nil {
		*field = ptr.To(value)
	}
}
