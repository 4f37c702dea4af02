//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const storageClaim = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 10Mi}}
`

// storageUser is a pod, not of root, that runs a command with the claim.
const storageUser = `
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {part: mine}}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  containers:
  - name: c
    image: skiff.local/busybox:1
    command: [sh, -c, %q]
    env: [{name: PART, valueFrom: {fieldRef: {fieldPath: "metadata.labels['part']"}}}]
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: data, mountPath: /own, subPathExpr: $(PART)}
    - {name: scratch, mountPath: /scratch}
  volumes:
  - name: data
    persistentVolumeClaim: {claimName: data, readOnly: %v}
  - name: scratch
    ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}
`

// TestStorage uses volumes on a cluster as it comes.
func TestStorage(t *testing.T) {
	c := start(t, "e2estorage", 2)
	directories := func() []string {
		found, err := filepath.Glob(filepath.Join(c.home, c.name, "*", "*", "storage", "pvc-*"))
		more, err2 := filepath.Glob(filepath.Join(c.home, c.name, "*", "storage", "pvc-*"))
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		return append(found, more...)
	}
	succeeds := func(name string) *corev1.Pod {
		t.Helper()
		c.kubectl("wait", "pod/"+name, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
		return c.pod(name)
	}
	c.apply(storageClaim)
	c.apply(fmt.Sprintf(storageUser, "writer", "id && echo kept > /data/file && echo mine > /own/file && echo x > /scratch/x", false))
	writer := succeeds("writer")
	if found := directories(); len(found) != 2 {
		t.Errorf("the nodes have %v", found)
	}
	// Another pod finds the data, wherever it would otherwise run, and cannot
	// change what it was given read-only.
	c.apply(fmt.Sprintf(storageUser, "reader", "cat /data/file /data/mine/file; stat -c %g /data/file; touch /data/file && exit 1; exit 0", true))
	reader := succeeds("reader")
	if reader.Spec.NodeName != writer.Spec.NodeName {
		t.Errorf("written on %s, read on %s", writer.Spec.NodeName, reader.Spec.NodeName)
	}
	c.expect(c.kubectl("logs", "reader"), "kept", "mine", "2000")

	// The claim stays while pods have it, and then goes with its data.
	c.kubectl("delete", "pvc", "data", "--wait=false")
	c.expect(c.kubectl("get", "pvc", "data"), "Terminating")
	c.kubectl("delete", "pod", "writer", "reader", "--grace-period=1")
	c.eventually("nothing is left", func(ctx context.Context) error {
		volumes, err := c.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if found := directories(); len(volumes.Items) > 0 || len(found) > 0 {
			return fmt.Errorf("%d volumes and directories %v", len(volumes.Items), found)
		}
		return nil
	})
}
