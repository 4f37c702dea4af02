package plugins_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"skiff/internal/apiserver/admission/plugins"
)

// TestPlugins compares with kube-apiserver of v1.36. A line is a plug-in and
// whether it is on by default, in the order in which they run.
func TestPlugins(t *testing.T) {
	text, err := os.ReadFile("testdata/plugins.txt")
	if err != nil {
		t.Fatal(err)
	}
	// Nodes are always held to what is theirs, as every installer has it.
	want := strings.Replace(string(text), "NodeRestriction off", "NodeRestriction on", 1)
	e := start(t)
	if got := e.deps.Defaults(t.Context()); !slices.Equal(got, strings.Split(strings.TrimSpace(want), "\n")) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

// TestNames has what kube-apiserver says to wrong names, which are followed by
// those that there are.
func TestNames(t *testing.T) {
	e := start(t)
	for _, tt := range []struct {
		enable, disable []string
		want            string
	}{
		{[]string{"Foo", "Bar"}, nil, `enable-admission-plugins plugin "Foo" is unknown, enable-admission-plugins plugin "Bar" is unknown; there are AlwaysAdmit, `},
		{nil, []string{"Foo"}, `disable-admission-plugins plugin "Foo" is unknown; there are AlwaysAdmit, `},
		{[]string{"Priority"}, []string{"Priority"}, "[Priority] in enable-admission-plugins and disable-admission-plugins overlapped"},
	} {
		_, err := plugins.New(t.Context(), e.deps, plugins.Config{Enable: tt.enable, Disable: tt.disable})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v, %v:\n got %v\nwant %s", tt.enable, tt.disable, err, tt.want)
		}
	}
}
