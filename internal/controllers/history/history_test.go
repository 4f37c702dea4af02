package history

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestTemplatesSurviveTheirRevision(t *testing.T) {
	template := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web:1"}}},
	}
	data, err := Data(template)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"$patch":"replace"`) {
		t.Errorf("the revision does not replace the template: %s", data)
	}
	other := template.DeepCopy()
	other.Spec.Containers[0].Image = "web:2"
	for name, raw := range map[string]string{
		"as written here":    string(data),
		"as older ones do":   `{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{"app":"web"}},"spec":{"containers":[{"image":"web:1","name":"c","resources":{}}]}}}}`,
		"with another order": `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"web:1"}]},"metadata":{"labels":{"app":"web"}},"$patch":"replace"}}}`,
	} {
		r := &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(raw)}}
		if !same(r, template, data) {
			t.Errorf("%s: the same template is not found again", name)
		}
		if changed, _ := Data(other); same(r, other, changed) {
			t.Errorf("%s: another template counts as the same", name)
		}
	}
	if same(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte("x")}}, template, data) {
		t.Error("a broken revision counts as the same")
	}
}
