package controllers_test

import (
	"context"
	"net/netip"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/csr"
	"skiff/internal/identity"
)

// start runs a cluster with all controllers.
func start(t *testing.T) *controllertest.Cluster {
	t.Helper()
	c := controllertest.Of(t, testcluster.Start(t))
	run(t, c)
	return c
}

// run runs all controllers until the test ends.
func run(t *testing.T, c *controllertest.Cluster) {
	t.Helper()
	runWith(t, configOf(t, c))
}

// configOf is what the controllers of a cluster are given.
func configOf(t *testing.T, c *controllertest.Cluster) controllers.Config {
	t.Helper()
	return controllers.Config{
		Set:          c.Account,
		Discover:     c.Discover,
		CABundle:     c.PKI.CA.PEM,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		Certificates: csr.Options{Signer: c.PKI.CA},
		LocalVolumes: directories{t.TempDir()},
		Server:       c.Set(identity.Loopback()),
		SignToken:    c.SecretToken, Manager: c.Set(identity.Component("system:kube-controller-manager")),
		Clock: clock.RealClock{},
		Log:   c.Logger(),
	}
}

func runWith(t *testing.T, c controllers.Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	all, err := controllers.New(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- all.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("controllers: %v", err)
		}
	})
}

func newDeployment(namespace, name string, replicas int32, image string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
			},
		},
	}
}

func complete(d *appsv1.Deployment) bool {
	s, n := d.Status, *d.Spec.Replicas
	return s.ObservedGeneration == d.Generation && s.Replicas == n && s.UpdatedReplicas == n && s.AvailableReplicas == n
}

func TestDeploymentFromCreationToDeletion(t *testing.T) {
	c := start(t)
	c.KubeletWithoutScheduler()
	ctx := context.Background()
	c.Create(newDeployment("default", "web", 3, "web:1"), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: map[string]string{"team": "a"}},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	})
	web := func() *appsv1.Deployment { return controllertest.Get(c, "default", "web", &appsv1.Deployment{}) }
	rollout := func(what string) {
		t.Helper()
		c.Eventually(what, &appsv1.DeploymentList{}, func() bool { return complete(web()) })
	}
	rollout("first rollout")
	if r := web().Annotations["deployment.kubernetes.io/revision"]; r != "1" {
		t.Errorf("revision %q, want 1", r)
	}

	c.Eventually("endpoints", &discoveryv1.EndpointSliceList{}, func() bool {
		var list discoveryv1.EndpointSliceList
		if err := c.Client.List(ctx, &list, client.InNamespace("default"), client.MatchingLabels{discoveryv1.LabelServiceName: "web"}); err != nil {
			t.Fatal(err)
		}
		ready := 0
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				if *e.Conditions.Ready && len(s.Ports) == 1 && *s.Ports[0].Port == 80 && s.Labels["team"] == "a" {
					ready++
				}
			}
		}
		return ready == 3
	})

	scaled := web()
	scaled.Spec.Replicas = ptr.To[int32](5)
	scaled.Spec.Template.Spec.Containers[0].Image = "web:2"
	if err := c.Client.Update(ctx, scaled); err != nil {
		t.Fatal(err)
	}
	rollout("second rollout")
	if r := web().Annotations["deployment.kubernetes.io/revision"]; r != "2" {
		t.Errorf("revision %q, want 2", r)
	}

	// A rollback is the old template again: its ReplicaSet becomes revision 3.
	back := web()
	back.Spec.Template.Spec.Containers[0].Image = "web:1"
	if err := c.Client.Update(ctx, back); err != nil {
		t.Fatal(err)
	}
	rollout("rollback")
	var sets appsv1.ReplicaSetList
	if err := c.Client.List(ctx, &sets, client.InNamespace("default")); err != nil {
		t.Fatal(err)
	}
	if len(sets.Items) != 2 {
		t.Errorf("%d replica sets, want 2", len(sets.Items))
	}
	for _, s := range sets.Items {
		if *s.Spec.Replicas == 5 && s.Annotations["deployment.kubernetes.io/revision-history"] != "1" {
			t.Errorf("revision history of %s is %q, want 1", s.Name, s.Annotations["deployment.kubernetes.io/revision-history"])
		}
	}

	if err := c.Client.Delete(ctx, web()); err != nil {
		t.Fatal(err)
	}
	c.Eventually("collection of the pods", &corev1.PodList{}, func() bool {
		var pods corev1.PodList
		if err := c.Client.List(ctx, &pods, client.InNamespace("default")); err != nil {
			t.Fatal(err)
		}
		return len(pods.Items) == 0
	})
}

