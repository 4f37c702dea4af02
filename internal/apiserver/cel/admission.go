package cel

import (
	"sync"

	celgo "github.com/google/cel-go/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/mutation"
)

// Declares says which variables admission's expressions see, beyond object,
// oldObject, request and namespaceObject.
type Declares struct {
	Params     bool
	Authorizer bool
	// Patch adds the types that mutations are written with.
	Patch bool
}

// Admission makes the environments of admission's expressions.
type Admission struct {
	metrics *Metrics

	mu   sync.Mutex
	envs map[Declares]*Environment
}

// NewAdmission returns a maker of environments, which costs nothing before the
// first expression. Without m nothing is counted.
func NewAdmission(m *Metrics) *Admission {
	return &Admission{metrics: m, envs: map[Declares]*Environment{}}
}

// Environment returns the environment with the variables that d says.
func (a *Admission) Environment(d Declares) *Environment {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.envs[d]
	if e == nil {
		base := Base()
		base.metrics = a.metrics
		e = admissionEnvironment(base, d)
		a.envs[d] = e
	}
	return e
}

func admissionEnvironment(base *Environment, d Declares) *Environment {
	request, namespace := requestType(), namespaceType()
	options := []celgo.EnvOption{
		celgo.Variable(varObject, celgo.DynType),
		celgo.Variable(varOldObject, celgo.DynType),
		celgo.Variable(varRequest, request.CelType()),
		celgo.Variable(varNamespace, namespace.CelType()),
	}
	if d.Params {
		options = append(options, celgo.Variable(varParams, celgo.DynType))
	}
	if d.Authorizer {
		options = append(options, celgo.Variable(varAuthorizer, library.AuthorizerType),
			celgo.Variable(varRequestResource, library.ResourceCheckType))
	}
	e := base.Extend([]*apiservercel.DeclType{namespace, request}, options...)
	if d.Patch {
		e = e.Extend(nil, common.ResolverEnvOption(&mutation.DynamicTypeResolver{}), environment.UnversionedLib(library.JSONPatch))
	}
	return e
}

// fields are the fields of an object type; a name that ends in "?" may be
// absent.
type fields map[string]*apiservercel.DeclType

func object(name string, f fields) *apiservercel.DeclType {
	declared := make(map[string]*apiservercel.DeclField, len(f))
	for key, t := range f {
		required := true
		if last := len(key) - 1; key[last] == '?' {
			key, required = key[:last], false
		}
		declared[key] = apiservercel.NewDeclField(key, t, required, nil, nil)
	}
	return apiservercel.NewObjectType(name, declared)
}

func list(t *apiservercel.DeclType) *apiservercel.DeclType { return apiservercel.NewListType(t, -1) }

func dict(t *apiservercel.DeclType) *apiservercel.DeclType {
	return apiservercel.NewMapType(apiservercel.StringType, t, -1)
}

// requestType is the type of request: an AdmissionRequest without its uid and
// objects.
func requestType() *apiservercel.DeclType {
	text := apiservercel.StringType
	kind := object("kubernetes.GroupVersionKind", fields{"group": text, "version": text, "kind": text})
	resource := object("kubernetes.GroupVersionResource", fields{"group": text, "version": text, "resource": text})
	return object("kubernetes.AdmissionRequest", fields{
		"kind": kind, "resource": resource, "subResource?": text,
		"requestKind": kind, "requestResource": resource, "requestSubResource?": text,
		"name": text, "namespace?": text, "operation": text,
		"userInfo": object("kubernetes.UserInfo", fields{
			"username?": text, "uid?": text, "groups?": list(text), "extra?": dict(list(text)),
		}),
		"dryRun?": apiservercel.BoolType, "options?": apiservercel.DynType,
	})
}

// namespaceType is the type of namespaceObject: a Namespace without owners and
// managed fields.
func namespaceType() *apiservercel.DeclType {
	text, moment, number := apiservercel.StringType, apiservercel.TimestampType, apiservercel.IntType
	return object("kubernetes.Namespace", fields{
		"metadata": object("kubernetes.NamespaceMetadata", fields{
			"name": text, "generateName": text, "namespace": text, "labels": dict(text), "annotations": dict(text), "UID": text,
			"creationTimestamp": moment, "deletionGracePeriodSeconds": number, "deletionTimestamp": moment,
			"generation": number, "resourceVersion": text, "finalizers": list(text),
		}),
		"spec": object("kubernetes.NamespaceSpec", fields{"finalizers": list(text)}),
		"status": object("kubernetes.NamespaceStatus", fields{
			"phase": text,
			"conditions": list(object("kubernetes.NamespaceCondition", fields{
				"status": text, "type": text, "lastTransitionTime": moment, "message": text, "reason": text,
			})),
		}),
	})
}
