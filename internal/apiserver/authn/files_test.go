package authn_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
)

func TestTokenFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens.csv")
	write(t, file, "secret,ann,7,\"devs,ops\"\n")
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{AuthenticationConfig: cluster.AuthenticationConfig{TokenAuthFile: file}}})
	user, status, text := whoAmI(t, tc, "secret")
	if got := fmt.Sprint(user.Username, " ", user.UID, " ", user.Groups); got != "ann 7 [devs ops system:authenticated]" {
		t.Errorf("%d %s %s", status, got, text)
	}
	if _, status, text := whoAmI(t, tc, "secret2"); status != 401 {
		t.Errorf("another token: %d %s", status, text)
	}
}

// TestTokenFileErrors: a server that cannot read its tokens does not start.
func TestTokenFileErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens.csv")
	write(t, file, "secret,ann\n")
	for path, want := range map[string]string{file: "must have at least 3 columns (token, user name, user uid), found 2", file + ".missing": "no such file"} {
		c := cluster.ServerConfig{DataDir: t.TempDir(), API: cluster.APIConfig{AuthenticationConfig: cluster.AuthenticationConfig{TokenAuthFile: path}}}
		c.BindAddress = netip.MustParseAddr("127.0.0.1")
		c.AdvertiseAddress, c.Node.IP, c.Node.Name = c.BindAddress, c.BindAddress, "test"
		if _, err := cluster.OpenControlPlane(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

// TestReloads: each change of a configuration is counted, whether it is taken
// over or not, and what is in force can be told from its hash.
func TestReloads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	head := func(kind string) string { return "apiVersion: apiserver.config.k8s.io/v1\nkind: " + kind + "\n" }
	authentication, authorization := filepath.Join(dir, "authn.yaml"), filepath.Join(dir, "authz.yaml")
	anonymous := func(enabled bool) string {
		return head("AuthenticationConfiguration") + fmt.Sprintf("anonymous: {enabled: %t}\n", enabled)
	}
	authorizers := func(names ...string) string {
		text := head("AuthorizationConfiguration") + "authorizers:\n"
		for _, n := range names {
			text += fmt.Sprintf("- {type: %s, name: %s}\n", n, strings.ToLower(n))
		}
		return text
	}
	write(t, authentication, anonymous(true))
	write(t, authorization, authorizers("Node", "RBAC"))
	tc := testcluster.StartWith(t, cluster.ServerConfig{API: cluster.APIConfig{
		AuthenticationConfig: cluster.AuthenticationConfig{AuthenticationConfigFile: authentication},
		AuthorizationConfig:  cluster.AuthorizationConfig{AuthorizationConfigFile: authorization},
	}})
	for _, part := range []struct{ name, file, good, bad string }{
		{"authentication", authentication, anonymous(false), head("AuthenticationConfiguration") + "nonsense: true\n"},
		{"authorization", authorization, authorizers("RBAC"), authorizers("Nonsense")},
	} {
		prefix := "apiserver_" + part.name + "_config_controller_"
		counted := func(status string, n float64) {
			t.Helper()
			err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
				return testcluster.Metric(t, tc.Metrics, prefix+"automatic_reloads_total", "status="+status) == n, nil
			})
			if err != nil {
				t.Fatalf("reloads of the %s configuration with %s: %v, want %v", part.name, status, testcluster.Metric(t, tc.Metrics, prefix+"automatic_reloads_total", "status="+status), n)
			}
		}
		if n := testcluster.Metric(t, tc.Metrics, prefix+"last_config_info"); n != 1 {
			t.Errorf("%v hashes of the %s configuration", n, part.name)
		}
		counted("success", 0)
		write(t, part.file, part.good)
		counted("success", 1)
		write(t, part.file, part.bad)
		counted("failure", 1)
		counted("success", 1)
		if testcluster.Metric(t, tc.Metrics, prefix+"last_config_info") != 1 || testcluster.Metric(t, tc.Metrics, prefix+"automatic_reload_last_timestamp_seconds", "status=failure") < float64(time.Now().Add(-time.Hour).Unix()) {
			t.Errorf("the %s configuration's metrics do not tell of the failure", part.name)
		}
	}
}
