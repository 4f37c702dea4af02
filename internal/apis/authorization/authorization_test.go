package authorization

import (
	"context"
	"errors"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/apis/checks/checkstest"
	"skiff/internal/apiserver/authz"
	"skiff/internal/identity"
)

// annReads allows ann to get pods, denies her to delete them, and remembers
// the question.
type annReads struct{ asked *authz.Attributes }

func (a *annReads) Authorize(_ context.Context, q *authz.Attributes) (authz.Decision, string, error) {
	a.asked = q
	switch {
	case q.User.Name == "ann" && q.Verb == "get" && q.Resource == "pods":
		return authz.Allow, "she reads", nil
	case q.Verb == "delete":
		return authz.Deny, "", nil
	}
	return authz.NoOpinion, "", errors.New("no rule")
}

func (a *annReads) RulesFor(context.Context, *identity.User, string) (authz.Rules, error) {
	return authz.Rules{Resources: []authorizationv1.ResourceRule{{Verbs: []string{"get"}}}, Incomplete: true}, errors.New("some roles are missing")
}

func TestSubjectAccessReview(t *testing.T) {
	authorizer := &annReads{}
	create := checkstest.Find(t, Resources(authorizer, authorizer), "subjectaccessreviews").Virtual.Create
	ask := func(spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
		out, err := create(t.Context(), nil, "", &authorizationv1.SubjectAccessReview{Spec: spec}, false)
		if err != nil {
			return authorizationv1.SubjectAccessReviewStatus{}, err
		}
		return out.(*authorizationv1.SubjectAccessReview).Status, nil
	}
	pods := func(verb string) *authorizationv1.ResourceAttributes {
		return &authorizationv1.ResourceAttributes{Verb: verb, Resource: "pods", Namespace: "default"}
	}
	if s, err := ask(authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: pods("get")}); err != nil || !s.Allowed || s.Denied || s.Reason != "she reads" {
		t.Errorf("get: %+v, %v", s, err)
	}
	if q := authorizer.asked; q.Namespace != "default" || q.Version != "*" || !q.IsResource() {
		t.Errorf("asked %+v", q)
	}
	if s, err := ask(authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: pods("delete")}); err != nil || s.Allowed || !s.Denied {
		t.Errorf("delete: %+v, %v", s, err)
	}
	path := &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/metrics"}
	if s, err := ask(authorizationv1.SubjectAccessReviewSpec{Groups: []string{"devs"}, NonResourceAttributes: path}); err != nil || s.Allowed || s.EvaluationError != "no rule" {
		t.Errorf("path: %+v, %v", s, err)
	}
	selecting := pods("get")
	selecting.FieldSelector = &authorizationv1.FieldSelectorAttributes{RawSelector: "spec.nodeName=n1"}
	selecting.LabelSelector = &authorizationv1.LabelSelectorAttributes{RawSelector: "a in (b"}
	s, err := ask(authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: selecting})
	if err != nil || s.EvaluationError != "spec.resourceAttributes.labelSelector ignored due to parse error" || len(authorizer.asked.FieldSelector) != 1 {
		t.Errorf("selectors: %+v, %v, asked %+v", s, err, authorizer.asked)
	}
	for name, c := range map[string]struct {
		spec authorizationv1.SubjectAccessReviewSpec
		want string
	}{
		"nobody":  {authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: pods("get")}, "at least one of user or group must be specified"},
		"nothing": {authorizationv1.SubjectAccessReviewSpec{User: "ann"}, "exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		"both": {authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: pods("get"), NonResourceAttributes: path},
			"cannot be specified in combination with resourceAttributes"},
	} {
		if _, err := ask(c.spec); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestOtherReviews(t *testing.T) {
	authorizer := &annReads{}
	all := Resources(authorizer, authorizer)
	ctx := identity.NewContext(t.Context(), &identity.User{Name: "ann"})

	self := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods"},
	}}
	out, err := checkstest.Find(t, all, "selfsubjectaccessreviews").Virtual.Create(ctx, nil, "", self, false)
	if err != nil || !out.(*authorizationv1.SelfSubjectAccessReview).Status.Allowed {
		t.Errorf("self: %+v, %v", out, err)
	}

	rules := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}
	out, err = checkstest.Find(t, all, "selfsubjectrulesreviews").Virtual.Create(ctx, nil, "", rules, false)
	if err != nil {
		t.Fatal(err)
	}
	if s := out.(*authorizationv1.SelfSubjectRulesReview).Status; len(s.ResourceRules) != 1 || s.NonResourceRules == nil || !s.Incomplete || s.EvaluationError != "some roles are missing" {
		t.Errorf("rules: %+v", s)
	}

	local := &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "ann", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "default"},
	}}
	create := checkstest.Find(t, all, "localsubjectaccessreviews").Virtual.Create
	out, err = create(ctx, nil, "default", local, false)
	if err != nil || !out.(*authorizationv1.LocalSubjectAccessReview).Status.Allowed {
		t.Errorf("local: %+v, %v", out, err)
	}
	local.Spec.ResourceAttributes.Namespace = "other"
	if _, err := create(ctx, nil, "default", local, false); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "must match metadata.namespace") {
		t.Errorf("local review of another namespace: %v", err)
	}
}

func TestWithoutAuthorizer(t *testing.T) {
	ctx := identity.NewContext(t.Context(), &identity.User{Name: "ann"})
	all := Resources(nil, nil)
	spec := authorizationv1.SubjectAccessReviewSpec{User: "a", NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/"}}
	if _, err := checkstest.Find(t, all, "subjectaccessreviews").Virtual.Create(ctx, nil, "", &authorizationv1.SubjectAccessReview{Spec: spec}, false); !apierrors.IsInternalError(err) {
		t.Errorf("got %v", err)
	}
	if _, err := checkstest.Find(t, all, "selfsubjectrulesreviews").Virtual.Create(ctx, nil, "", &authorizationv1.SelfSubjectRulesReview{}, false); !apierrors.IsInternalError(err) {
		t.Errorf("got %v", err)
	}
}
