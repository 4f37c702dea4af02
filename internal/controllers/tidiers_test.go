package controllers_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/controllertest"
	"skiff/internal/controllers/cronjob"
	"skiff/internal/controllers/csr"
	"skiff/internal/controllers/namespace"
	"skiff/internal/controllers/podgc"
	"skiff/internal/controllers/servicecidr"
	"skiff/internal/identity"
)

// tidiers are keepers whose objects come to an end.
func tidiers() []controllertest.Keeper {
	named := metav1.ObjectMeta{Namespace: "default", Name: "w"}
	bystander := func() client.Object { return &corev1.ConfigMap{ObjectMeta: named} }
	return []controllertest.Keeper{
		{
			Name: "cronjob",
			Run: func(x *keeping) runs {
				return runs{"cronjob-controller": cronjob.New, "generic-garbage-collector": collector(x)}
			},
			Main: func() client.Object {
				return &batchv1.CronJob{ObjectMeta: named, Spec: batchv1.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ReplaceConcurrent,
					JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
						RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}}}
			},
			// A minute passes, as far as the controller knows.
			Poke: func(x *keeping, i int) {
				x.Clock.Jump(time.Minute)
				controllertest.Change(x.Cluster, x.Object(), func(o client.Object) { o.SetAnnotations(map[string]string{"poked": fmt.Sprint(i)}) })
			},
			Right: jobOfItsTime, Watched: &batchv1.JobList{}, Also: &batchv1.CronJobList{},
			// A Job is made and another removed, with an Event for each.
			Writes: 5,
		},
		{
			Name: "namespace",
			Run: func(x *keeping) runs {
				return runs{"namespace-controller": func(d controller.Deps) (controller.Runnable, error) { return namespace.New(d, x.Discover) }}
			},
			Main: bystander,
			Poke: func(x *keeping, i int) {
				name := fmt.Sprint("n", i%3)
				if err := x.Client.Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
					if !apierrors.IsAlreadyExists(err) {
						x.T.Fatal(err)
					}
					return // It is still going.
				}
				x.Create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "content"}})
				x.Delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
			},
			Right: func(x *keeping) bool {
				var namespaces corev1.NamespaceList
				var contents corev1.ConfigMapList
				x.List(&namespaces)
				x.List(&contents)
				return !slices.ContainsFunc(namespaces.Items, func(n corev1.Namespace) bool { return n.DeletionTimestamp != nil }) &&
					!slices.ContainsFunc(contents.Items, func(m corev1.ConfigMap) bool { return m.Name == "content" })
			},
			Watched: &corev1.NamespaceList{}, Also: &corev1.ConfigMapList{},
			// The content, what is said of it, and the end, beside a third of one's own.
			Writes: 5,
		},
		{
			Name: "csr",
			Run: func(x *keeping) runs {
				return runs{"certificate-controller": func(d controller.Deps) (controller.Runnable, error) {
					return csr.New(d, csr.Options{Signer: x.PKI.CA})
				}}
			},
			Main:  bystander,
			Poke:  askAnew,
			Right: signedOnce, Watched: &certificatesv1.CertificateSigningRequestList{}, Writes: 3,
		},
		{
			Name: "podgc",
			Run: func(*keeping) runs {
				return runs{"pod-garbage-collector": func(d controller.Deps) (controller.Runnable, error) {
					return podgc.New(d, podgc.Options{Quarantine: 100 * time.Millisecond})
				}}
			},
			Around: []client.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}}, Before: pods,
			Main: bystander,
			Poke: func(x *keeping, i int) {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "lost-"},
					Spec: corev1.PodSpec{NodeName: fmt.Sprint("gone-", i), Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
				x.Create(p)
			},
			Right: func(x *keeping) bool {
				if members(x) != 5 {
					x.T.Fatal("pods of a node that is there are gone")
				}
				return len(x.Pods("default", nil)) == 5
			},
			Watched: &corev1.PodList{}, Writes: 2,
		},
		{
			Name: "servicecidr",
			Run:  func(*keeping) runs { return runs{"service-cidrs-controller": servicecidr.New} },
			Main: func() client.Object {
				return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "w"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.97.0.0/24"}}}
			},
			Poke: func(x *keeping, i int) {
				c := x.Object().(*networkingv1.ServiceCIDR)
				if i%2 == 0 {
					controllertest.Change(x.Cluster, c, func(c *networkingv1.ServiceCIDR) { c.Finalizers = nil })
					return
				}
				c.Status.Conditions = nil
				if err := x.Client.Status().Update(context.Background(), c); err != nil && !apierrors.IsConflict(err) {
					x.T.Fatal(err)
				}
			},
			Right: func(x *keeping) bool {
				c := x.Object().(*networkingv1.ServiceCIDR)
				return meta.IsStatusConditionTrue(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) && len(c.Finalizers) == 1
			},
			Watched: &networkingv1.ServiceCIDRList{}, Writes: 2,
		},
		{
			Name: "ipaddresses",
			Run:  func(*keeping) runs { return runs{"": servicecidr.NewAddresses} },
			Main: func() client.Object {
				return &corev1.Service{ObjectMeta: named, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
			},
			Poke: func(x *keeping, i int) {
				if i%2 == 0 {
					ip := x.Object().(*corev1.Service).Spec.ClusterIP
					err := x.Client.Delete(context.Background(), &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ip}})
					if client.IgnoreNotFound(err) != nil {
						x.T.Fatal(err)
					}
					return
				}
				other := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: "other-"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
				x.Create(other)
				x.Delete(other)
			},
			Right: addressesOfServices, Watched: &networkingv1.IPAddressList{}, Also: &corev1.ServiceList{}, Writes: 3,
		},
	}
}

