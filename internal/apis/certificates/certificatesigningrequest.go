package certificates

import (
	"context"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apis"
	"skiff/internal/apis/columns"
	"skiff/internal/identity"
)

func certificateSigningRequest() *apis.Resource {
	docs := certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()
	return apis.Of[*certificatesv1.CertificateSigningRequest]{
		Names: apis.Names{
			Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Singular: "certificatesigningrequest", Kind: "CertificateSigningRequest",
			ShortNames: []string{"csr"},
		},
		Version:                "v1",
		New:                    func() *certificatesv1.CertificateSigningRequest { return &certificatesv1.CertificateSigningRequest{} },
		NewList:                func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },
		HasStatus:              true,
		MetadataOnUpdate:       []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		MetadataOnStatusUpdate: []apis.MetadataCheck{apis.AsNew, apis.AsChanged},
		PrepareCreate:          prepareRequest,
		PrepareUpdate: func(_ context.Context, r, old *certificatesv1.CertificateSigningRequest) {
			r.Spec = *old.Spec.DeepCopy()
		},
		Reset: map[string][]string{
			"": {"spec"}, "status": {"status.conditions"}, "approval": {"spec", "status.certificate"},
		},
		// Requests may have any name.
		ValidateName: pathvalidation.ValidatePathSegmentName,
		PrepareStatusUpdate: func(_ context.Context, r, old *certificatesv1.CertificateSigningRequest) {
			keepDecisions(r.Status.Conditions, old.Status.Conditions)
			stampConditions(r.Status.Conditions, old.Status.Conditions)
		},
		Validate: validateRequest,
		ValidateUpdate: func(context.Context, *certificatesv1.CertificateSigningRequest, *certificatesv1.CertificateSigningRequest) field.ErrorList {
			// Nothing but metadata can have changed.
			return nil
		},
		ValidateStatusUpdate: func(_ context.Context, r, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			is, was := r.Status.Conditions, old.Status.Conditions
			return slices.Concat(validateConditions(is, was), validateKept(is, was), validateUndecided(is, was), validateCertificate(r.Status.Certificate, old.Status.Certificate))
		},
		Subresources: []apis.Subresource{approval()},
		Fields: map[string]func(*certificatesv1.CertificateSigningRequest) string{
			"spec.signerName": func(r *certificatesv1.CertificateSigningRequest) string { return r.Spec.SignerName },
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.AgeColumn(),
			columns.String("SignerName", docs["signerName"]),
			columns.String("Requestor", docs["username"]),
			columns.String("RequestedDuration", docs["expirationSeconds"]),
			columns.String("Condition", certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
		},
		Cells: func(r *certificatesv1.CertificateSigningRequest) []any {
			signer, requested := columns.None, columns.None
			if r.Spec.SignerName != "" {
				signer = r.Spec.SignerName
			}
			if r.Spec.ExpirationSeconds != nil {
				requested = duration.HumanDuration(time.Duration(*r.Spec.ExpirationSeconds) * time.Second)
			}
			return []any{r.Name, columns.Age(r.CreationTimestamp), signer, r.Spec.Username, requested, stateCell(&r.Status)}
		},
	}.Resource()
}

// prepareRequest notes who asks: signers and approvers rely on it, so it is
// never taken from the request's body.
func prepareRequest(ctx context.Context, r *certificatesv1.CertificateSigningRequest) {
	r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
	user := identity.FromContext(ctx)
	if user == nil {
		return
	}
	r.Spec.Username, r.Spec.UID, r.Spec.Groups = user.Name, user.UID, slices.Clone(user.Groups)
	if len(user.Extra) > 0 {
		r.Spec.Extra = make(map[string]certificatesv1.ExtraValue, len(user.Extra))
		for k, v := range user.Extra {
			r.Spec.Extra[k] = slices.Clone(v)
		}
	}
}

// approval is the subresource that sets the conditions Approved and Denied, and
// metadata with them.
func approval() apis.Subresource {
	return apis.Subresource{
		Name:  "approval",
		New:   func() runtime.Object { return &certificatesv1.CertificateSigningRequest{} },
		Verbs: []string{"get", "patch", "update"},
		Prepare: func(_ context.Context, obj, old apis.Object) {
			r, was := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
			r.Spec, r.Status.Certificate = was.Spec, was.Status.Certificate
			stampConditions(r.Status.Conditions, was.Status.Conditions)
		},
		Validate: func(_ context.Context, obj, old apis.Object) field.ErrorList {
			r, was := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
			return append(validateConditions(r.Status.Conditions, was.Status.Conditions), validateKept(r.Status.Conditions, was.Status.Conditions)...)
		},
	}
}

type (
	condition     = certificatesv1.CertificateSigningRequestCondition
	conditionType = certificatesv1.RequestConditionType
)

var (
	// decisions are the conditions that only approval may set.
	decisions = []conditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}
	// finalTypes are the conditions that are true and stay so.
	finalTypes = append(slices.Clone(decisions), certificatesv1.CertificateFailed)
)

func isFinal(t conditionType) bool { return slices.Contains(finalTypes, t) }

func ofType(conditions []condition, t conditionType) []*condition {
	var out []*condition
	for i := range conditions {
		if conditions[i].Type == t {
			out = append(out, &conditions[i])
		}
	}
	return out
}

// keepDecisions sets decisions back to the old ones. Where there are more or
// fewer, they stay for validation to refuse.
func keepDecisions(conditions, old []condition) {
	for _, t := range decisions {
		is, was := ofType(conditions, t), ofType(old, t)
		if len(is) != len(was) {
			continue
		}
		for i := range is {
			*is[i] = *was[i]
		}
	}
}

// stampConditions notes when conditions were set, where the client did not.
func stampConditions(conditions, old []condition) {
	now := metav1.Now()
	for i := range conditions {
		c := &conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		for k := range old {
			if c.LastTransitionTime.IsZero() && old[k].Type == c.Type && old[k].Status == c.Status {
				c.LastTransitionTime = old[k].LastTransitionTime
			}
		}
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = now
		}
	}
}

// stateCell returns e.g. "Approved,Issued".
func stateCell(s *certificatesv1.CertificateSigningRequestStatus) string {
	var approved, denied, failed bool
	for _, c := range s.Conditions {
		approved = approved || c.Type == certificatesv1.CertificateApproved
		denied = denied || c.Type == certificatesv1.CertificateDenied
		failed = failed || c.Type == certificatesv1.CertificateFailed
	}
	state := "Pending"
	if denied {
		state = "Denied"
	} else if approved {
		state = "Approved"
	}
	if failed {
		state += ",Failed"
	}
	if len(s.Certificate) > 0 {
		state += ",Issued"
	}
	return state
}
