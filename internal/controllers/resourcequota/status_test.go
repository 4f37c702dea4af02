package resourcequota_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/cluster/testcluster"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/resourcequota"
)

// A status that is wrong is put right: at once if somebody else has written it,
// and after a while in any case.
func TestWrongStatus(t *testing.T) {
	const account = "resourcequota-controller"
	clk := testclock.NewFakeClock(time.Now())
	c := controllertest.StartAt(t, clk)
	c.Run(account, func(d controller.Deps) (controller.Runnable, error) { return resourcequota.New(d, c.Discover) })
	c.Create(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: list("configmaps", "9", "secrets", "9")}})
	used := func() int64 {
		n := controllertest.Get(c, "default", "q", &corev1.ResourceQuota{}).Status.Used["configmaps"]
		return n.Value()
	}
	for i := range 3 {
		c.Create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("m", i)}})
	}
	right := func(what string) {
		t.Helper()
		c.Eventually(what, &corev1.ResourceQuotaList{}, func() bool { return used() == 3 })
	}
	right("the first count")
	write := func(by client.Client, n string) {
		t.Helper()
		for {
			q := controllertest.Get(c, "default", "q", &corev1.ResourceQuota{})
			q.Status.Used = list("configmaps", n, "secrets", "0")
			err := by.Status().Update(context.Background(), q)
			if err == nil {
				return
			}
			if !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
	}
	for _, wrong := range []string{"0", "8", "9"} {
		write(c.Client, wrong)
		right("another's status " + wrong)
	}
	// What bears the controller's own name is looked at when its time has come.
	testcluster.Run(t, func(ctx context.Context) error {
		fast := time.NewTicker(20 * time.Millisecond)
		defer fast.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-fast.C:
				clk.Step(time.Minute)
			}
		}
	})
	for range 3 {
		write(c.Account(account).Client, "7")
		right("the count after a while")
	}
}
