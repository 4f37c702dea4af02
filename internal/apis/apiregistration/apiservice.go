package apiregistration

import (
	"context"
	"fmt"
	"strings"

	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"

	"skiff/internal/apis"
	"skiff/internal/apis/checks"
	"skiff/internal/apis/columns"
	"skiff/internal/apis/fill"
)

func apiService() *apis.Resource {
	return apis.Of[*apiregistrationv1.APIService]{
		Names: apis.Names{
			Group: "apiregistration.k8s.io", Resource: "apiservices", Singular: "apiservice", Kind: "APIService",
			Categories: []string{"api-extensions"},
		},
		Version:                "v1",
		New:                    func() *apiregistrationv1.APIService { return &apiregistrationv1.APIService{} },
		NewList:                func() runtime.Object { return &apiregistrationv1.APIServiceList{} },
		Prefix:                 "/registry/apiregistration.k8s.io/apiservices",
		HasStatus:              true,
		RequireResourceVersion: true,
		ValidateName:           func(name string, _ bool) []string { return pathvalidation.IsValidPathSegmentName(name) },
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsChanged, apis.AsNew},
		Default: func(s *apiregistrationv1.APIService) {
			if s.Spec.Service != nil {
				fill.Pointer(&s.Spec.Service.Port, 443)
			}
		},
		PrepareCreate: func(_ context.Context, s *apiregistrationv1.APIService) {
			if s.Spec.Service == nil {
				// Nobody watches over those that this server answers itself.
				s.Status.Conditions = []apiregistrationv1.APIServiceCondition{{
					Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, LastTransitionTime: s.CreationTimestamp,
					Reason: "Local", Message: "Local APIServices are always available",
				}}
			}
		},
		Validate: validateAPIService,
		Reset:    map[string][]string{"status": {"metadata"}},
		PrepareStatusUpdate: func(_ context.Context, o, old *apiregistrationv1.APIService) {
			metav1.ResetObjectMetaForStatus(&o.ObjectMeta, &old.ObjectMeta)
		},
		ValidateStatusUpdate: func(_ context.Context, s, _ *apiregistrationv1.APIService) field.ErrorList {
			var errs field.ErrorList
			for i, c := range s.Status.Conditions {
				errs = append(errs, checks.Supported(c.Status, field.NewPath("status", "conditions").Index(i).Child("status"),
					apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown)...)
			}
			return errs
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.String("Service", "The reference to the service that hosts this API endpoint."),
			columns.String("Available", "Whether this service is available."),
			columns.AgeColumn(),
		},
		Cells: func(s *apiregistrationv1.APIService) []any {
			service, available := "Local", "Unknown"
			if s.Spec.Service != nil {
				service = s.Spec.Service.Namespace + "/" + s.Spec.Service.Name
			}
			for _, c := range s.Status.Conditions {
				if c.Type != apiregistrationv1.Available {
					continue
				}
				available = string(c.Status)
				if c.Status != apiregistrationv1.ConditionTrue {
					available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
				}
			}
			return []any{s.Name, service, available, columns.Age(s.CreationTimestamp)}
		},
	}.Resource()
}

func validateAPIService(_ context.Context, a *apiregistrationv1.APIService) field.ErrorList {
	var errs field.ErrorList
	s, path := &a.Spec, field.NewPath("spec")
	invalid := func(at *field.Path, v any, detail string) { errs = append(errs, field.Invalid(at, v, detail)) }
	if want := s.Version + "." + s.Group; a.Name != want && a.Name != "" && len(pathvalidation.IsValidPathSegmentName(a.Name)) == 0 {
		invalid(field.NewPath("metadata", "name"), a.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want))
	}
	if s.Group == "" && s.Version != "v1" {
		errs = append(errs, field.Required(path.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	if s.Group != "" {
		errs = append(errs, checks.Name(s.Group, path.Child("group"), utilvalidation.IsDNS1123Subdomain)...)
	}
	errs = append(errs, checks.Name(s.Version, path.Child("version"), utilvalidation.IsDNS1035Label)...)
	if s.GroupPriorityMinimum <= 0 || s.GroupPriorityMinimum > 20000 {
		invalid(path.Child("groupPriorityMinimum"), s.GroupPriorityMinimum, "must be positive and less than 20000")
	}
	if s.VersionPriority <= 0 || s.VersionPriority > 1000 {
		invalid(path.Child("versionPriority"), s.VersionPriority, "must be positive and less than 1000")
	}
	if s.Service == nil {
		if len(s.CABundle) > 0 {
			invalid(path.Child("caBundle"), fmt.Sprintf("%d bytes", len(s.CABundle)), "local APIServices may not have a caBundle")
		}
		if s.InsecureSkipTLSVerify {
			invalid(path.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify")
		}
		return errs
	}
	service := path.Child("service")
	if s.Service.Namespace == "" {
		errs = append(errs, field.Required(service.Child("namespace"), ""))
	}
	if s.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	}
	port := ptr.Deref(s.Service.Port, 443)
	if msgs := utilvalidation.IsValidPortNum(int(port)); len(msgs) > 0 {
		invalid(service.Child("port"), port, "port is not valid: "+strings.Join(msgs, ", "))
	}
	if s.InsecureSkipTLSVerify && len(s.CABundle) > 0 {
		invalid(path.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present")
	}
	return errs
}
