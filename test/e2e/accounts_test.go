//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestAccounts is about what containers see of their ServiceAccount, on a
// cluster whose nodes all take pods.
func TestAccounts(t *testing.T) {
	c := start(t, "e2eaccounts", 2)
	t.Run("untainted nodes", func(t *testing.T) { c.in(t).testUntainted() })
	t.Run("the mounted token", func(t *testing.T) { c.in(t).testMountedToken() })
	t.Run("projected tokens", func(t *testing.T) { c.in(t).testProjectedTokens() })
}

func (c *testCluster) testUntainted() {
	c.eventually("two nodes take pods", func(ctx context.Context) error {
		list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range list.Items {
			if len(n.Spec.Taints) > 0 || n.Spec.Unschedulable {
				return fmt.Errorf("%s has the taints %v", n.Name, n.Spec.Taints)
			}
		}
		if len(list.Items) < 2 {
			return fmt.Errorf("there are %d nodes", len(list.Items))
		}
		return nil
	})
}

// output runs a pod to its end and returns what it wrote.
func (c *testCluster) output(p *corev1.Pod) string {
	c.Helper()
	pods := c.client.CoreV1().Pods("default")
	if _, err := pods.Create(c.Context(), p, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
	c.eventually(p.Name+" ends", func(ctx context.Context) error {
		got, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
		if err == nil && got.Status.Phase != corev1.PodSucceeded {
			err = fmt.Errorf("it is %s", got.Status.Phase)
		}
		return err
	})
	return c.kubectl("logs", p.Name)
}

// shell is a pod that runs a command, as a whole.
func shell(name, script string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		Containers:    []corev1.Container{{Name: "main", Image: "skiff.local/busybox:1", Command: []string{"sh", "-c", script}}},
	}}
}

// review returns whose the token is.
func (c *testCluster) review(token string) authenticationv1.UserInfo {
	c.Helper()
	r, err := c.client.AuthenticationV1().TokenReviews().Create(c.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil || !r.Status.Authenticated {
		c.Fatalf("%v, %+v", err, r)
	}
	return r.Status.User
}

func (c *testCluster) testMountedToken() {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	out := c.output(shell("mounted", "cat "+dir+"namespace; echo ,; cat "+dir+"token; echo ,; cat "+dir+"ca.crt"))
	parts := strings.Split(out, ",")
	if len(parts) != 3 {
		c.Fatalf("the files hold %q", out)
	}
	ca, err := c.client.CoreV1().ConfigMaps("default").Get(c.Context(), "kube-root-ca.crt", metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	if strings.TrimSpace(parts[0]) != "default" || strings.TrimSpace(parts[2]) != strings.TrimSpace(ca.Data["ca.crt"]) {
		c.Errorf("the files hold %q", out)
	}
	if user := c.review(strings.TrimSpace(parts[1])); user.Username != "system:serviceaccount:default:default" || fmt.Sprint(user.Extra["authentication.kubernetes.io/pod-name"]) != "[mounted]" {
		c.Errorf("the token is that of %+v", user)
	}
}

// testProjectedTokens shows who may read a token: the user that the pod runs
// as, if it says so, and its group.
func (c *testCluster) testProjectedTokens() {
	for name, test := range map[string]struct {
		user, group *int64
		want        string
	}{
		"user":           {ptr.To[int64](1000), nil, "-rw------- 1000 0"},
		"group":          {nil, ptr.To[int64](10000), "-rw-r----- 0 10000"},
		"user-and-group": {ptr.To[int64](1000), ptr.To[int64](10000), "-rw-r----- 1000 10000"},
		"neither":        {nil, nil, "-rw-r--r-- 0 0"},
	} {
		p := shell("projected-"+name, "stat -L -c '%A %u %g' /tokens/token; cat /tokens/token")
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: test.user, FSGroup: test.group}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "tokens", MountPath: "/tokens"}}
		p.Spec.Volumes = []corev1.Volume{{Name: "tokens", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](3600)}}},
		}}}}
		line, token, _ := strings.Cut(c.output(p), "\n")
		if line != test.want {
			c.Errorf("%s: %q, not %q", name, line, test.want)
		}
		c.review(strings.TrimSpace(token))
	}
}
