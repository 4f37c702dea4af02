package serviceaccount

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/clock"

	"skiff/internal/apis"
	"skiff/internal/identity"
)

const (
	defaultLifetime = 3600
	minLifetime     = 10 * 60
	maxLifetime     = 1 << 32
	// podLifetime is what pods' own tokens ask for. Holders that do not look
	// for newer ones are known by it: their tokens are good for much longer,
	// and say when they should have been replaced (KEP-1205).
	podLifetime      = 3607
	extendedLifetime = 365 * 24 * 60 * 60
)

// Username returns the user name of a service account.
func Username(namespace, name string) string {
	return identity.ServiceAccountPrefix + namespace + ":" + name
}

// CredentialID is by what name records know the token of that ID.
func CredentialID(id string) string { return "JTI=" + id }

var requestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind()

// TokenCreate returns the action of serviceaccounts/token, which stores nothing:
// dry runs give tokens, too. audiences are those
// of the API server itself: tokens that are asked for without any get them.
// annotate notes in the audit record which token was given.
func TokenCreate(issuer *Issuer, audiences []string, c clock.PassiveClock, annotate func(ctx context.Context, key, value string)) func(ctx context.Context, s apis.Storage, namespace, name string, body runtime.Object, dryRun bool) (runtime.Object, error) {
	return func(ctx context.Context, s apis.Storage, namespace, name string, body runtime.Object, _ bool) (runtime.Object, error) {
		request := body.(*authenticationv1.TokenRequest).DeepCopy()
		t := tokens{storage: s, audiences: audiences, now: c.Now(), max: issuer.MaxLifetime}
		claims, err := t.claims(ctx, namespace, name, request)
		if err != nil {
			return nil, err
		}
		request.CreationTimestamp = metav1.NewTime(t.now.Truncate(time.Second))
		token, err := issuer.Issue(claims)
		if err != nil {
			return nil, fmt.Errorf("failed to generate token: %w", err)
		}
		annotate(ctx, "authentication.kubernetes.io/issued-credential-id", CredentialID(claims.ID))
		request.Status.Token = token
		return request, nil
	}
}

// tokens answers one request.
type tokens struct {
	storage   apis.Storage
	audiences []string
	now       time.Time
	// max is the longest life that is given, 0 if there is none.
	max time.Duration
}

// claims checks and completes the request.
func (t *tokens) claims(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) (Claims, error) {
	obj, err := t.get(ctx, "serviceaccounts", namespace, name)
	if err != nil {
		return Claims{}, err
	}
	account := obj.(*corev1.ServiceAccount)
	if err := completeMeta(request, account); err != nil {
		return Claims{}, err
	}
	spec := &request.Spec
	if spec.ExpirationSeconds == nil {
		lifetime := int64(defaultLifetime)
		spec.ExpirationSeconds = &lifetime
	}
	if errs := validate(spec); len(errs) > 0 {
		return Claims{}, apierrors.NewInvalid(requestKind, "", errs)
	}
	if most := int64(t.max / time.Second); most > 0 && *spec.ExpirationSeconds > most {
		spec.ExpirationSeconds = &most
	}
	if len(spec.Audiences) == 0 {
		spec.Audiences = t.audiences
	}
	binding := Binding{Namespace: namespace, ServiceAccount: Ref{name, string(account.UID)}}
	if err := t.bind(ctx, &binding, spec.BoundObjectRef); err != nil {
		return Claims{}, err
	}

	lifetime := *spec.ExpirationSeconds
	request.Status.ExpirationTimestamp.Time = t.after(lifetime)
	if binding.Pod != nil && lifetime == podLifetime && t.forAPIServer(spec.Audiences) {
		binding.WarnAfter = jwt.NewNumericDate(t.after(lifetime))
		lifetime = extendedLifetime
	}
	return Claims{
		Claims: jwt.Claims{
			Subject: Username(namespace, name), ID: uuid.NewString(),
			IssuedAt: jwt.NewNumericDate(t.now), NotBefore: jwt.NewNumericDate(t.now), Expiry: jwt.NewNumericDate(t.after(lifetime)),
		},
		Audience: spec.Audiences, Kubernetes: binding,
	}, nil
}

func (t *tokens) after(seconds int64) time.Time {
	return t.now.Add(time.Duration(seconds) * time.Second)
}

func (t *tokens) forAPIServer(audiences []string) bool {
	return !slices.ContainsFunc(audiences, func(a string) bool { return !slices.Contains(t.audiences, a) })
}

func (t *tokens) get(ctx context.Context, resource, namespace, name string) (apis.Object, error) {
	return t.storage.Get(ctx, schema.GroupResource{Resource: resource}, namespace, name)
}

func completeMeta(request *authenticationv1.TokenRequest, account *corev1.ServiceAccount) error {
	switch {
	case request.Name != "" && request.Name != account.Name:
		return apierrors.NewInvalid(requestKind, account.Name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "name"), request.Name, "must match the service account name if specified"),
		})
	case request.Namespace != "" && request.Namespace != account.Namespace:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	case request.UID != "" && request.UID != account.UID:
		return apierrors.NewConflict(schema.GroupResource{Group: requestKind.Group, Resource: requestKind.Kind}, account.Name, // as upstream, which names the kind
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", request.UID, account.UID))
	}
	request.Name, request.Namespace, request.UID = account.Name, account.Namespace, account.UID
	return nil
}

func validate(spec *authenticationv1.TokenRequestSpec) (errs field.ErrorList) {
	path := field.NewPath("spec", "expirationSeconds")
	switch seconds := *spec.ExpirationSeconds; {
	case seconds < minLifetime:
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	case seconds > maxLifetime:
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}

// bind adds to b what the token ends with.
func (t *tokens) bind(ctx context.Context, b *Binding, ref *authenticationv1.BoundObjectReference) error {
	if ref == nil {
		return nil
	}
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var uid types.UID
	switch {
	case kind.Group == "" && kind.Kind == "Pod":
		obj, err := t.get(ctx, "pods", b.Namespace, ref.Name)
		if err != nil {
			return err
		}
		pod := obj.(*corev1.Pod)
		if pod.Spec.ServiceAccountName != b.ServiceAccount.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", b.ServiceAccount.Name))
		}
		uid = pod.UID
		b.Pod = &Ref{pod.Name, string(uid)}
		if b.Node, err = t.nodeOf(ctx, pod); err != nil {
			return err
		}
	case kind.Group == "" && kind.Kind == "Node":
		node, err := t.get(ctx, "nodes", "", ref.Name)
		if err != nil {
			return err
		}
		uid = node.GetUID()
		b.Node = &Ref{ref.Name, string(uid)}
	case kind.Group == "" && kind.Kind == "Secret":
		secret, err := t.get(ctx, "secrets", b.Namespace, ref.Name)
		if err != nil {
			return err
		}
		uid = secret.GetUID()
		b.Secret = &Ref{ref.Name, string(uid)}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind))
	}
	if ref.UID != "" && ref.UID != uid {
		return apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

// nodeOf returns the node that the pod is on. A node that has no object (yet)
// is known by its name alone.
func (t *tokens) nodeOf(ctx context.Context, pod *corev1.Pod) (*Ref, error) {
	if pod.Spec.NodeName == "" {
		return nil, nil
	}
	node, err := t.get(ctx, "nodes", "", pod.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return &Ref{Name: pod.Spec.NodeName}, nil
	case err != nil:
		return nil, err
	}
	return &Ref{node.GetName(), string(node.GetUID())}, nil
}
