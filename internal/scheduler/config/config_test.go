package config_test

import (
	"reflect"
	"strings"
	"testing"

	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff/internal/scheduler/config"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func TestLoadFillsInDefaults(t *testing.T) {
	c, err := config.Load([]byte(head + `
profiles:
- pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy:
        type: MostAllocated
        resources: [{name: cpu}, {name: example.com/gpu, weight: 5}]
  - name: InterPodAffinity
    args: {ignorePreferredTermsOfExistingPods: true}
extenders:
- urlPrefix: http://127.0.0.1:1
`))
	if err != nil {
		t.Fatal(err)
	}
	p := &c.Profiles[0]
	if *p.SchedulerName != "default-scheduler" || *c.PodInitialBackoffSeconds != 1 || *c.PodMaxBackoffSeconds != 10 || *c.Parallelism != 16 {
		t.Errorf("got %q, %d, %d, %d", *p.SchedulerName, *c.PodInitialBackoffSeconds, *c.PodMaxBackoffSeconds, *c.Parallelism)
	}
	fit := config.Args[configv1.NodeResourcesFitArgs](p, "NodeResourcesFit")
	want := []configv1.ResourceSpec{{Name: "cpu", Weight: 1}, {Name: "example.com/gpu", Weight: 5}}
	if fit.ScoringStrategy.Type != configv1.MostAllocated || !reflect.DeepEqual(fit.ScoringStrategy.Resources, want) {
		t.Errorf("got %+v", fit.ScoringStrategy)
	}
	affinity := config.Args[configv1.InterPodAffinityArgs](p, "InterPodAffinity")
	if !affinity.IgnorePreferredTermsOfExistingPods || *affinity.HardPodAffinityWeight != 1 {
		t.Errorf("got %+v", affinity)
	}
	// Of a plugin that is not named there are defaults too.
	if a := config.Args[configv1.DefaultPreemptionArgs](p, "DefaultPreemption"); *a.MinCandidateNodesAbsolute != 100 {
		t.Errorf("got %+v", a)
	}
	if c.Extenders[0].HTTPTimeout.Duration.String() != "5s" {
		t.Errorf("got %v", c.Extenders[0].HTTPTimeout)
	}
}

func TestLoadSaysWhatIsWrongAndWhere(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		want   []string
	}{
		"unknown field":     {head + "parallelisms: 3\n", []string{`unknown field "parallelisms"`}},
		"another kind":      {"apiVersion: kubescheduler.config.k8s.io/v1\nkind: NodeAffinityArgs\n", []string{"must be a KubeSchedulerConfiguration"}},
		"a version gone by": {"apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n", []string{"v1beta3"}},
		"numbers": {head + "parallelism: 0\npercentageOfNodesToScore: 101\npodInitialBackoffSeconds: 20\n", []string{
			"parallelism: Invalid value: 0", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
			"podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to PodInitialBackoffSeconds"}},
		"profiles": {head + "profiles: [{schedulerName: a}, {schedulerName: a}, {}]\n", []string{
			`profiles[1].schedulerName: Duplicate value: "a"`, "profiles[2].schedulerName: Required value"}},
		"queue sort": {head + "profiles: [{schedulerName: a}, {schedulerName: b, plugins: {queueSort: {disabled: [{name: PrioritySort}]}}}]\n",
			[]string{"profiles[1].plugins.queueSort", "must be the same for all profiles"}},
		"extenders": {head + "extenders: [{urlPrefix: a, prioritizeVerb: p, bindVerb: b, managedResources: [{name: cpu}]}, {urlPrefix: b, bindVerb: b}]\n", []string{
			"extenders[0].weight: Invalid value: 0: must have a positive weight applied to it",
			`extenders[0].managedResources[0].name: Invalid value: "cpu": is an invalid extended resource name`,
			"only one extender can implement bind"}},
		"unknown argument": {head + "profiles: [{pluginConfig: [{name: NodeAffinity, args: {a: 1}}]}]\n", []string{`unknown field "a"`}},
		"arguments": {head + `
profiles:
- pluginConfig:
  - {name: DefaultPreemption, args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}}
  - {name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}
  - {name: NodeResourcesBalancedAllocation, args: {resources: [{name: cpu, weight: 2}]}}
  - {name: NodeResourcesFit, args: {ignoredResourceGroups: [a/b], scoringStrategy: {type: RequestedToCapacityRatio, resources: [{name: cpu, weight: 101}]}}}
  - {name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 0, topologyKey: zone, whenUnsatisfiable: Maybe, labelSelector: {}}]}}
  - {name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Near}]}]}}}}
  - {name: VolumeBinding, args: {bindTimeoutSeconds: -1}}
  - {name: DynamicResources, args: {filterTimeout: -1s}}
  - {name: VolumeBinding}
`, []string{
			"profiles[0].pluginConfig[0].args.minCandidateNodesAbsolute: Invalid value: 0",
			"profiles[0].pluginConfig[1].args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
			"profiles[0].pluginConfig[2].args.resources[0].weight: Invalid value: 2: must be 1",
			`profiles[0].pluginConfig[3].args.ignoredResourceGroups[0]: Invalid value: "a/b": resource group name can't contain '/'`,
			"profiles[0].pluginConfig[3].args.scoringStrategy.resources[0].weight: Invalid value: 101",
			"profiles[0].pluginConfig[3].args.scoringStrategy.requestedToCapacityRatio: Required value",
			`profiles[0].pluginConfig[4].args.defaultingType: Invalid value: "System": when .defaultConstraints are not empty`,
			"profiles[0].pluginConfig[4].args.defaultConstraints[0].maxSkew: Invalid value: 0",
			`profiles[0].pluginConfig[4].args.defaultConstraints[0].whenUnsatisfiable: Unsupported value: "Maybe"`,
			"profiles[0].pluginConfig[4].args.defaultConstraints[0].labelSelector: Forbidden",
			"profiles[0].pluginConfig[5].args.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution: Invalid value",
			"profiles[0].pluginConfig[6].args.bindTimeoutSeconds: Invalid value: -1",
			"profiles[0].pluginConfig[7].args.filterTimeout: Invalid value",
			`profiles[0].pluginConfig[8]: Duplicate value: "VolumeBinding"`,
		}},
		"shape": {head + `
profiles:
- pluginConfig:
  - {name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: 11}, {utilization: 50, score: 1}]}}}}
`, []string{"shape[0].score: Invalid value: 11: not in valid range [0, 10]", "shape[1].utilization: Invalid value: 50: values must be sorted in increasing order"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load([]byte(test.config))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want in it %q", err, want)
				}
			}
		})
	}
}

