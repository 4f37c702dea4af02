package bootstraptoken

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"skiff/internal/controllers/controller"
)

// watchTokens calls changed with every token that came, changed or went.
func watchTokens(d controller.Deps, changed func(controller.Queue, *corev1.Secret)) source.Source {
	return controller.Watch(d, &corev1.Secret{}, func(q controller.Queue, old, s *corev1.Secret) {
		if s == nil {
			s = old
		}
		if s.Namespace == metav1.NamespaceSystem && s.Type == secretType {
			changed(q, s)
		}
	})
}