func TestNamespaceFromCreationToDeletion(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	c.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
	c.Eventually("default service account", &corev1.ServiceAccountList{}, func() bool {
		return c.Client.Get(ctx, types.NamespacedName{Namespace: "team", Name: "default"}, &corev1.ServiceAccount{}) == nil
	})
	c.Eventually("root CA", &corev1.ConfigMapList{}, func() bool {
		var m corev1.ConfigMap
		return c.Client.Get(ctx, types.NamespacedName{Namespace: "team", Name: "kube-root-ca.crt"}, &m) == nil && m.Data["ca.crt"] == string(c.PKI.CA.PEM)
	})
	c.Create(newDeployment("team", "web", 2, "web:1"))
	c.Eventually("pods", &corev1.PodList{}, func() bool {
		var pods corev1.PodList
		return c.Client.List(ctx, &pods, client.InNamespace("team")) == nil && len(pods.Items) == 2
	})
	if err := c.Client.Delete(ctx, controllertest.Get(c, "", "team", &corev1.Namespace{})); err != nil {
		t.Fatal(err)
	}
	c.Eventually("end of the namespace", &corev1.NamespaceList{}, func() bool {
		return apierrors.IsNotFound(c.Client.Get(ctx, types.NamespacedName{Name: "team"}, &corev1.Namespace{}))
	})
}

func TestNodesGetRanges(t *testing.T) {
	c := start(t)
	c.Create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
	c.Eventually("ranges", &corev1.NodeList{}, func() bool {
		a, b := controllertest.Get(c, "", "a", &corev1.Node{}), controllertest.Get(c, "", "b", &corev1.Node{})
		return a.Spec.PodCIDR != "" && b.Spec.PodCIDR != "" && a.Spec.PodCIDR != b.Spec.PodCIDR
	})
}

func newJob(name string, spec batchv1.JobSpec, image string) *batchv1.Job {
	spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: image}}}
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec}
}

func TestJobs(t *testing.T) {
	c := start(t)
	c.KubeletWithoutScheduler()
	indexed := batchv1.IndexedCompletion
	policy := &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
		Action:      batchv1.PodFailurePolicyActionFailJob,
		OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
	}}}
	for _, test := range []struct {
		job               *batchv1.Job
		end               batchv1.JobConditionType
		reason            string
		succeeded, failed int32
		completed         string
	}{
		{newJob("one", batchv1.JobSpec{}, "exit:0"), batchv1.JobComplete, "CompletionsReached", 1, 0, ""},
		{newJob("many", batchv1.JobSpec{Completions: ptr.To[int32](7), Parallelism: ptr.To[int32](3)}, "exit:0"), batchv1.JobComplete, "CompletionsReached", 7, 0, ""},
		{newJob("indexed", batchv1.JobSpec{Completions: ptr.To[int32](4), Parallelism: ptr.To[int32](2), CompletionMode: &indexed}, "exit:0"), batchv1.JobComplete, "CompletionsReached", 4, 0, "0-3"},
		{newJob("broken", batchv1.JobSpec{BackoffLimit: ptr.To[int32](0)}, "exit:1"), batchv1.JobFailed, "BackoffLimitExceeded", 0, 1, ""},
		{newJob("policy", batchv1.JobSpec{PodFailurePolicy: policy}, "exit:42"), batchv1.JobFailed, "PodFailurePolicy", 0, 1, ""},
		{newJob("indexes", batchv1.JobSpec{Completions: ptr.To[int32](2), Parallelism: ptr.To[int32](2), CompletionMode: &indexed, BackoffLimitPerIndex: ptr.To[int32](0)}, "exit:1"), batchv1.JobFailed, "FailedIndexes", 0, 2, ""},
	} {
		t.Run(test.job.Name, func(t *testing.T) {
			c.Create(test.job)
			var j *batchv1.Job
			c.Eventually("end of the job", &batchv1.JobList{}, func() bool {
				j = controllertest.Get(c, "default", test.job.Name, &batchv1.Job{})
				for _, condition := range j.Status.Conditions {
					if condition.Type == test.end {
						if condition.Reason != test.reason {
							t.Errorf("reason %s, want %s", condition.Reason, test.reason)
						}
						return true
					}
				}
				return false
			})
			if s := j.Status; s.Succeeded != test.succeeded || s.Failed != test.failed || s.CompletedIndexes != test.completed || s.Active != 0 {
				t.Errorf("status %+v", s)
			}
			var pods corev1.PodList
			c.Eventually("release of the pods", &corev1.PodList{}, func() bool {
				if err := c.Client.List(context.Background(), &pods, client.MatchingLabels{batchv1.JobNameLabel: test.job.Name}); err != nil {
					t.Fatal(err)
				}
				for _, p := range pods.Items {
					if len(p.Finalizers) > 0 {
						return false
					}
				}
				return true
			})
			if n := int32(len(pods.Items)); n != test.succeeded+test.failed {
				t.Errorf("%d pods, want %d", n, test.succeeded+test.failed)
			}
		})
	}
}

