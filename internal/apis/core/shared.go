package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateNodeSelector checks a selector of nodes that stands at path.
func ValidateNodeSelector(s *corev1.NodeSelector, at *field.Path) field.ErrorList {
	var p problems
	p.nodeSelector(at, s)
	return p.list()
}
