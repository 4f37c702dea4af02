package runtimeconfig

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/apis"
)

func parsed(text string) Config {
	c := Config{}
	c.Parse(text)
	return c
}

// TestCheck has what kube-apiserver of v1.36 says of the flag when it starts.
func TestCheck(t *testing.T) {
	for _, tt := range []struct{ flag, want string }{
		{"", ""},
		{"v1=false", ""},
		{"/v1=false", ""},
		{"api/v1=false", ""},
		{"api/legacy=true", ""},
		{"api/all=false", "invalid runtime-config with only api/all=false"},
		{"api/all=false,v1=true", ""},
		{"foo/v1=true,bar/v2=true", "unknown api groups bar/v2,foo/v1"},
		{"apps/v9=true", "group version apps/v9 that has not been registered"},
		{"apps/v1beta1=true", ""},
		{"apps/v1", ""},
		{"apps/v1=maybe", `invalid value of apps/v1: maybe, err: strconv.ParseBool: parsing "maybe": invalid syntax`},
		{"api/beta=maybe", "invalid value api/beta=maybe"},
		{"api/beta", "invalid value api/beta="},
		{"apps/v1/Deployments=true", `invalid key apps/v1/Deployments: group/version/resource and resource is always lowercase plural, not "Deployments"`},
		{"apps/v1/a/b=true", "runtime-config invalid key apps/v1/a/b"},
		{"apps", "runtime-config invalid key apps"},
		{"apps/v1/nothing=true", ""},
		{"apiextensions.k8s.io/v1=true,apiregistration.k8s.io/v1beta1=true", ""},
		{"apiextensions.k8s.io/v2=true", "group version apiextensions.k8s.io/v2 that has not been registered"},
	} {
		got := ""
		if err := parsed(tt.flag).Check(); err != nil {
			got = err.Error()
		}
		if got != tt.want && strings.TrimPrefix(got, "runtime-config: ") != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.flag, got, tt.want)
		}
	}
	if err := parsed("scheduling.k8s.io/v1alpha2=true").Check(); err == nil {
		t.Error("what cannot be served can be turned on")
	}
	if err := parsed("scheduling.k8s.io/v1alpha2=false").Check(); err != nil {
		t.Errorf("what is not served cannot be turned off: %v", err)
	}
}

func TestFairness(t *testing.T) {
	for flag, want := range map[string]string{
		"":                           "",
		"api/all=false,apps/v1=true": "--runtime-config=api/all=false conflicts with --enable-priority-and-fairness=true",
		"api/all=false,api/ga=true":  "",
		"api/all=false,flowcontrol.apiserver.k8s.io/v1=true": "",
		"flowcontrol.apiserver.k8s.io/v1=false":              "--runtime-config=flowcontrol.apiserver.k8s.io/v1=false conflicts with --enable-priority-and-fairness=true",
	} {
		got := ""
		if err := parsed(flag).Fairness(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", flag, got, want)
		}
	}
}

func TestEnabled(t *testing.T) {
	for _, tt := range []struct {
		flag, gvr string
		want      bool
	}{
		{"", "apps/v1/deployments", true},
		{"", "networking.k8s.io/v1beta1/ipaddresses", false},
		{"api/beta=true", "networking.k8s.io/v1beta1/ipaddresses", true},
		{"api/beta=true", "apps/v1/deployments", true},
		{"api/ga=false", "apps/v1/deployments", false},
		{"api/ga=false,apps/v1=true", "apps/v1/deployments", true},
		{"api/all=true", "networking.k8s.io/v1beta1/ipaddresses", true},
		{"api/all=true,api/beta=false", "networking.k8s.io/v1beta1/ipaddresses", false},
		{"api/all=false,api/ga=true", "apps/v1/deployments", true},
		{"apps/v1=false", "apps/v1/deployments", false},
		{"apps/v1=false,apps/v1/deployments=true", "apps/v1/deployments", true},
		{"apps/v1=false,apps/v1/deployments=true", "apps/v1/daemonsets", false},
		{"apps/v1/deployments=false", "apps/v1/deployments", false},
		{"apps/v1/deployments=false", "apps/v1/daemonsets", true},
		{"networking.k8s.io/v1beta1/ipaddresses", "networking.k8s.io/v1beta1/ipaddresses", true},
		{"networking.k8s.io/v1beta1/ipaddresses", "networking.k8s.io/v1beta1/servicecidrs", false},
		{"v1/pods=false", "/v1/secrets", false},
		{"/v1/pods=false", "/v1/pods", false},
		{"/v1/pods=false", "/v1/secrets", true},
	} {
		p := strings.Split(tt.gvr, "/")
		if got := parsed(tt.flag).enabled(schema.GroupVersion{Group: p[0], Version: p[1]}, p[2]); got != tt.want {
			t.Errorf("%s: %s is on: %v", tt.flag, tt.gvr, got)
		}
	}
}

func TestSelect(t *testing.T) {
	resource := func(name, gate string, versions ...string) *apis.Resource {
		r := &apis.Resource{Names: apis.Names{Group: "g", Resource: name}}
		r.Hub = apis.Version{Group: "g", Version: versions[0], Gate: gate}
		for _, v := range versions[1:] {
			r.Other = append(r.Other, apis.Version{Group: "g", Version: v})
		}
		return r
	}
	for _, tt := range []struct {
		flag string
		want []string // versions that stay; those in brackets are off
	}{
		{"", []string{"stables v1 v2"}},
		{"api/beta=true", []string{"stables v1 v2 v1beta1", "betas v1beta1", "gated v1beta1"}},
		{"g/v1=false,g/v1beta1/stables=true", []string{"stables (v1) v2 v1beta1"}},
		{"api/ga=false", []string{"stables (v1) (v2)"}},
		{"g/v1beta1/closed=true", []string{"stables v1 v2"}},
	} {
		all := []*apis.Resource{resource("stables", "", "v1", "v2", "v1beta1"), resource("betas", "", "v1beta1"), resource("gated", "On", "v1beta1"), resource("closed", "Off", "v1beta1")}
		var got []string
		for _, r := range parsed(tt.flag).Select(all, func(gate string) bool { return gate == "On" }) {
			line := r.Names.Resource
			for _, v := range append([]apis.Version{r.Hub}, r.Other...) {
				if v.Off {
					line += " (" + v.Version + ")"
				} else {
					line += " " + v.Version
				}
			}
			got = append(got, line)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.flag, got, tt.want)
		}
	}
}
