package conformance

import (
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// onDeployments matches new Deployments in namespaces that are labelled with
// the test's.
const onDeployments = `
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}
`

// policy makes a policy of the kind with the fields and a binding of it to the
// test's namespace.
func (s *server) policy(kind, fields, binding string) {
	s.Helper()
	s.create(s.parse(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: %s
metadata: {name: %s}
spec:
%s%s`, kind, s.ns, onDeployments, fields)))
	s.create(s.parse(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: %sBinding
metadata: {name: %s}
spec:
  policyName: %s
%s  matchResources: {namespaceSelector: {matchLabels: {%s: "true"}}}
`, kind, s.ns, s.ns, binding, s.ns)))
	s.Cleanup(func() {
		for _, o := range []client.Object{
			&admissionregistrationv1.ValidatingAdmissionPolicyBinding{}, &admissionregistrationv1.ValidatingAdmissionPolicy{},
			&admissionregistrationv1.MutatingAdmissionPolicyBinding{}, &admissionregistrationv1.MutatingAdmissionPolicy{},
		} {
			o.SetName(s.ns)
			_ = client.IgnoreNotFound(s.api.Delete(s.background(), o))
		}
	})
}

func replicaSet(name string, replicas int32) *appsv1.ReplicaSet {
	d := deployment(name, replicas)
	return &appsv1.ReplicaSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: d.Spec.Selector, Template: d.Spec.Template}}
}

var validatingPolicies = entries{
	"should validate against a Deployment": func(s *server) {
		// The message is only worked out for what is refused, and its types are
		// not checked when the policy is made.
		s.policy("ValidatingAdmissionPolicy", fmt.Sprintf(`
  validations:
  - {expression: object.spec.replicas > 1, messageExpression: "'wants replicas > 1, got ' + object.spec.replicas"}
  - {expression: "namespaceObject.metadata.name == '%s'", message: another namespace}
`, s.ns), "  validationActions: [Deny]\n")
		err := s.try(deployment("marker", 1))
		if !apierrors.IsInvalid(err) {
			s.Errorf("refused with %v", err)
		}
		s.refused(err, "failed expression: object.spec.replicas > 1")
		s.create(deployment("replicated", 2), replicaSet("single", 1))
	},
	"should allow expressions to refer variables.": func(s *server) {
		s.policy("ValidatingAdmissionPolicy", `
  variables:
  - {name: replicas, expression: object.spec.replicas}
  - {name: oddReplicas, expression: variables.replicas % 2 == 1}
  validations:
  - {expression: variables.replicas > 1}
  - {expression: variables.oddReplicas}
`, "  validationActions: [Deny]\n")
		for replicas, why := range map[int32]string{1: "failed expression: variables.replicas > 1", 2: "failed expression: variables.oddReplicas"} {
			err := s.try(deployment("marker", replicas))
			if !apierrors.IsInvalid(err) {
				s.Errorf("refused with %v", err)
			}
			s.refused(err, why)
		}
		s.create(deployment("replicated", 3), replicaSet("single", 1))
	},
	"should support ValidatingAdmissionPolicy API operations": func(s *server) {
		s.lifecycle(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
spec:
  failurePolicy: Ignore
  validations: [{expression: object.spec.replicas <= 100}]
`+onDeployments, "validatingadmissionpolicies", `{"spec":{"failurePolicy":"Fail"}}`, true)
		s.served("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies/status")
	},
	"should support ValidatingAdmissionPolicyBinding API operations": func(s *server) {
		s.lifecycle(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
spec: {policyName: replicalimit-policy.example.com, validationActions: [Deny]}
`, "validatingadmissionpolicybindings", `{"spec":{"validationActions":["Warn"]}}`, false)
	},
}

var mutatingPolicies = entries{
	"should mutate a Deployment": func(s *server) {
		s.policy("MutatingAdmissionPolicy", `
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{spec: Object.spec{replicas: 1337}}"}
`, "")
		d := deployment("marker", 1)
		s.create(d)
		s.delete(d)
		if *d.Spec.Replicas != 1337 {
			s.Errorf("%d replicas", *d.Spec.Replicas)
		}
	},
	"should mutate a Deployment with annotations": func(s *server) {
		s.policy("MutatingAdmissionPolicy", `
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: |
        Object{metadata: Object.metadata{annotations: {"mutated-by": "admission-policy"}}}
`, "")
		d := deployment("marker", 1)
		s.create(d)
		if d.Annotations["mutated-by"] != "admission-policy" {
			s.Errorf("annotations: %v", d.Annotations)
		}
	},
	"should support MutatingAdmissionPolicy API operations": func(s *server) {
		s.lifecycle(`
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
spec:
  reinvocationPolicy: Never
  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{spec: Object.spec{replicas: 100}}"}}]
`+onDeployments, "mutatingadmissionpolicies", `{"spec":{"reinvocationPolicy":"IfNeeded"}}`, false)
	},
	"should support MutatingAdmissionPolicyBinding API operations": func(s *server) {
		s.lifecycle(`
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
spec: {policyName: replicalimit-policy.example.com}
`, "mutatingadmissionpolicybindings", `{"spec":{"policyName":"other.example.com"}}`, false)
	},
}
