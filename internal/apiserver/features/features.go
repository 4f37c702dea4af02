// Package features are the API server's optional features, under the names of
// upstream's feature gates. What upstream has made permanent is no gate here.
package features

import (
	"fmt"
	"slices"
	"strings"
)

// Stages of a feature, as metrics name them.
const (
	Alpha  = "ALPHA"
	Beta   = "BETA"
	Stable = ""
)

const (
	// CBORServingAndStorage lets clients send and get objects in CBOR.
	CBORServingAndStorage = "CBORServingAndStorage"
	// ClusterTrustBundle serves bundles of trust anchors, if their API is on.
	ClusterTrustBundle = "ClusterTrustBundle"
	// ClusterTrustBundleProjection lets pods mount them.
	ClusterTrustBundleProjection = "ClusterTrustBundleProjection"
)

// Gate is a feature that can be turned on and off.
type Gate struct {
	Name, Stage string
	// Default says whether it is on when nothing is said.
	Default bool
}

// Gates are all that there are, by name.
func Gates() []Gate {
	return []Gate{
		{CBORServingAndStorage, Alpha, false},
		{ClusterTrustBundle, Beta, false},
		{ClusterTrustBundleProjection, Beta, false},
	}
}

// Set says of some gates whether they are on.
type Set map[string]bool

// Check returns an error if the set names what is not there.
func (s Set) Check() error {
	for name := range s {
		if !slices.ContainsFunc(Gates(), func(g Gate) bool { return g.Name == name }) {
			var known []string
			for _, g := range Gates() {
				known = append(known, g.Name)
			}
			return fmt.Errorf("unrecognized feature gate: %s (there are: %s)", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// Enabled reports whether a feature is on.
func (s Set) Enabled(name string) bool {
	if on, said := s[name]; said {
		return on
	}
	i := slices.IndexFunc(Gates(), func(g Gate) bool { return g.Name == name })
	return i >= 0 && Gates()[i].Default
}
