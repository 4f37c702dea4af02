package controllers_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/deployment"
	"skiff/internal/controllers/replicaset"
)

// BenchmarkDeployment is the time until the pods of a Deployment are made and
// counted, and then until they are gone and counted again; and what is written
// for it.
func BenchmarkDeployment(b *testing.B) {
	const replicas = 5000
	c := controllertest.Start(b)
	c.Run("deployment-controller", deployment.New)
	c.Run("replicaset-controller", replicaset.New)
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("web-%d", i)
		before := c.Revision()
		d := newDeployment("default", name, replicas, "web:1")
		c.Create(d)
		c.Eventually("all pods", &appsv1.DeploymentList{}, func() bool {
			return controllertest.Get(c, "default", name, d).Status.UpdatedReplicas == replicas
		})
		up := b.Elapsed()
		controllertest.Change(c, d, func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) })
		c.Eventually("no pods", &appsv1.DeploymentList{}, func() bool {
			s := controllertest.Get(c, "default", name, d).Status
			return s.ObservedGeneration == d.Generation && s.Replicas == 0
		})
		b.ReportMetric(up.Seconds(), "s/up")
		b.ReportMetric((b.Elapsed() - up).Seconds(), "s/down")
		b.ReportMetric(float64(c.Revision()-before)/replicas, "writes/pod")
	}
}
