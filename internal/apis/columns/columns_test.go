package columns

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestCells(t *testing.T) {
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(time.Now().Add(-d)) }
	names, images := Containers([]corev1.Container{{Name: "a", Image: "x"}, {Name: "b", Image: "y"}})
	for got, want := range map[string]string{
		Age(metav1.Time{}):                          "<unknown>",
		Age(ago(90*time.Second + time.Millisecond)): "90s",
		Age(ago(3*24*time.Hour + time.Millisecond)): "3d",
		Labels(nil): "<none>",
		Labels(map[string]string{"b": "2", "a": "1"}): "a=1,b=2",
		names + " " + images:                          "a,b x,y",
		Selector(&metav1.LabelSelector{}) + "(empty)": "<none>(empty)",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if w := Wide(Integer("N", "d")); w.Priority != 1 || w.Type != "integer" {
		t.Errorf("a wide column is %+v", w)
	}
}
