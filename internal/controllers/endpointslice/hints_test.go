package endpointslice

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// slice makes one with an endpoint for each word: its zone, and after a ">" that
// of its hint; what begins with "!" is not ready, and "-" is no zone.
func slice(words string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: words}}
	for word := range strings.FieldsSeq(words) {
		word, unready := strings.CutPrefix(word, "!")
		zone, hint, hinted := strings.Cut(word, ">")
		e := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(!unready)}}
		if zone != "-" {
			e.Zone = &zone
		}
		if hinted {
			e.Hints = forZone(hint)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// words are what slice takes.
func words(all ...*discoveryv1.EndpointSlice) string {
	var out []string
	for _, s := range all {
		for _, e := range s.Endpoints {
			word := ptr.Deref(e.Zone, "-")
			if !*e.Conditions.Ready {
				word = "!" + word
			}
			if e.Hints != nil {
				word += ">" + e.Hints.ForZones[0].Name
			}
			out = append(out, word)
		}
	}
	return strings.Join(out, " ")
}

func TestDivide(t *testing.T) {
	even := map[string]float64{"a": .5, "b": .5}
	three := map[string]float64{"a": 1. / 3, "b": 1. / 3, "c": 1. / 3}
	for _, test := range []struct {
		name                 string
		shares               map[string]float64
		written, kept        string
		wantWritten, wantNew string
		counts               map[string]int
		problem              string
	}{
		{"each at home", even, "a b", "", "a>a b>b", "", map[string]int{"a": 1, "b": 1}, ""},
		{"what is not ready has no hint", even, "a !a b", "", "a>a !a b>b", "", map[string]int{"a": 1, "b": 1}, ""},
		{"one zone lends the other some", even, "a a a a", "", "a>b a>b a>a a>a", "", map[string]int{"a": 2, "b": 2}, ""},
		{"one more does not matter", even, "a a a a b b b", "", "a>a a>a a>a a>a b>b b>b b>b", "", map[string]int{"a": 4, "b": 3}, ""},
		{"by CPUs", map[string]float64{"a": .75, "b": .25}, "a a b b", "", "a>a a>a b>a b>b", "", map[string]int{"a": 3, "b": 1}, ""},
		{"to several", three, "a a a a a a", "", "a>b a>b a>c a>c a>a a>a", "", map[string]int{"a": 2, "b": 2, "c": 2}, ""},
		{"a good slice stays", even, "b", "a>a", "b>b", "", map[string]int{"a": 1, "b": 1}, ""},
		{"one without hints does not", even, "", "a b", "", "a>a b>b", map[string]int{"a": 1, "b": 1}, ""},
		{"nor one for a zone that is gone", even, "", "a>c b>b", "", "a>a b>b", map[string]int{"a": 1, "b": 1}, ""},
		{"nor one that leaves others too few", even, "", "a>a b>a", "", "a>a b>b", map[string]int{"a": 1, "b": 1}, ""},
		{"a zone without nodes lends none", even, "c c", "", "c>c c>c", "", map[string]int{"c": 2}, ""},
		{"nothing known", nil, "a>a", "b>b", "a", "b", nil, tooLittleKnown},
		{"too few", three, "a>a", "b>b", "a", "b", nil, "Insufficient number of endpoints (2 endpoints, 3 zones)"},
		{"uneven", three, "a a a a", "", "a a a a", "", nil, "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)"},
		{"one is nowhere", even, "a - b b", "", "a - b b", "", nil, endpointsNowhere},
	} {
		written := slice(test.written)
		kept := slice(test.kept)
		more, counts, problem := divide(test.shares, []*discoveryv1.EndpointSlice{written}, []*discoveryv1.EndpointSlice{kept})
		if got := words(written); got != test.wantWritten {
			t.Errorf("%s: written %q, want %q", test.name, got, test.wantWritten)
		}
		if got := words(more...); got != test.wantNew {
			t.Errorf("%s: %q are to be written too, want %q", test.name, got, test.wantNew)
		}
		if !maps.Equal(counts, test.counts) || problem != test.problem {
			t.Errorf("%s: %v %q", test.name, counts, problem)
		}
		if got := words(kept); got != test.kept {
			t.Errorf("%s: what is shared was changed to %q", test.name, got)
		}
	}
}

func TestNearHints(t *testing.T) {
	s, p := service(), pod(1, 8080)
	for _, test := range []struct {
		distribution, mode, zone string
		want                     string
	}{
		{"", "", "z", ""},
		{corev1.ServiceTrafficDistributionPreferClose, "", "z", "zone z"},
		{corev1.ServiceTrafficDistributionPreferSameZone, "", "z", "zone z"},
		{corev1.ServiceTrafficDistributionPreferSameZone, "", "", ""},
		{corev1.ServiceTrafficDistributionPreferSameNode, "", "z", "zone z node n"},
		{corev1.ServiceTrafficDistributionPreferSameNode, "", "", "node n"},
		{corev1.ServiceTrafficDistributionPreferSameZone, "Disabled", "z", "zone z"},
		// The topology mode goes before.
		{corev1.ServiceTrafficDistributionPreferSameZone, "Auto", "z", ""},
	} {
		s.Annotations = map[string]string{corev1.AnnotationTopologyMode: test.mode}
		s.Spec.TrafficDistribution = &test.distribution
		got := ""
		if h := newEndpoint(s, &p, nil, test.zone).Hints; h != nil {
			for _, z := range h.ForZones {
				got += " zone " + z.Name
			}
			for _, n := range h.ForNodes {
				got += " node " + n.Name
			}
		}
		if got = strings.TrimSpace(got); got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
	s.Annotations = map[string]string{corev1.DeprecatedAnnotationTopologyAwareHints: "auto", corev1.AnnotationTopologyMode: "Disabled"}
	if !byTopology(s) {
		t.Error("the older annotation goes before the newer")
	}
}

// Whoever changes the slices of a service that is divided finds nothing to do
// the next time.
func TestDividedSlicesSettle(t *testing.T) {
	w, topology, s := &world{slices: map[string]*discoveryv1.EndpointSlice{}}, newTopology(), service()
	s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto"}
	zones := map[string]string{}
	for i, zone := range []string{"a", "a", "b"} {
		name := fmt.Sprint("n", i)
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		topology.set(name, n)
		zones[name] = zone
	}
	for _, n := range []int{250, 30, 251, 3, 120} {
		pods := podsWith(n, 8080)
		for i := range pods {
			pods[i].Spec.NodeName = fmt.Sprint("n", i%2+i/2%2)
		}
		step := func() int {
			c := plan(s, pods, zones, w.list())
			topology.hint(s, w.list(), &c)
			return w.apply(c)
		}
		step()
		if again := step(); again != 0 {
			t.Errorf("%d pods: %d more writes", n, again)
		}
		counts := map[string]int{}
		for _, s := range w.slices {
			for _, e := range readyOf(s) {
				counts[e.Hints.ForZones[0].Name]++
			}
		}
		if overloaded(counts, map[string]float64{"a": 2. / 3, "b": 1. / 3}) || counts["a"]+counts["b"] != n {
			t.Errorf("%d pods: %v", n, counts)
		}
	}
}
