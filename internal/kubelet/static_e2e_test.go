//go:build e2e

package kubelet_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/images/imagetest"
)

// static runs a pod from a manifest, which only the manifest's end ends.
func (n *node) static(t *testing.T) {
	path := filepath.Join(n.manifests, "web.yaml")
	write := func(text string) {
		t.Helper()
		manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: %q, imagePullPolicy: Never, command: [sh, -c, "echo %s; exec sleep 1000"]}
`, imagetest.BusyboxName, text)
		if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const name = "web-" + nodeName
	says := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if have := n.log(t, name, "c"); have != want+"\n" {
				return fmt.Errorf("the container said %q, want %q", have, want)
			}
			return nil
		})
	}
	write("first")
	mirror := n.await(t, name, ready)
	says("first")
	container := mirror.Status.ContainerStatuses[0].ContainerID
	if len(mirror.OwnerReferences) != 1 || mirror.OwnerReferences[0].Kind != "Node" || mirror.Spec.NodeName != nodeName {
		t.Errorf("the mirror: %+v", mirror.ObjectMeta)
	}

	// Who deletes the mirror does not end the pod.
	if err := n.Client.Delete(t.Context(), mirror); err != nil {
		t.Fatal(err)
	}
	again := n.await(t, name, func(p *v1.Pod) bool { return p.UID != mirror.UID && ready(p) })
	if id := again.Status.ContainerStatuses[0].ContainerID; id != container {
		t.Errorf("the container was %s and is %s", container, id)
	}

	// Nor does a restart of the kubelet.
	n.stop()
	n.startKubelet(t)
	eventually(t, func() error {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
		}
		return err
	})
	says("first")
	same := n.await(t, name, ready)
	if s := same.Status.ContainerStatuses[0]; s.ContainerID != container || s.RestartCount != 0 || same.UID != again.UID {
		t.Errorf("after the restart of the kubelet: %+v", s)
	}

	// Another manifest is another pod.
	write("second")
	n.await(t, name, func(p *v1.Pod) bool { return p.UID != again.UID && ready(p) })
	says("second")

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		err := n.Client.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &v1.Pod{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("the mirror is still there"), err)
	})
}
