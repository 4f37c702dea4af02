package tainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestTolerates(t *testing.T) {
	taint := corev1.Taint{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute}
	other := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoExecute}
	exists := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds}
	}
	for _, test := range []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		lasting     time.Duration
		limited     bool
	}{
		{"no taints", nil, nil, 0, false},
		{"not tolerated", nil, []corev1.Taint{taint}, 0, true},
		{"for ever", []corev1.Toleration{exists("k", nil)}, []corev1.Taint{taint}, 0, false},
		{"for a while", []corev1.Toleration{exists("k", ptr.To[int64](300))}, []corev1.Taint{taint}, 300 * time.Second, true},
		{"the shortest counts", []corev1.Toleration{exists("k", ptr.To[int64](300)), exists("other", ptr.To[int64](5))}, []corev1.Taint{taint, other}, 5 * time.Second, true},
		{"one is not tolerated", []corev1.Toleration{exists("k", ptr.To[int64](300))}, []corev1.Taint{taint, other}, 0, true},
		{"negative is none", []corev1.Toleration{exists("k", ptr.To[int64](-1))}, []corev1.Taint{taint}, 0, true},
		{"everything", []corev1.Toleration{exists("", nil)}, []corev1.Taint{taint, other}, 0, false},
		{"equal value", []corev1.Toleration{{Key: "k", Value: "v"}}, []corev1.Taint{taint}, 0, false},
		{"another value", []corev1.Toleration{{Key: "k", Value: "w"}}, []corev1.Taint{taint}, 0, true},
		{"another effect", []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}, []corev1.Taint{taint}, 0, true},
	} {
		if lasting, limited := tolerates(test.tolerations, test.taints); lasting != test.lasting || limited != test.limited {
			t.Errorf("%s: %s, %v", test.name, lasting, limited)
		}
	}
}