func TestPluginsOfAnExtensionPoint(t *testing.T) {
	defaults := []config.Enabled{{"A", 1}, {"B", 2}, {"C", 3}}
	set := func(enabled, disabled string) configv1.PluginSet {
		var s configv1.PluginSet
		for _, name := range strings.Fields(enabled) {
			s.Enabled = append(s.Enabled, configv1.Plugin{Name: name})
		}
		for _, name := range strings.Fields(disabled) {
			s.Disabled = append(s.Disabled, configv1.Plugin{Name: name})
		}
		return s
	}
	for name, test := range map[string]struct {
		multi, own configv1.PluginSet
		want       string
	}{
		"nothing said":                         {want: "A:1 B:2 C:3"},
		"one disabled here":                    {own: set("", "B"), want: "A:1 C:3"},
		"one disabled everywhere":              {multi: set("", "B"), want: "A:1 C:3"},
		"all but one, which goes first":        {own: set("C", "*"), want: "C:1"},
		"enabled here goes first":              {own: set("C", ""), want: "C:1 A:1 B:2"},
		"enabled everywhere keeps its place":   {multi: set("B", ""), want: "A:1 B:1 C:3"},
		"another one goes last":                {own: set("D", ""), want: "A:1 B:2 C:3 D:1"},
		"another one everywhere, without all":  {multi: set("D", "*"), want: "D:1"},
		"disabled everywhere but enabled here": {multi: set("", "*"), own: set("B", ""), want: "B:1"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &configv1.Plugins{MultiPoint: test.multi, Score: test.own}
			var got []string
			for _, e := range config.At(defaults, p, func(p *configv1.Plugins) configv1.PluginSet { return p.Score }, func(string) bool { return true }) {
				got = append(got, e.Name+":"+string(rune('0'+e.Weight)))
			}
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("got %s, want %s", s, test.want)
			}
		})
	}
}

func TestFieldsWithoutEffectAreNamed(t *testing.T) {
	const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
	for text, want := range map[string]string{
		"":                                    "",
		"leaderElection: {leaderElect: true}": "leaderElection is up to the process that runs the scheduler",
		"clientConnection: {qps: 5}":          "clientConnection is up to the process that runs the scheduler",
		"enableProfiling: true":               "enableProfiling and enableContentionProfiling is up to the process that runs the scheduler",
		"parallelism: 4":                      "parallelism: nodes are not looked at one by one",
		"delayCacheUntilActive: true":         "delayCacheUntilActive: the cache is the API server's",
		"percentageOfNodesToScore: 30":        "percentageOfNodesToScore: all nodes are compared, which costs no more; only extenders are asked about some of them",
		"percentageOfNodesToScore: 30\nextenders: [{urlPrefix: \"http://127.0.0.1:1\", filterVerb: f}]": "",
	} {
		c, err := config.Load([]byte(head + text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := strings.Join(config.Ignored(c), "; "); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
