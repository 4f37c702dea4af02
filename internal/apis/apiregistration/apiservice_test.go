package apiregistration

import (
	"testing"

	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"skiff/internal/apis/checks/checkstest"
)

func TestAPIService(t *testing.T) {
	type service = apiregistrationv1.APIService
	change := checkstest.Change[*service]
	r := checkstest.Find(t, Resources(), "apiservices")
	valid := checkstest.Parse[*service](t, r, `
metadata: {name: v1beta1.metrics.k8s.io}
spec: {group: metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {namespace: kube-system, name: metrics}}
`)
	if *valid.Spec.Service.Port != 443 {
		t.Errorf("port is %d", *valid.Spec.Service.Port)
	}
	checkstest.Create(t, r, valid,
		change("name", func(s *service) { s.Name = "x" }, "metadata.name: Invalid value: must be `spec.version+\".\"+spec.group`: \"v1beta1.metrics.k8s.io\""),
		change("priority", func(s *service) { s.Spec.VersionPriority = 1001 }, "spec.versionPriority: Invalid value: must be positive and less than 1000"),
		change("bundle", func(s *service) { s.Spec.CABundle = []byte("x") }, "spec.insecureSkipTLSVerify: Invalid value: may not be true if caBundle is present"),
		change("local", func(s *service) { s.Spec.Service = nil }, "spec.insecureSkipTLSVerify: Invalid value: local APIServices may not have insecureSkipTLSVerify"),
		change("no service name", func(s *service) { s.Spec.Service.Name = "" }, "spec.service.name: Required value: "),
	)
	checkstest.Create(t, r, valid,
		change("group", func(s *service) { s.Name, s.Spec.Group = "v1beta1.", "" }, "spec.group: Required value: only v1 may have an empty group and it better be legacy kube"),
		change("group priority", func(s *service) { s.Spec.GroupPriorityMinimum = 20001 }, "spec.groupPriorityMinimum: Invalid value: must be positive and less than 20000"),
		change("port", func(s *service) { *s.Spec.Service.Port = 0 }, "spec.service.port: Invalid value: port is not valid: must be between 1 and 65535, inclusive"),
		change("local bundle", func(s *service) {
			s.Spec.Service, s.Spec.InsecureSkipTLSVerify, s.Spec.CABundle = nil, false, []byte("x")
		},
			"spec.caBundle: Invalid value: local APIServices may not have a caBundle"),
	)
	checkstest.UpdateStatus(t, r, valid,
		change("condition", func(s *service) { s.Status.Conditions = make([]apiregistrationv1.APIServiceCondition, 1) },
			`status.conditions[0].status: Unsupported value: supported values: "True", "False", "Unknown"`),
	)
	failing := valid.DeepCopy()
	failing.Status.Conditions = []apiregistrationv1.APIServiceCondition{{Type: apiregistrationv1.Available, Status: "False", Reason: "MissingEndpoints"}}
	if got := r.Cells(failing)[2]; got != "False (MissingEndpoints)" {
		t.Errorf("availability shown as %v", got)
	}
	if got := r.Cells(valid); got[1] != "kube-system/metrics" || got[2] != "Unknown" {
		t.Errorf("shown as %v", got)
	}
	local := &service{}
	r.PrepareCreate(t.Context(), local)
	if got := r.Cells(local); got[1] != "Local" || got[2] != "True" {
		t.Errorf("a local one is shown as %v", got)
	}
}