// jobOfItsTime: the last minute's Job is there and no other, if a minute has
// begun since the CronJob was made.
func jobOfItsTime(x *keeping) bool {
	cj := x.Object().(*batchv1.CronJob)
	var jobs batchv1.JobList
	x.List(&jobs, client.InNamespace("default"))
	names := map[string]bool{}
	for _, j := range jobs.Items {
		if !metav1.IsControlledBy(&j, cj) {
			return false
		}
		names[j.Name] = true
	}
	if len(names) != len(cj.Status.Active) || len(names) > 1 {
		return false
	}
	for _, ref := range cj.Status.Active {
		if !names[ref.Name] {
			return false
		}
	}
	minute := x.Clock.Now().Truncate(time.Minute)
	last := cj.Status.LastScheduleTime
	return !cj.CreationTimestamp.Time.Before(minute) || last != nil && !last.Time.Before(minute)
}

// askAnew makes a node's request for a certificate, in the place of another,
// and changes it while it is decided on.
func askAnew(x *keeping, i int) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		x.T.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: identity.NodePrefix + "n", Organization: []string{identity.GroupNodes}}}, key)
	if err != nil {
		x.T.Fatal(err)
	}
	r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("r", i%3)}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}}}
	if err := x.Client.Delete(context.Background(), r); client.IgnoreNotFound(err) != nil {
		x.T.Fatal(err)
	}
	x.Create(r)
	controllertest.Change(x.Cluster, r, func(r *certificatesv1.CertificateSigningRequest) {
		r.Labels = map[string]string{"poked": fmt.Sprint(i)}
	})
}

// signedOnce: what was asked for is approved, once, and signed for the key that
// was asked with.
func signedOnce(x *keeping) bool {
	var list certificatesv1.CertificateSigningRequestList
	x.List(&list)
	for _, r := range list.Items {
		if len(r.Status.Conditions) != 1 || len(r.Status.Certificate) == 0 {
			return false
		}
		block, _ := pem.Decode(r.Spec.Request)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			x.T.Fatal(err)
		}
		block, _ = pem.Decode(r.Status.Certificate)
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !request.PublicKey.(*ecdsa.PublicKey).Equal(certificate.PublicKey) {
			x.T.Fatalf("%s has another's certificate (%v)", r.Name, err)
		}
	}
	return true
}

// addressesOfServices: Services have their addresses, and nobody else has.
func addressesOfServices(x *keeping) bool {
	var services corev1.ServiceList
	var addresses networkingv1.IPAddressList
	x.List(&services)
	x.List(&addresses)
	owners := map[string]string{}
	for _, s := range services.Items {
		owners[s.Spec.ClusterIP] = s.Name
	}
	for _, a := range addresses.Items {
		if a.Spec.ParentRef.Name != owners[a.Name] {
			return false
		}
	}
	return len(addresses.Items) == len(owners)
}
