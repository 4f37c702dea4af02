package openapi

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What upstream publishes of some fields, in all the ways in which fields
// differ.
func TestFields(t *testing.T) {
	d := newDefinitions(false)
	v2 := newDefinitions(true)
	for _, v := range []any{appsv1.StatefulSet{}, corev1.Pod{}, apiextensionsv1.CustomResourceDefinition{}, metav1.DeleteOptions{}} {
		d.ref(reflect.TypeOf(v))
		v2.ref(reflect.TypeOf(v))
	}
	const core = "io.k8s.api.core.v1."
	for _, c := range []struct {
		name, of, field string
		// want and v2 are in JSON, without the descriptions.
		want, v2 string
	}{
		{"enum", core + "Container", "imagePullPolicy",
			`{"enum":["Always","IfNotPresent","Never"],"type":"string"}`, `{"enum":["Always","IfNotPresent","Never"],"type":"string"}`},
		{"list of several keys", core + "Container", "ports",
			`{"items":{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.core.v1.ContainerPort"}],"default":{}},"type":"array","x-kubernetes-list-map-keys":["containerPort","protocol"],"x-kubernetes-list-type":"map","x-kubernetes-patch-merge-key":"containerPort","x-kubernetes-patch-strategy":"merge"}`,
			`{"items":{"$ref":"#/definitions/io.k8s.api.core.v1.ContainerPort"},"type":"array","x-kubernetes-list-map-keys":["containerPort","protocol"],"x-kubernetes-list-type":"map","x-kubernetes-patch-merge-key":"containerPort","x-kubernetes-patch-strategy":"merge"}`},
		{"merged by patches, atomic to apply", core + "PodStatus", "hostIPs",
			`{"items":{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.core.v1.HostIP"}],"default":{}},"type":"array","x-kubernetes-list-type":"atomic","x-kubernetes-patch-merge-key":"ip","x-kubernetes-patch-strategy":"merge"}`, ""},
		{"explicit default", core + "ContainerPort", "protocol",
			`{"default":"TCP","enum":["SCTP","TCP","UDP"],"type":"string"}`, `{"enum":["SCTP","TCP","UDP"],"type":"string"}`},
		{"default that is a constant", core + "AzureDiskVolumeSource", "cachingMode",
			`{"default":"ReadWrite","enum":["None","ReadOnly","ReadWrite"],"type":"string"}`, ""},
		{"zero default of a scalar", core + "ContainerPort", "containerPort",
			`{"default":0,"format":"int32","type":"integer"}`, `{"format":"int32","type":"integer"}`},
		{"optional scalar", core + "ContainerPort", "hostPort", `{"format":"int32","type":"integer"}`, ""},
		{"zero default of an optional struct", core + "Pod", "spec",
			`{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.core.v1.PodSpec"}],"default":{}}`, `{"$ref":"#/definitions/io.k8s.api.core.v1.PodSpec"}`},
		{"no zero default of what is null", "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp",
			`{"allOf":[{"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Time"}]}`, ""},
		{"elements of lists", core + "Container", "args",
			`{"items":{"default":"","type":"string"},"type":"array","x-kubernetes-list-type":"atomic"}`,
			`{"items":{"type":"string"},"type":"array","x-kubernetes-list-type":"atomic"}`},
		{"map", core + "PodSpec", "nodeSelector",
			`{"additionalProperties":{"default":"","type":"string"},"type":"object","x-kubernetes-map-type":"atomic"}`, ""},
		{"set", "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers",
			`{"items":{"default":"","type":"string"},"type":"array","x-kubernetes-list-type":"set","x-kubernetes-patch-strategy":"merge"}`, ""},
	} {
		for _, version := range []struct {
			d    *definitions
			want string
		}{{d, c.want}, {v2, c.v2}} {
			p, ok := version.d.schemas[c.of].Properties[c.field]
			if !ok {
				t.Fatalf("%s: there is no %s.%s", c.name, c.of, c.field)
			}
			p.Description = ""
			if got := sorted(t, p); version.want != "" && got != version.want {
				t.Errorf("%s: %s.%s is %s, want %s", c.name, c.of, c.field, got, version.want)
			}
		}
	}
}

func TestStructs(t *testing.T) {
	d := newDefinitions(false)
	for _, v := range []any{appsv1.StatefulSet{}, apiextensionsv1.CustomResourceDefinition{}, corev1.Event{}} {
		d.ref(reflect.TypeOf(v))
	}
	for _, c := range []struct{ of, extension, want string }{
		{"io.k8s.api.core.v1.SeccompProfile", "x-kubernetes-unions", `[{"discriminator":"type","fields-to-discriminateBy":{"localhostProfile":"LocalhostProfile"}}]`},
		{"io.k8s.api.core.v1.SecretKeySelector", "x-kubernetes-map-type", `"atomic"`},
	} {
		if got := sorted(t, d.schemas[c.of].Extensions[c.extension]); got != c.want {
			t.Errorf("%s of %s is %s, want %s", c.extension, c.of, got, c.want)
		}
	}
	// Comments say so, not the tags.
	for of, want := range map[string]string{
		"io.k8s.api.apps.v1.StatefulSetSpec":          "selector template",
		"io.k8s.api.core.v1.PodCertificateProjection": "signerName keyType",
		"io.k8s.api.core.v1.Event":                    "metadata involvedObject",
	} {
		if got := strings.Join(d.schemas[of].Required, " "); got != want {
			t.Errorf("%s requires %q, want %q", of, got, want)
		}
	}
	// The last has no documentation of its own in Go.
	for of, want := range map[string]string{
		"io.k8s.api.core.v1.Container.imagePullPolicy":                                           "Image pull policy. One of Always, Never, IfNotPresent. Defaults to Always if :latest tag is specified, or IfNotPresent otherwise. Cannot be updated. More info: https://kubernetes.io/docs/concepts/containers/images#updating-images\n\nPossible enum values:\n - `\"Always\"` means that kubelet always attempts to pull the latest image. Container will fail If the pull fails.\n - `\"IfNotPresent\"` means that kubelet pulls if the image isn't present on disk. Container will fail if the image isn't present and the pull fails.\n - `\"Never\"` means that kubelet never pulls an image, but only uses a local image. Container will fail if the image isn't present",
		"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition.spec": "spec describes how the user wants the resources to appear",
	} {
		dot := strings.LastIndex(of, ".")
		if got := d.schemas[of[:dot]].Properties[of[dot+1:]].Description; got != want {
			t.Errorf("%s: %q, want %q", of, got, want)
		}
	}
}

// sorted encodes v with all names in order.
func sorted(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var plain any
	if err := json.Unmarshal(text, &plain); err != nil {
		t.Fatal(err)
	}
	text, _ = json.Marshal(plain)
	return string(text)
}