func TestDaemonSet(t *testing.T) {
	c := start(t)
	c.KubeletWithoutScheduler()
	labels := map[string]string{"app": "daemon"}
	c.Create(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}}}},
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "daemon"}, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "c", Image: "daemon:1"}},
				// The stand-in for the scheduler and the kubelet binds nothing.
				Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists}, {Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists}},
			}},
		}})
	daemon := func() *appsv1.DaemonSet { return controllertest.Get(c, "default", "daemon", &appsv1.DaemonSet{}) }
	done := func() bool {
		d := daemon()
		return d.Status.ObservedGeneration == d.Generation && d.Status.DesiredNumberScheduled == 2 && d.Status.UpdatedNumberScheduled == 2 && d.Status.NumberAvailable == 2
	}
	c.Eventually("a pod on each node", &appsv1.DaemonSetList{}, done)
	d := daemon()
	d.Spec.Template.Spec.Containers[0].Image = "daemon:2"
	if err := c.Client.Update(context.Background(), d); err != nil {
		t.Fatal(err)
	}
	c.Eventually("rolling update", &appsv1.DaemonSetList{}, done)
	var revisions appsv1.ControllerRevisionList
	if err := c.Client.List(context.Background(), &revisions, client.InNamespace("default")); err != nil {
		t.Fatal(err)
	}
	if len(revisions.Items) != 2 {
		t.Errorf("%d revisions, want 2", len(revisions.Items))
	}
}

func TestPropagationPolicies(t *testing.T) {
	c := start(t)
	c.KubeletWithoutScheduler()
	ctx := context.Background()
	names := func(list client.ObjectList, app string) int {
		t.Helper()
		if err := c.Client.List(ctx, list, client.InNamespace("default"), client.MatchingLabels{"app": app}); err != nil {
			t.Fatal(err)
		}
		return meta.LenList(list)
	}
	for _, name := range []string{"foreground", "orphan"} {
		c.Create(newDeployment("default", name, 2, "web:1"))
		c.Eventually("pods of "+name, &corev1.PodList{}, func() bool { return names(&corev1.PodList{}, name) == 2 })
	}
	if err := c.Client.Delete(ctx, controllertest.Get(c, "default", "foreground", &appsv1.Deployment{}), client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	c.Eventually("foreground deletion", &appsv1.DeploymentList{}, func() bool { return names(&appsv1.DeploymentList{}, "foreground") == 0 })
	if pods, sets := names(&corev1.PodList{}, "foreground"), names(&appsv1.ReplicaSetList{}, "foreground"); pods+sets > 0 {
		t.Errorf("the owner went before %d pods and %d replica sets", pods, sets)
	}

	if err := c.Client.Delete(ctx, controllertest.Get(c, "default", "orphan", &appsv1.Deployment{}), client.PropagationPolicy(metav1.DeletePropagationOrphan)); err != nil {
		t.Fatal(err)
	}
	c.Eventually("orphaning", &appsv1.DeploymentList{}, func() bool { return names(&appsv1.DeploymentList{}, "orphan") == 0 })
	var sets appsv1.ReplicaSetList
	if names(&sets, "orphan") != 1 || len(sets.Items[0].OwnerReferences) != 0 {
		t.Errorf("the replica set is not an orphan: %+v", sets.Items)
	}

	// A new Deployment with the same selector takes the orphan over.
	c.Create(newDeployment("default", "orphan", 2, "web:1"))
	c.Eventually("adoption", &appsv1.ReplicaSetList{}, func() bool {
		names(&sets, "orphan")
		return len(sets.Items) == 1 && len(sets.Items[0].OwnerReferences) == 1
	})
}

func TestReplicationController(t *testing.T) {
	c := start(t)
	c.KubeletWithoutScheduler()
	labels := map[string]string{"app": "old"}
	c.Create(&corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "old"}, Spec: corev1.ReplicationControllerSpec{
		Replicas: ptr.To[int32](3), Selector: labels,
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web:1"}}}},
	}})
	c.Eventually("pods", &corev1.ReplicationControllerList{}, func() bool {
		return controllertest.Get(c, "default", "old", &corev1.ReplicationController{}).Status.AvailableReplicas == 3
	})
}

func TestTokenSecrets(t *testing.T) {
	c := start(t)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"}}
	c.Create(account, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot-token", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	})
	secret := &corev1.Secret{}
	c.Eventually("the Secret has a token", &corev1.SecretList{}, func() bool {
		return len(controllertest.Get(c, "default", "robot-token", secret).Data[corev1.ServiceAccountTokenKey]) > 0
	})
	if string(secret.Data[corev1.ServiceAccountRootCAKey]) != string(c.PKI.CA.PEM) || string(secret.Data[corev1.ServiceAccountNamespaceKey]) != "default" {
		t.Errorf("the Secret's data: %v", secret.Data)
	}
	asRobot := rest.AnonymousClientConfig(c.Config)
	asRobot.BearerToken = string(secret.Data[corev1.ServiceAccountTokenKey])
	robot, err := kubernetes.NewForConfig(asRobot)
	if err != nil {
		t.Fatal(err)
	}
	me, err := robot.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || me.Status.UserInfo.Username != "system:serviceaccount:default:robot" {
		t.Errorf("the token is %q's: %v", me.Status.UserInfo.Username, err)
	}
	if err := c.Client.Delete(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the Secret goes with its account", &corev1.SecretList{}, func() bool {
		return apierrors.IsNotFound(c.Client.Get(t.Context(), client.ObjectKeyFromObject(secret), &corev1.Secret{}))
	})
}
