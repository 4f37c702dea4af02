// Package csr decides on certificate signing requests of the kubernetes.io
// signers: it approves those of kubelets, signs what is approved, and removes
// requests that are over.
package csr

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"skiff/internal/controllers/controller"
)

// Signer makes certificates: PEM, good for lasting and the usages.
type Signer interface {
	Sign(request *x509.CertificateRequest, lasting time.Duration, usages []certificatesv1.KeyUsage) ([]byte, error)
}

// Options say what is signed, and how.
type Options struct {
	Signer Signer
	// Lasting is the longest life of a certificate; 0 means a year.
	Lasting time.Duration
	// ApproveServing approves serving certificates that a node asks for
	// itself, for the addresses in its Node's status. Upstream leaves them to
	// an administrator.
	ApproveServing bool
}

const (
	year     = 365 * 24 * time.Hour
	shortest = 10 * time.Minute
)

type reconciler struct {
	controller.Deps
	Options
}

// New makes the CSR controller.
func New(d controller.Deps, o Options) (controller.Runnable, error) {
	if o.Lasting == 0 {
		o.Lasting = year
	}
	r := &reconciler{d, o}
	return controller.New(d, "csr", 2, r.reconcile,
		controller.WatchSelf(d, &certificatesv1.CertificateSigningRequest{}),
		controller.Watch(d, &corev1.Node{}, r.nodeChanged))
}

// nodeChanged asks again for the serving certificates of a node that has come
// to exist or to have other addresses.
func (r *reconciler) nodeChanged(q controller.Queue, old, node *corev1.Node) {
	if node == nil || old != nil && apiequality.Semantic.DeepEqual(old.Status.Addresses, node.Status.Addresses) {
		return
	}
	var all certificatesv1.CertificateSigningRequestList
	if err := r.Cache.List(context.Background(), &all, crclient.UnsafeDisableDeepCopy); err != nil {
		r.Log.Error("listing certificate requests", "error", err)
	}
	for i := range all.Items {
		if csr := &all.Items[i]; csr.Spec.SignerName == certificatesv1.KubeletServingSignerName && csr.Spec.Username == nodeUser+node.Name {
			controller.Add(q, "", csr.Name)
		}
	}
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	var cached certificatesv1.CertificateSigningRequest
	if err := r.Cache.Get(ctx, key, &cached, crclient.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	left, ends := expiresIn(&cached, r.Clock.Now())
	if ends && left <= 0 {
		return reconcile.Result{}, crclient.IgnoreNotFound(r.Client.Delete(ctx, &cached, crclient.Preconditions{UID: &cached.UID}))
	}
	csr := cached.DeepCopy()
	var err error
	switch {
	case len(csr.Status.Certificate) > 0 || has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed):
	case has(csr, certificatesv1.CertificateApproved):
		err = r.sign(ctx, csr)
	default:
		err = r.approve(ctx, csr)
	}
	if err != nil {
		return reconcile.Result{}, crclient.IgnoreNotFound(err)
	}
	if !ends {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{RequeueAfter: max(time.Second, left)}, nil
}

// approve approves what a kubelet may have, if the requester has the right to
// it (Kubelet TLS bootstrapping documentation, "Approval").
func (r *reconciler) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	request, err := parse(csr.Spec.Request)
	if err != nil {
		return reconcile.TerminalError(err)
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if validateKubeletClient(request, csr.Spec.Usages) != nil {
			return nil
		}
		if csr.Spec.Username == request.Subject.CommonName {
			ok, err := r.allowed(ctx, csr, "selfnodeclient")
			if err != nil {
				return err
			}
			if ok {
				return r.setApproved(ctx, csr, "Auto approving self kubelet client certificate after SubjectAccessReview.")
			}
		}
		ok, err := r.allowed(ctx, csr, "nodeclient")
		if err != nil || !ok {
			return err
		}
		return r.setApproved(ctx, csr, "Auto approving kubelet client certificate after SubjectAccessReview.")
	case certificatesv1.KubeletServingSignerName:
		if !r.ApproveServing || validateKubeletServing(request, csr.Spec.Usages) != nil || csr.Spec.Username != request.Subject.CommonName {
			return nil
		}
		var node corev1.Node
		if err := r.Client.Get(ctx, types.NamespacedName{Name: request.Subject.CommonName[len(nodeUser):]}, &node); err != nil {
			// A node that is not there yet asks again when it comes.
			return crclient.IgnoreNotFound(err)
		}
		if !ownNames(request, &node) {
			// The node may not have reported them yet.
			return nil
		}
		return r.setApproved(ctx, csr, "Auto approving kubelet serving certificate for the node's own addresses.")
	}
	return nil
}

func (r *reconciler) allowed(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range csr.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
		},
	}}
	if err := r.Client.Create(ctx, review); err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

func (r *reconciler) setApproved(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, message string) error {
	now := metav1.NewTime(r.Clock.Now())
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
		LastUpdateTime: now, LastTransitionTime: now,
	})
	return r.Client.SubResource("approval").Update(ctx, csr)
}

// sign makes the certificate, or says in the status why it cannot be made.
func (r *reconciler) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	request, err := parse(csr.Spec.Request)
	if err == nil {
		ours := false
		if ours, err = validate(csr.Spec.SignerName, request, csr.Spec.Usages); !ours {
			return nil
		}
	}
	if err != nil {
		now := metav1.NewTime(r.Clock.Now())
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
			LastUpdateTime: now, LastTransitionTime: now,
		})
		return r.Client.Status().Update(ctx, csr)
	}
	lasting := r.Lasting
	if s := csr.Spec.ExpirationSeconds; s != nil {
		lasting = min(lasting, max(shortest, time.Duration(*s)*time.Second))
	}
	certificate, err := r.Signer.Sign(request, lasting, csr.Spec.Usages)
	if err != nil {
		return fmt.Errorf("signing %s: %w", csr.Name, err)
	}
	csr.Status.Certificate = certificate
	return r.Client.Status().Update(ctx, csr)
}

func parse(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return request, request.CheckSignature()
}
