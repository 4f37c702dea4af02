package houserules

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"
)

// A line is a folder with everything below it, and the other folders that its
// packages may import: those ending in "/" with everything below them, the
// others alone. Its tests may import a little more. The first line that holds a
// package counts.
type line struct {
	folder string
	may    []string
	tests  []string
}

// contracts are the small packages that anyone may import: who asks, what may
// be asked, and what the resources are.
var contracts = []string{"internal/identity", "internal/apis/"}

// part is a line of the parts that use the API: they know the client and the
// contracts, and never each other.
func part(folder string) line { return line{folder: folder, may: []string{"internal/client"}} }

var lines = []line{
	{folder: "internal/houserules"},
	{folder: "internal/identity"},
	{folder: "internal/apis", may: []string{"internal/apiserver/authz", "internal/apiserver/cel"}},
	{folder: "internal/serviceaccount"},
	{folder: "internal/store"},
	{folder: "internal/apiserver", may: []string{"internal/store/", "internal/serviceaccount"}, tests: []string{"internal/cluster", "internal/cluster/pki"}},
	{folder: "internal/client", may: []string{"internal/apiserver/verbs", "internal/store/"}},

	part("internal/controllers"),
	part("internal/scheduler"),
	// Its controllers are made as all others are.
	{folder: "internal/cloud", may: []string{"internal/client", "internal/controllers/controller"}},
	part("internal/kubelet"),
	part("internal/network"),
	part("internal/proxy"),
	part("internal/dns"),
	part("internal/metrics"),
	part("internal/dashboard"),
	{folder: "internal/containerd", tests: []string{"internal/images"}},
	part("internal/images"),

	// The control plane is put together without the node's parts and the
	// command line, so that tests that need an API server link in seconds.
	{folder: "internal/cluster/pki"},
	{folder: "internal/cluster/jointoken"},
	{folder: "internal/cluster/bootstrap", may: []string{"internal/client"}},
	{folder: "internal/cluster/devnet", may: []string{"internal/cluster/jointoken", "internal/containerd"}},
	{folder: "internal/cluster/server", may: []string{"internal/"}},
	{folder: "internal/cluster/agent", may: []string{"internal/"}},
	{folder: "internal/cluster/node", may: []string{"internal/"}},
	{folder: "internal/cluster", may: []string{"internal/apiserver/", "internal/client/", "internal/store/", "internal/serviceaccount", "internal/metrics"}},
	{folder: "internal/cli", may: []string{"internal/"}},
	{folder: "cmd/skiff-pod", may: []string{"internal/containerd/daemon/shim", "internal/network/cni"}},
	{folder: "cmd", may: []string{"internal/cli"}},
	{folder: "bench", may: []string{"internal/"}},
	{folder: "test", may: []string{"internal/"}},
}

// mayImport reports whether a product file of the line may import a package of
// the project.
func (l line) mayImport(dir string) bool {
	return within(dir, l.folder) || covers(contracts, dir) || covers(l.may, dir)
}

// testMayImport is the same for a test: a whole API server and what other
// parts offer to tests are welcome too.
func (l line) testMayImport(dir string) bool {
	return l.mayImport(dir) || testPackage(dir) || within(dir, "internal/client") || covers(l.tests, dir)
}

func covers(folders []string, dir string) bool {
	return slices.ContainsFunc(folders, func(f string) bool {
		folder, below := strings.CutSuffix(f, "/")
		return dir == folder || below && within(dir, folder)
	})
}

func lineOf(dir string) (line, bool) {
	i := slices.IndexFunc(lines, func(l line) bool { return within(dir, l.folder) })
	if i < 0 {
		return line{}, false
	}
	return lines[i], true
}

func TestImportsGoDown(t *testing.T) {
	p := load(t)
	for _, f := range p.files {
		l, ok := lineOf(f.dir)
		if !ok {
			t.Errorf("%s: no line holds this package. Say in internal/houserules what it may import.", f.name)
			continue
		}
		may := l.mayImport
		if f.test() {
			may = l.testMayImport
		}
		for _, imported := range f.imports() {
			dir, own := strings.CutPrefix(imported, module)
			if own && !may(dir) {
				t.Errorf("%s imports %s. Parts know the client and the declarations in apis, never each other or what is above them: "+
					"declare a small interface for what is needed here, and let internal/cluster hand it in.", f.name, imported)
			}
		}
	}
}

