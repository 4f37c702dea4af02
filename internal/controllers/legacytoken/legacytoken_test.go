package legacytoken_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/legacytoken"
	"skiff/internal/identity"
)

const (
	used    = "kubernetes.io/legacy-token-last-used"
	invalid = "kubernetes.io/legacy-token-invalid-since"
	day     = "2006-01-02"
	account = "legacy-service-account-token-cleaner"
)

func trackingMap() *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-apiserver-legacy-service-account-token-tracking"}}
}

func TestTracker(t *testing.T) {
	c := controllertest.Start(t)
	before := time.Now().UTC().Format(day)
	c.RunOver(c.Set(identity.Loopback()), "apiserver", legacytoken.NewTracker)
	since := func() string {
		m := trackingMap()
		if err := c.Client.Get(t.Context(), types.NamespacedName{Namespace: m.Namespace, Name: m.Name}, m); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return m.Data["since"]
	}
	dated := func() bool { _, err := time.Parse(day, since()); return err == nil }
	c.Eventually("the ConfigMap", &corev1.ConfigMapList{}, dated)
	if got := since(); got < before {
		t.Errorf("uses are noted since %s, before today", got)
	}
	controllertest.Change(c, trackingMap(), func(m *corev1.ConfigMap) { m.Data["since"] = "for ever" })
	c.Eventually("a date", &corev1.ConfigMapList{}, dated)
	controllertest.Change(c, trackingMap(), func(m *corev1.ConfigMap) { m.Data["since"] = "2020-01-01" })
	c.Delete(trackingMap())
	c.Eventually("the ConfigMap, again", &corev1.ConfigMapList{}, func() bool { return since() >= before })
}

// TestCleaner lets years pass over tokens of different kinds.
func TestCleaner(t *testing.T) {
	start := time.Now()
	clk := clocktesting.NewFakeClock(start)
	c := controllertest.StartAt(t, clk)
	owner := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}, Secrets: []corev1.ObjectReference{{Name: "unused"}, {Name: "used"}, {Name: "mounted"}, {Name: "strange"}}}
	c.Create(owner)
	secret := func(name string, labels map[string]string) {
		c.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: labels, Annotations: map[string]string{corev1.ServiceAccountNameKey: "app"}}, Type: corev1.SecretTypeServiceAccountToken})
	}
	after := func(d time.Duration) string { return start.Add(d).UTC().Format(day) }
	const year = 365 * 24 * time.Hour
	secret("unused", nil)
	secret("used", map[string]string{used: after(year)})
	secret("mounted", nil)
	secret("strange", map[string]string{used: "yesterday"})
	secret("manual", nil)
	c.Create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}}, Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mounted"}}}}}})
	tracking := trackingMap()
	tracking.Data = map[string]string{"since": after(0)}
	c.Create(tracking)
	c.Run(account, legacytoken.NewCleaner)
	label := func(name string) string {
		return controllertest.Get(c, "default", name, &corev1.Secret{}).Labels[invalid]
	}

	clk.SetTime(start.Add(year + 3*24*time.Hour))
	c.Eventually("the unused token is invalid", &corev1.SecretList{}, func() bool { return label("unused") == after(year+3*24*time.Hour) })
	for _, name := range []string{"used", "mounted", "strange", "manual"} {
		if got := label(name); got != "" {
			t.Errorf("%s is invalid since %s", name, got)
		}
	}
	clk.SetTime(start.Add(2*year + 6*24*time.Hour))
	c.Eventually("the unused token is gone, the used one invalid", &corev1.SecretList{}, func() bool {
		err := c.Client.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "unused"}, &corev1.Secret{})
		return apierrors.IsNotFound(err) && label("used") != ""
	})
	for _, name := range []string{"mounted", "strange", "manual"} {
		if got := label(name); got != "" {
			t.Errorf("%s is invalid since %s", name, got)
		}
	}
}
