package controllers_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/deployment"
	"skiff/internal/controllers/replicaset"
)

// BenchmarkDeployment is the time until the pods of a Deployment are made and
// counted, and what is written for it.
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
		b.ReportMetric(float64(c.Revision()-before)/replicas, "writes/pod")
	}
}