// heavy are libraries that cost every test which links them seconds, and the
// folders that may import them.
var heavy = map[string][]string{
	"github.com/containerd/containerd/v2": {"internal/containerd/daemon", "internal/images"},
	"github.com/coredns/":                 {"internal/dns"},
	"k8s.io/kubectl":                      {"internal/cli"},
	"go.etcd.io/etcd/server/v3":           {"internal/store/etcd/member"},
}

func TestHeavyLibrariesStayAtTheEdge(t *testing.T) {
	p := load(t)
	for _, f := range p.files {
		for _, imported := range f.imports() {
			for library, folders := range heavy {
				allowed := slices.ContainsFunc(folders, func(folder string) bool { return within(f.dir, folder) })
				if within(imported, strings.TrimSuffix(library, "/")) && !allowed {
					t.Errorf("%s imports %s, which only %s may: put what is needed of it there, behind a function or an interface.",
						f.name, imported, strings.Join(folders, " and "))
				}
			}
		}
	}
}

// TestLightPackages holds the packages that others' tests build on free of the
// heavy libraries, however indirectly.
func TestLightPackages(t *testing.T) {
	p := load(t)
	imports := map[string][]string{}
	for _, f := range p.files {
		if !strings.HasSuffix(f.name, "_test.go") {
			imports[f.dir] = append(imports[f.dir], f.imports()...)
		}
	}
	edge := slices.Concat(slices.Collect(maps.Values(heavy))...)
	for _, light := range []string{"internal/cluster/testcluster", "internal/controllers", "internal/kubelet", "internal/network", "internal/proxy"} {
		if _, ok := imports[light]; !ok {
			t.Errorf("%s is not there any more: name its successor in this test.", light)
		}
		via := map[string]string{light: ""}
		for queue := []string{light}; len(queue) > 0; queue = queue[1:] {
			for _, imported := range imports[queue[0]] {
				dir, own := strings.CutPrefix(imported, module)
				if _, seen := via[dir]; !own || seen {
					continue
				}
				via[dir] = queue[0]
				queue = append(queue, dir)
			}
		}
		for _, dir := range edge {
			if from, ok := via[dir]; ok {
				t.Errorf("%s links %s by way of %s: assemble the two in a package above both.", light, dir, cmp.Or(from, light))
			}
		}
	}
}

// leaves are the libraries inside upstream's server modules: CEL functions and
// how they warn, types of configuration files, schema helpers. They serve and
// store nothing.
var leaves = []string{
	"k8s.io/apiserver/pkg/apis",
	"k8s.io/apiserver/pkg/authentication/user",
	"k8s.io/apiserver/pkg/authorization/authorizer",
	"k8s.io/apiserver/pkg/cel",
	"k8s.io/apiserver/pkg/warning",
	"k8s.io/apiextensions-apiserver/pkg/apihelpers",
	"k8s.io/apiextensions-apiserver/pkg/apis",
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema",
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation",
	"k8s.io/kube-aggregator/pkg/apis",
}

// TestUpstreamsServersStayOut keeps upstream's own implementation out: the
// project depends on its API types and libraries.
func TestUpstreamsServersStayOut(t *testing.T) {
	p := load(t)
	servers := []string{"k8s.io/kubernetes", "k8s.io/apiserver", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator", "k8s.io/controller-manager"}
	for _, f := range p.files {
		for _, imported := range f.imports() {
			inside := func(module string) bool { return within(imported, module) }
			if slices.ContainsFunc(servers, inside) && !slices.ContainsFunc(leaves, inside) {
				t.Errorf("%s imports %s: upstream's servers are the specification, not a library. Write what is needed.", f.name, imported)
			}
		}
	}
	for _, text := range strings.Split(p.texts["go.mod"], "\n") {
		if strings.HasPrefix(strings.TrimSpace(text), "replace ") {
			t.Errorf("go.mod: %q. Use a released version of the module.", text)
		}
	}
}
