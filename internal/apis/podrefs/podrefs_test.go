package podrefs

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestOf(t *testing.T) {
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(`
spec:
  imagePullSecrets: [{name: pull}, {name: ""}]
  initContainers: [{name: i, env: [{name: a, valueFrom: {secretKeyRef: {name: init-env, key: k}}}]}]
  containers:
  - name: c
    env: [{name: a, valueFrom: {configMapKeyRef: {name: env, key: k}}}, {name: b, value: plain}]
    envFrom: [{secretRef: {name: from}}, {configMapRef: {name: from}}]
  ephemeralContainers: [{name: e, envFrom: [{secretRef: {name: debug}}]}]
  volumes:
  - {name: a, secret: {secretName: volume}}
  - {name: b, configMap: {name: volume}}
  - {name: c, persistentVolumeClaim: {claimName: data}}
  - {name: d, csi: {driver: x, nodePublishSecretRef: {name: csi}}}
  - {name: e, azureFile: {secretName: azure, shareName: s}}
  - {name: f, cephfs: {monitors: [], secretRef: {name: ceph}}}
  - {name: g, cinder: {volumeID: x, secretRef: {name: cinder}}}
  - {name: h, flexVolume: {driver: x, secretRef: {name: flex}}}
  - {name: i, rbd: {monitors: [], image: i, secretRef: {name: rbd}}}
  - {name: j, scaleIO: {gateway: g, system: s, secretRef: {name: scaleio}}}
  - {name: k, iscsi: {targetPortal: p, iqn: q, lun: 0, secretRef: {name: iscsi}}}
  - {name: l, storageos: {secretRef: {name: storageos}}}
  - {name: m, projected: {sources: [{secret: {name: projected}}, {configMap: {name: projected}}, {serviceAccountToken: {path: t}}]}}
  - {name: n, rbd: {monitors: [], image: i}}
  - {name: o, emptyDir: {}}
`), &pod); err != nil {
		t.Fatal(err)
	}
	var got []string
	for kind, name := range Of(&pod) {
		got = append(got, fmt.Sprintf("%s %s", kind, name))
	}
	want := []string{
		"Secret pull", "Secret init-env", "ConfigMap env", "Secret from", "ConfigMap from", "Secret debug",
		"Secret volume", "ConfigMap volume", "PersistentVolumeClaim data", "Secret csi", "Secret azure", "Secret ceph", "Secret cinder",
		"Secret flex", "Secret rbd", "Secret scaleio", "Secret iscsi", "Secret storageos", "Secret projected", "ConfigMap projected",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if !Has(&pod, Claim) || Has(&corev1.Pod{}, Secret) {
		t.Error("Has is wrong about claims or secrets")
	}
}
