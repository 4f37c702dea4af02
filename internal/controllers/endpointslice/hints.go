package endpointslice

import (
	"fmt"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// near gives the hints that send traffic to near endpoints when the service
// wishes so (KEP-4444, KEP-3015).
func near(service *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	wish := ptr.Deref(service.Spec.TrafficDistribution, "")
	if wish == "" || byTopology(service) || !*e.Conditions.Ready {
		return nil
	}
	var h discoveryv1.EndpointHints
	if e.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if wish == corev1.ServiceTrafficDistributionPreferSameNode && e.NodeName != nil {
		h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
	}
	if h.ForZones == nil && h.ForNodes == nil {
		return nil
	}
	return &h
}

// byTopology reports whether the service's endpoints are to be divided among
// the zones (KEP-2433), which goes before what it says of its traffic.
func byTopology(service *corev1.Service) bool {
	mode, ok := service.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if !ok {
		mode = service.Annotations[corev1.AnnotationTopologyMode]
	}
	return mode == "Auto" || mode == "auto"
}

// overload is by how much more than its share an endpoint may get.
const overload = 0.2

// Why there are no hints, in upstream's words.
const (
	tooLittleKnown   = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
	tooFewEndpoints  = "Insufficient number of endpoints (%d endpoints, %d zones)"
	unevenEndpoints  = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (%d endpoints, %d zones)"
	endpointsNowhere = "One or more endpoints do not have a zone specified"
	nothingToHint    = "No hints allocated for zones"
)

// allotment is how many endpoints a zone is to have.
type allotment struct {
	minimum, maximum int
	desired          float64
}

// allot divides n endpoints among zones by their shares of the CPUs.
func allot(shares map[string]float64, n int) (allotments map[string]allotment, problem string) {
	switch {
	case len(shares) == 0:
		return nil, tooLittleKnown
	case len(shares) > n:
		return nil, fmt.Sprintf(tooFewEndpoints, n, len(shares))
	}
	allotments = map[string]allotment{}
	spare := n
	for zone, share := range shares {
		desired := share * float64(n)
		minimum := leastOf(desired)
		allotments[zone] = allotment{minimum: minimum, desired: max(desired, float64(minimum))}
		spare -= minimum
	}
	if spare < 0 {
		return nil, fmt.Sprintf(unevenEndpoints, n, len(shares))
	}
	for zone, a := range allotments {
		a.maximum = a.minimum + spare
		allotments[zone] = a
	}
	return allotments, ""
}

// leastOf is the smallest number of endpoints that do the work of so many.
func leastOf(desired float64) int { return int(math.Ceil(desired * (1 / (1 + overload)))) }

// divide gives hints to the endpoints of slices that are written anyway, so that
// each zone has its share of all. Of the slices that could stay as they are it
// returns copies of those that cannot. counts are the hints for each zone; if
// there can be none, problem says why, and all are taken back.
func divide(shares map[string]float64, written, kept []*discoveryv1.EndpointSlice) (more []*discoveryv1.EndpointSlice, counts map[string]int, problem string) {
	n := 0
	for _, s := range slices.Concat(written, kept) {
		n += len(readyOf(s))
	}
	allotments, problem := allot(shares, n)
	if problem != "" {
		return withoutHints(written, kept), nil, problem
	}
	counts = map[string]int{}
	for _, s := range kept {
		if !countHints(s, counts, allotments) {
			more = append(more, s.DeepCopy())
		}
	}
	var free []*discoveryv1.Endpoint
	for _, s := range slices.Concat(written, more) {
		free = append(free, readyOf(s)...)
	}
	for _, e := range free {
		if ptr.Deref(e.Zone, "") == "" {
			return withoutHints(written, kept), nil, endpointsNowhere
		}
		e.Hints = forZone(*e.Zone)
		counts[*e.Zone]++
	}
	move(free, counts, allotments)
	if len(counts) == 0 {
		return withoutHints(written, kept), nil, nothingToHint
	}
	return more, counts, ""
}

func forZone(zone string) *discoveryv1.EndpointHints {
	return &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
}

// readyOf are the endpoints that get traffic.
func readyOf(s *discoveryv1.EndpointSlice) (all []*discoveryv1.Endpoint) {
	for i := range s.Endpoints {
		if ptr.Deref(s.Endpoints[i].Conditions.Ready, false) {
			all = append(all, &s.Endpoints[i])
		}
	}
	return all
}

// withoutHints takes the hints of slices that are written, and returns copies of
// the others that have some.
func withoutHints(written, kept []*discoveryv1.EndpointSlice) (more []*discoveryv1.EndpointSlice) {
	for _, s := range kept {
		if slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Hints != nil }) {
			more = append(more, s.DeepCopy())
		}
	}
	for _, s := range slices.Concat(written, more) {
		for i := range s.Endpoints {
			s.Endpoints[i].Hints = nil
		}
	}
	return more
}

// countHints adds the hints of a slice to counts, unless they are not good any
// more: some are missing, or for a zone that needs none, or for one that would
// get more than it may.
func countHints(s *discoveryv1.EndpointSlice, counts map[string]int, allotments map[string]allotment) bool {
	own := map[string]int{}
	for _, e := range readyOf(s) {
		if e.Hints == nil || len(e.Hints.ForZones) == 0 {
			return false
		}
		for _, z := range e.Hints.ForZones {
			own[z.Name]++
		}
	}
	for zone, n := range own {
		if a, ok := allotments[zone]; !ok || counts[zone]+n > a.maximum {
			return false
		}
	}
	for zone, n := range own {
		counts[zone] += n
	}
	return true
}

// move hints endpoints of zones that have more than they want to those that
// have less.
func move(free []*discoveryv1.Endpoint, counts map[string]int, allotments map[string]allotment) {
	give, take := surplus(counts, allotments)
	takers := slices.Sorted(maps.Keys(take))
	for _, e := range free {
		from := *e.Zone
		if give[from] == 0 || len(takers) == 0 {
			continue
		}
		to := takers[0]
		e.Hints = forZone(to)
		give[from]--
		counts[from]--
		counts[to]++
		if take[to]--; take[to] == 0 {
			takers = takers[1:]
		}
	}
}

// surplus says how many endpoints zones should give and take. An endpoint moves
// if that is worth it: by half of one for either zone, and by a whole one for one
// of them.
func surplus(counts map[string]int, allotments map[string]allotment) (give, take map[string]int) {
	over, under := map[string]float64{}, map[string]float64{}
	for zone, a := range allotments {
		if d := float64(counts[zone]) - a.desired; d > 0 {
			over[zone] = d
		} else if d < 0 {
			under[zone] = -d
		}
	}
	give, take = map[string]int{}, map[string]int{}
	for {
		from, much := most(over)
		to, little := most(under)
		if from == "" || to == "" || min(much, little) < 0.5 || max(much, little) < 1 {
			return give, take
		}
		give[from]++
		over[from]--
		take[to]++
		under[to]--
	}
}

// most is the zone with the greatest number above zero, by name among equals.
func most(zones map[string]float64) (name string, n float64) {
	for _, zone := range slices.Sorted(maps.Keys(zones)) {
		if zones[zone] > n {
			name, n = zone, zones[zone]
		}
	}
	return name, n
}

// overloaded reports whether some zone has too few endpoints for its share.
func overloaded(counts map[string]int, shares map[string]float64) bool {
	n := 0
	for _, c := range counts {
		n += c
	}
	if n > 0 && len(shares) == 0 {
		return true
	}
	for zone, share := range shares {
		if n > 0 && counts[zone] < leastOf(float64(n)*share) {
			return true
		}
	}
	return false
}
