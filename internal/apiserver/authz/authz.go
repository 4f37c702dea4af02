// Package authz decides whether a requester may do what it asks. The
// authorizers themselves (rbac, node, webhook) live in the folders below.
package authz

import (
	"context"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/internal/identity"
)

// Attributes describe one request.
type Attributes struct {
	User *identity.User
	// Verb is the API verb (get, list, watch, create, update, patch, delete,
	// deletecollection, or a special one such as bind), or the lower-case HTTP
	// method when Path is set.
	Verb string
	// Group, Version, Resource, Subresource, Namespace and Name identify what
	// a resource request is about; Name is empty for collections.
	Group, Version, Resource, Subresource, Namespace, Name string
	// Path is set instead for a request outside the API groups, e.g. /healthz.
	Path string
	// FieldSelector and LabelSelector are those of a list, watch or
	// deletecollection; nil where there are none (KEP-4601).
	FieldSelector fields.Requirements
	LabelSelector labels.Requirements
}

// IsResource reports whether the request is for an API resource.
func (a *Attributes) IsResource() bool { return a.Path == "" }

// Decision is an authorizer's answer.
type Decision int

// The decisions. NoOpinion passes the question to the next authorizer; if
// nobody allows, the request is refused.
const (
	NoOpinion Decision = iota
	Allow
	Deny
)

// Authorizer answers one question. The reason goes into the message of a
// refusal and into the audit log; err tells that the answer may be incomplete.
type Authorizer interface {
	Authorize(ctx context.Context, a *Attributes) (d Decision, reason string, err error)
}

// Union asks each authorizer in turn until one has an opinion.
type Union []Authorizer

// Authorize implements Authorizer.
func (u Union) Authorize(ctx context.Context, a *Attributes) (Decision, string, error) {
	var reasons string
	var firstErr error
	for _, z := range u {
		d, reason, err := z.Authorize(ctx, a)
		if d != NoOpinion {
			return d, reason, nil
		}
		if err != nil && firstErr == nil {
			firstErr = err
		}
		if reason != "" {
			if reasons != "" {
				reasons += ", "
			}
			reasons += reason
		}
	}
	return NoOpinion, reasons, firstErr
}
