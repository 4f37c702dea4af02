package scheduler_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/identity"
	"skiff/internal/scheduler"
	"skiff/internal/scheduler/config"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func named(scheduler string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.SchedulerName = scheduler }
}

// TestProfiles packs the pods of one scheduler and spreads those of another,
// with a second scheduler beside both.
func TestProfiles(t *testing.T) {
	c := testcluster.Start(t)
	configure(t, c, head+`
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  plugins:
    score: {disabled: [{name: NodeResourcesBalancedAllocation}]}
  pluginConfig:
  - {name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}
`)
	configure(t, c, head+"profiles: [{schedulerName: another, plugins: {filter: {disabled: [{name: TaintToleration}]}}}]\n")
	node(t, c, "a")
	node(t, c, "b")
	on := map[string]int{}
	for _, name := range []string{"p0", "p1", "p2", "p3"} {
		create(t, c, pod(name, cpu("500m"), named("packing")))
		on[bound(t, c, name)]++
	}
	if len(on) != 1 {
		t.Errorf("packed: %v, want all pods on one node", on)
	}
	full := "a"
	if on["b"] > 0 {
		full = "b"
	}
	create(t, c, pod("p4", cpu("500m")))
	if got := bound(t, c, "p4"); got == full {
		t.Error("the default profile put a pod on the fuller node")
	}
	node(t, c, "tainted", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
		n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("64")
	})
	create(t, c, pod("p5", cpu("32"), named("another")))
	if got := bound(t, c, "p5"); got != "tainted" {
		t.Errorf("bound to %q", got)
	}
	event(t, c, "p5", "Scheduled", "Successfully assigned default/p5 to tainted", "another")
}

func TestConfigurationNamesUnknownPlugins(t *testing.T) {
	c := testcluster.Start(t)
	for text, want := range map[string]string{
		"profiles: [{plugins: {score: {enabled: [{name: Nonsense}]}}}]":                    `profiles[0].plugins.score.enabled[0].name: Unsupported value: "Nonsense"`,
		"profiles: [{pluginConfig: [{name: Nonsense, args: {}}]}]":                         `profiles[0].pluginConfig[0].name: Unsupported value: "Nonsense"`,
		"profiles: [{plugins: {bind: {enabled: [{name: NodeName}]}}}]":                     `plugin "NodeName" does not extend Bind plugin`,
		"profiles: [{plugins: {bind: {disabled: [{name: \"*\"}]}}}]":                       "at least one bind plugin is needed",
		"profiles: [{plugins: {queueSort: {disabled: [{name: PrioritySort}]}}}]":           "one queue sort plugin is required",
		"profiles: [{schedulerName: a, plugins: {multiPoint: {enabled: [{name: Nope}]}}}]": "profiles[0].plugins.multiPoint.enabled[0].name",
	} {
		parsed, err := config.Load([]byte(head + text + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = scheduler.New(scheduler.Config{Client: c.Set(identity.Component("system:kube-scheduler")), Clock: clock.RealClock{}, Log: logger(t), Configuration: parsed})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want in it %q", text, err, want)
		}
	}
}

// TestExtender has a real HTTP server filter, prioritize and bind.
func TestExtender(t *testing.T) {
	c := testcluster.Start(t)
	var binds atomic.Int32
	answer := func(w http.ResponseWriter, o any) {
		if err := json.NewEncoder(w).Encode(o); err != nil {
			t.Error(err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /x/filter", func(w http.ResponseWriter, r *http.Request) {
		var args extenderv1.ExtenderArgs
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			t.Error(err)
		}
		result := extenderv1.ExtenderFilterResult{FailedNodes: extenderv1.FailedNodesMap{}, Nodes: &corev1.NodeList{}}
		for _, n := range args.Nodes.Items {
			if n.Name == "a" || args.Pod.Name == "nowhere" {
				result.FailedNodes[n.Name] = "the extender does not like it"
			} else {
				result.Nodes.Items = append(result.Nodes.Items, n)
			}
		}
		answer(w, result)
	})
	mux.HandleFunc("POST /x/prioritize", func(w http.ResponseWriter, r *http.Request) {
		answer(w, extenderv1.HostPriorityList{{Host: "b", Score: 1}, {Host: "c", Score: 10}})
	})
	mux.HandleFunc("POST /x/bind", func(w http.ResponseWriter, r *http.Request) {
		var args extenderv1.ExtenderBindingArgs
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			t.Error(err)
		}
		binds.Add(1)
		b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: args.PodName}, Target: corev1.ObjectReference{Kind: "Node", Name: args.Node}}
		p := &corev1.Pod{}
		p.Namespace, p.Name = args.PodNamespace, args.PodName
		result := extenderv1.ExtenderBindingResult{}
		if err := c.Client.SubResource("binding").Create(r.Context(), p, b); err != nil {
			result.Error = err.Error()
		}
		answer(w, result)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	configure(t, c, head+`
extenders:
- urlPrefix: `+server.URL+`/x
  filterVerb: filter
  prioritizeVerb: prioritize
  bindVerb: bind
  weight: 20
  managedResources: [{name: example.com/thing, ignoredByScheduler: true}]
- urlPrefix: http://127.0.0.1:1/nobody
  filterVerb: filter
  ignorable: true
`)
	for _, name := range []string{"a", "b", "c"} {
		node(t, c, name)
	}
	thing := func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"example.com/thing": resource.MustParse("1")}
	}
	create(t, c, pod("p", thing))
	if got := bound(t, c, "p"); got != "c" || binds.Load() != 1 {
		t.Errorf("bound to %q, by the extender %d times", got, binds.Load())
	}
	// Pods without the resource are none of the extender's business.
	create(t, c, pod("q"))
	bound(t, c, "q")
	if binds.Load() != 1 {
		t.Error("the extender bound a pod that it does not manage")
	}
	create(t, c, pod("nowhere", thing))
	unschedulable(t, c, "nowhere", "0/3 nodes are available: 3 the extender does not like it."+
		" no new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.")
}

