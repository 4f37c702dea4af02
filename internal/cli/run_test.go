package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"skiff/internal/network/cni"
)

// run runs a command line and returns what it printed.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	err = Run(t.Context(), append([]string{"skiff"}, args...), Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	return out.String(), errOut.String(), err
}

func TestEmbeddedProgramsAnswerToTheirNames(t *testing.T) {
	for _, args := range [][]string{
		{"/var/lib/skiff/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "start"},
		{"/usr/bin/skiff", "-namespace", "k8s.io", "-id", "x"},
		{"skiff", "containerd", "--config", "x"},
		{"/var/lib/skiff/bin/" + cni.Name},
		{"/var/lib/skiff/bin/loopback"},
	} {
		if Embedded(args) == nil {
			t.Errorf("%q is a command", args)
		}
	}
	for _, args := range [][]string{{"skiff"}, {"skiff", "version"}, {"kubectl", "get", "pods"}, {"skiff", "kubectl", "-n", "x"}} {
		if Embedded(args) != nil {
			t.Errorf("%q is an embedded program", args)
		}
	}
}

func TestVersion(t *testing.T) {
	out, _, err := run(t, "version")
	if err != nil || !strings.HasPrefix(out, "skiff ") || !strings.Contains(out, "\nkubernetes v1.36") {
		t.Errorf("got %q, %v", out, err)
	}
}

// TestMain lets this program be skiff itself: kubectl sets what belongs to the
// whole process.
func TestMain(m *testing.M) {
	if os.Getenv(asSkiff) == "" {
		os.Exit(m.Run())
	}
	err := Run(context.Background(), os.Args, Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	var exit ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.Code)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}

const asSkiff = "SKIFF_TEST_COMMAND"

// runKubectlAlone runs skiff kubectl as a program of its own.
func runKubectlAlone(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"kubectl"}, args...)...)
	cmd.Env = append(os.Environ(), asSkiff+"=1")
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// TestKubectlVersion is of a kubectl that the linker told nothing.
func TestKubectlVersion(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	for format, want := range map[string]string{"": "Client Version: v1.36.3\n", "json": `"gitVersion": "v1.36.3"`, "yaml": `minor: "36"`} {
		out, _, err := runKubectlAlone(t, "version", "--client", "--output="+format)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("--output=%s: got %q, %v", format, out, err)
		}
	}
	if _, stderr, err := runKubectlAlone(t, "version", "--client", "--output=table"); err == nil || !strings.Contains(stderr, `not "table"`) {
		t.Errorf("--output=table: %q, %v", stderr, err)
	}
}

func TestBadCommandLinesSayWhatIsWrong(t *testing.T) {
	t.Setenv("SKIFF_HOME", t.TempDir())
	t.Setenv("SKIFF_CLUSTER", "")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"nonsense"}, `unknown command "nonsense"`},
		{[]string{"up", "--nodes", "0"}, "at least 1"},
		{[]string{"up", "--subnet", "here"}, `--subnet is "here"`},
		{[]string{"up", "--name", "No Name"}, `"No Name" is not a cluster's name`},
		{[]string{"node", "list"}, `no development cluster "dev"`},
		{[]string{"node", "stop", "dev-1", "--name", "x"}, "skiff up --name x"},
		{[]string{"server", "--node-ip", "here"}, `"here" is not an IP address`},
		{[]string{"server", "--cluster-cidr", "10"}, `"10" is not a range`},
		{[]string{"server", "--log-level", "loud"}, `--log-level is "loud"`},
		{[]string{"agent"}, `required flag(s) "server"`},
		{[]string{"image", "import", "--as", "x", "a", "b"}, "names one image"},
		{[]string{"token", "create", "bad"}, "a token looks like"},
		{[]string{"token", "create", "--ttl", "-1s"}, "must not be negative"},
		{[]string{"node-init", "x"}, "skiff up starts it"},
	} {
		if test.args[0] == "image" {
			test.args = append(test.args, "--socket", "/none")
		}
		_, _, err := run(t, test.args...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("skiff %s: %v; want ... %s ...", strings.Join(test.args, " "), err, test.want)
		}
	}
}

func TestDownOfNothingIsNoError(t *testing.T) {
	if _, _, err := run(t, "down", "--home", filepath.Join(t.TempDir(), "none")); err != nil {
		t.Error(err)
	}
	if _, _, err := run(t, "down", "--home", t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestKubectlIsUpstreams(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	out, _, err := runKubectlAlone(t, "version", "--client")
	if err != nil || !strings.Contains(out, "Client Version") {
		t.Errorf("version: %q, %v", out, err)
	}
	out, _, err = runKubectlAlone(t, "create", "configmap", "x", "--from-literal=a=b", "--dry-run=client", "-o", "name")
	if err != nil || out != "configmap/x\n" {
		t.Errorf("create: %q, %v", out, err)
	}
	var exit *exec.ExitError
	if _, stderr, err := runKubectlAlone(t, "get", "pods"); !errors.As(err, &exit) || exit.ExitCode() != 1 || stderr == "" {
		t.Errorf("get without a server: %q, %v", stderr, err)
	}
}

func TestKubectlFindsTheKubeconfig(t *testing.T) {
	home := t.TempDir()
	t.Setenv("SKIFF_HOME", home)
	// The clusters' nodes seem to run as this process.
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	start := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[19]
	add := func(name string) {
		c := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Join(c, "n"), 0o700); err != nil {
			t.Fatal(err)
		}
		for path, text := range map[string]string{
			"cluster.json": `{"name":"` + name + `","nodes":[{"name":"n","ip":"172.30.0.2"}]}`,
			"n/init.json":  fmt.Sprintf(`{"pid":%d,"start":%q}`, os.Getpid(), start),
		} {
			if err := os.WriteFile(filepath.Join(c, path), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(env, kubeconfig string, args []string, want string, fails bool) {
		t.Helper()
		t.Setenv("SKIFF_CLUSTER", env)
		t.Setenv("KUBECONFIG", kubeconfig)
		got, err := findKubeconfig(args)
		if got == adminKubeconfig {
			got = ""
		}
		if got != want || (err != nil) != fails {
			t.Errorf("SKIFF_CLUSTER=%s KUBECONFIG=%s kubectl %v: got %q, %v; want %q", env, kubeconfig, args, got, err, want)
		}
	}
	add("one")
	check("", "", nil, filepath.Join(home, "one/kubeconfig"), false)
	add("two")
	check("", "", nil, "", false)
	check("two", "", nil, filepath.Join(home, "two/kubeconfig"), false)
	check("two", "", []string{"get", "--kubeconfig=x"}, "", false)
	check("two", "", []string{"exec", "p", "--", "x", "--kubeconfig=x"}, filepath.Join(home, "two/kubeconfig"), false)
	check("two", "x", nil, "", false)
	check("three", "", nil, "", true)
	if err := os.Remove(filepath.Join(home, "two/n/init.json")); err != nil {
		t.Fatal(err)
	}
	check("two", "", nil, "", true)
}

// TestKubectlAlias uses an alias of the user's preferences (KEP-3104).
func TestKubectlAlias(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	kuberc := filepath.Join(t.TempDir(), "kuberc")
	if err := os.WriteFile(kuberc, []byte(`
apiVersion: kubectl.config.k8s.io/v1beta1
kind: Preference
aliases:
- {name: show, command: config, prependArgs: [view]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, err := runKubectlAlone(t, "show", "--kuberc="+kuberc, "-o=yaml")
	if err != nil || !strings.Contains(out, "kind: Config") {
		t.Errorf("got %q, %q, %v", out, stderr, err)
	}
}
