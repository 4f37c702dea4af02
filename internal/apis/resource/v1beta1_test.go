package resource

import (
	"encoding/json"
	"reflect"
	"testing"

	"skiff/internal/apis"
	"skiff/internal/apis/checks/checkstest"
)

// TestV1beta1 has what upstream reads in v1 where something was written in
// v1beta1, and the other way round.
func TestV1beta1(t *testing.T) {
	for _, tt := range []struct{ name, resource, old, hub string }{
		{
			"requests", "resourceclaims",
			`{"devices":{"requests":[{"name":"r","deviceClassName":"c","allocationMode":"ExactCount","count":2,"adminAccess":true},
				{"name":"f","deviceClassName":"","firstAvailable":[{"name":"s","deviceClassName":"d"}]},{"name":"e","deviceClassName":""}]}}`,
			`{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c","allocationMode":"ExactCount","count":2,"adminAccess":true}},
				{"name":"f","firstAvailable":[{"name":"s","deviceClassName":"d"}]},{"name":"e"}]}}`,
		},
		{
			"requests of a template", "resourceclaimtemplates",
			`{"metadata":{},"spec":{"devices":{"requests":[{"name":"r","deviceClassName":"c","selectors":[{"cel":{"expression":"true"}}]}]}}}`,
			`{"metadata":{},"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c","selectors":[{"cel":{"expression":"true"}}]}}]}}}`,
		},
		{
			"devices", "resourceslices",
			`{"driver":"a.b","nodeName":"n","pool":{"name":"p","generation":1,"resourceSliceCount":1},
				"devices":[{"name":"d","basic":{"attributes":{"x":{"int":9007199254740993}},"capacity":{"m":{"value":"1Gi"}}}},{"name":"e","basic":{}}]}`,
			`{"driver":"a.b","nodeName":"n","pool":{"name":"p","generation":1,"resourceSliceCount":1},
				"devices":[{"name":"d","attributes":{"x":{"int":9007199254740993}},"capacity":{"m":{"value":"1Gi"}}},{"name":"e"}]}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := checkstest.Find(t, Resources(Grants{}), tt.resource)
			var old *apis.Version
			for i := range r.Other {
				if r.Other[i].Version == "v1beta1" {
					old = &r.Other[i]
				}
			}
			read := func(into apis.Object, spec string) apis.Object {
				if err := json.Unmarshal([]byte(`{"spec":`+spec+`}`), into); err != nil {
					t.Fatal(err)
				}
				return into
			}
			was, is := read(old.New(), tt.old), read(r.Hub.New(), tt.hub)
			if got, err := old.ToHub(was); err != nil || !reflect.DeepEqual(got, is) {
				t.Errorf("to v1:\n got %+v, %v\nwant %+v", got, err, is)
			}
			if got, err := old.FromHub(is); err != nil || !reflect.DeepEqual(got, was) {
				t.Errorf("from v1:\n got %+v, %v\nwant %+v", got, err, was)
			}
		})
	}
}