// TestStatusOfChangedPod: what the scheduler says of a pod that somebody changed
// while it was tried takes nothing of that back.
func TestStatusOfChangedPod(t *testing.T) {
	c := testcluster.Start(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var args extenderv1.ExtenderArgs
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			t.Error(err)
		}
		patch := client.RawPatch(types.StrategicMergePatchType, []byte(`{"status":{"conditions":[{"type":"example.com/changed","status":"True"}]}}`))
		if err := c.Client.Status().Patch(r.Context(), args.Pod, patch); err != nil {
			t.Error(err)
		}
		if err := json.NewEncoder(w).Encode(extenderv1.ExtenderFilterResult{FailedNodes: extenderv1.FailedNodesMap{"a": "no"}, Nodes: &corev1.NodeList{}}); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	configure(t, c, head+"extenders: [{urlPrefix: "+server.URL+", filterVerb: filter}]\n")
	node(t, c, "a")
	create(t, c, pod("p"))
	p := until(t, c, "p", "refused", refused("0/1 nodes are available: 1 no."))
	if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == "example.com/changed" }) {
		t.Errorf("conditions: %v", p.Status.Conditions)
	}
}

// TestExtenderDecidesAboutVictims has an extender that spares the node that
// would be chosen without it.
func TestExtenderDecidesAboutVictims(t *testing.T) {
	for _, cached := range []bool{false, true} {
		t.Run(fmt.Sprintf("nodeCacheCapable=%v", cached), func(t *testing.T) {
			c := testcluster.Start(t)
			classes(t, c)
			var proposed sync.Map
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var args extenderv1.ExtenderPreemptionArgs
				if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
					t.Error(err)
				}
				result := extenderv1.ExtenderPreemptionResult{NodeNameToMetaVictims: args.NodeNameToMetaVictims}
				if !cached {
					result.NodeNameToMetaVictims = map[string]*extenderv1.MetaVictims{}
					for name, v := range args.NodeNameToVictims {
						result.NodeNameToMetaVictims[name] = &extenderv1.MetaVictims{Pods: []*extenderv1.MetaPod{{UID: string(v.Pods[0].UID)}}}
					}
				}
				for name := range result.NodeNameToMetaVictims {
					proposed.Store(name, true)
				}
				delete(result.NodeNameToMetaVictims, "a")
				if args.Pod.Name == "refused" {
					result.NodeNameToMetaVictims = nil
				}
				if err := json.NewEncoder(w).Encode(result); err != nil {
					t.Error(err)
				}
			}))
			defer server.Close()
			configure(t, c, head+fmt.Sprintf(`
extenders:
- urlPrefix: %s
  preemptVerb: preempt
  nodeCacheCapable: %v
`, server.URL, cached))
			for name, class := range map[string]string{"a": "low", "b": "medium"} {
				node(t, c, name)
				create(t, c, pod("on-"+name, cpu("3"), priority(class), func(p *corev1.Pod) {
					p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name}
				}))
				bound(t, c, "on-"+name)
			}
			create(t, c, pod("refused", cpu("2"), priority("high")))
			unschedulable(t, c, "refused", "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: no candidate node for preemption")
			create(t, c, pod("urgent", cpu("2"), priority("high")))
			until(t, c, "on-b", "preempted", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
			until(t, c, "on-a", "left alone", func(p *corev1.Pod) bool { return p.DeletionTimestamp == nil })
			for _, name := range []string{"a", "b"} {
				if _, ok := proposed.Load(name); !ok {
					t.Errorf("the extender was not asked about node %s", name)
				}
			}
		})
	}
}
