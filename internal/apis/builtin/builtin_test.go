package builtin

import "testing"

func TestTypesAreRegistered(t *testing.T) {
	scheme := NewScheme()
	for _, r := range Resources(Hooks{}) {
		for _, v := range append(r.Other, r.Hub) {
			gvk := v.GVK()
			obj, err := scheme.New(gvk)
			if err != nil {
				t.Errorf("%s: %v", r.Resource, err)
				continue
			}
			if got, _, err := scheme.ObjectKinds(v.New()); err != nil || got[0] != gvk {
				t.Errorf("%s: New makes a %v (%v), not a %v like %T", r.Resource, got, err, gvk, obj)
			}
		}
	}
}
