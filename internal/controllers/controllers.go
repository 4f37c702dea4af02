// Package controllers is the list of all controllers: which there are, and as
// whom each acts.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"skiff/internal/client"
	"skiff/internal/controllers/apiserverlease"
	"skiff/internal/controllers/attachdetach"
	"skiff/internal/controllers/bootstraptoken"
	"skiff/internal/controllers/clusterrole"
	"skiff/internal/controllers/controller"
	"skiff/internal/controllers/cronjob"
	"skiff/internal/controllers/csr"
	"skiff/internal/controllers/daemonset"
	"skiff/internal/controllers/deployment"
	"skiff/internal/controllers/devicetainteviction"
	"skiff/internal/controllers/disruption"
	"skiff/internal/controllers/endpoints"
	"skiff/internal/controllers/endpointslice"
	"skiff/internal/controllers/endpointslicemirroring"
	"skiff/internal/controllers/ephemeralvolume"
	"skiff/internal/controllers/expand"
	"skiff/internal/controllers/garbagecollector"
	"skiff/internal/controllers/index"
	"skiff/internal/controllers/job"
	"skiff/internal/controllers/legacytoken"
	"skiff/internal/controllers/localpath"
	"skiff/internal/controllers/namespace"
	"skiff/internal/controllers/nodeipam"
	"skiff/internal/controllers/nodelifecycle"
	"skiff/internal/controllers/persistentvolume"
	"skiff/internal/controllers/podautoscaler"
	"skiff/internal/controllers/podgc"
	"skiff/internal/controllers/policystatus"
	"skiff/internal/controllers/replicaset"
	"skiff/internal/controllers/replicationcontroller"
	"skiff/internal/controllers/resourceclaim"
	"skiff/internal/controllers/resourcequota"
	"skiff/internal/controllers/rootca"
	"skiff/internal/controllers/serviceaccount"
	"skiff/internal/controllers/servicecidr"
	"skiff/internal/controllers/statefulset"
	"skiff/internal/controllers/storageprotection"
	"skiff/internal/controllers/tainteviction"
	"skiff/internal/controllers/tokensecret"
	"skiff/internal/controllers/trustbundle"
	"skiff/internal/controllers/ttl"
)

// Config is what the controllers need of the cluster.
type Config struct {
	// Set returns the client of the ServiceAccount of that name in kube-system:
	// each controller has only the rights of its bootstrap role.
	Set func(serviceAccount string) client.Set
	// Discover returns what the API server serves.
	Discover controller.Discover
	// CABundle is the cluster's CA certificates, PEM.
	CABundle []byte
	// TrustBundles are served: the authority is to be published as one.
	TrustBundles bool
	// ClusterCIDRs are what nodes get their pod ranges from; none leaves nodes
	// without. Mask sizes of 0 mean /24 and /64.
	ClusterCIDRs                       []netip.Prefix
	NodeMaskSizeIPv4, NodeMaskSizeIPv6 int
	ServiceCIDRs                       []netip.Prefix
	// Certificates signs certificate requests.
	Certificates csr.Options
	// SignToken makes the tokens of Secrets of ServiceAccounts; nil leaves
	// those Secrets empty. Manager is then the client that fills them, which
	// acts as system:kube-controller-manager.
	SignToken tokensecret.Sign
	Manager   client.Set
	// LocalVolumes makes volumes on nodes; nil leaves claims of the class
	// local-path without.
	LocalVolumes localpath.Nodes
	// Schemas knows the schemas of what is served; nil leaves the types in
	// admission policies unchecked.
	Schemas func() (resolver.SchemaResolver, error)
	// Server is a client that acts for the API server itself, as which upstream
	// repairs what belongs to Services and clears up after servers. Without one
	// nobody does.
	Server client.Set
	Nodes  nodelifecycle.Options
	PodGC  podgc.Options
	// Autoscaler says how to reach the API over HTTP, as that controller.
	Autoscaler podautoscaler.Options
	Clock      clock.WithTicker
	Log        *slog.Logger
	// Metrics is where the controllers' metrics go; nil: nowhere.
	Metrics prometheus.Registerer
}

// Controllers are all controllers, ready to run.
type Controllers struct {
	all     []named
	metrics *controller.Metrics
}

type named struct {
	name string
	controller.Runnable
}

// New makes all controllers. It adds indexes to the caches, which must not be
// started with Pods, ReplicaSets … before.
func New(ctx context.Context, c Config) (*Controllers, error) {
	all := &Controllers{}
	if c.Metrics != nil {
		all.metrics = controller.NewMetrics(c.Metrics)
	}
	indexed := map[cache.Cache]bool{}
	var problems []error
	addAs := func(name string, set client.Set, make func(controller.Deps) (controller.Runnable, error)) {
		if !indexed[set.Cache] {
			indexed[set.Cache] = true
			if err := index.Add(ctx, set.Cache); err != nil {
				problems = append(problems, err)
			}
		}
		r, err := make(controller.Deps{Set: set, Clock: c.Clock, Log: c.Log.With("controller", name), Metrics: all.metrics})
		if err != nil {
			problems = append(problems, fmt.Errorf("controller %s: %w", name, err))
		}
		all.all = append(all.all, named{name, r})
	}
	add := func(name, account string, make func(controller.Deps) (controller.Runnable, error)) {
		addAs(name, c.Set(account), make)
	}
	add("replicaset", "replicaset-controller", replicaset.New)
	add("replicationcontroller", "replication-controller", replicationcontroller.New)
	add("deployment", "deployment-controller", deployment.New)
	add("statefulset", "statefulset-controller", statefulset.New)
	add("cronjob", "cronjob-controller", cronjob.New)
	add("disruption", "disruption-controller", disruption.New)
	add("disruptionstale", "disruption-controller", disruption.NewStale)
	add("daemonset", "daemon-set-controller", daemonset.New)
	add("endpointslice", "endpointslice-controller", endpointslice.New)
	add("endpoints", "endpoint-controller", endpoints.New)
	add("endpointslicemirroring", "endpointslicemirroring-controller", endpointslicemirroring.New)
	add("tokencleaner", "token-cleaner", bootstraptoken.NewCleaner)
	add("bootstrapsigner", "bootstrap-signer", bootstraptoken.NewSigner)
	add("servicecidr", "service-cidrs-controller", servicecidr.New)
	add("ttl", "ttl-controller", ttl.New)
	add("serviceaccount", "service-account-controller", serviceaccount.New)
	add("legacytokencleaner", "legacy-service-account-token-cleaner", legacytoken.NewCleaner)
	add("clusterrole", "clusterrole-aggregation-controller", clusterrole.New)
	add("tainteviction", "node-controller", tainteviction.New)
	add("job", "job-controller", job.New)
	add("joborphans", "job-controller", job.NewOrphans)
	add("ttlafterfinished", "ttl-after-finished-controller", job.NewTTL)
	add("persistentvolume", "persistent-volume-binder", persistentvolume.New)
	add("pvcprotection", "pvc-protection-controller", storageprotection.NewClaims)
	add("pvprotection", "pv-protection-controller", storageprotection.NewVolumes)
	add("vacprotection", "volumeattributesclass-protection-controller", storageprotection.NewAttributesClasses)
	add("ephemeralvolume", "ephemeral-volume-controller", ephemeralvolume.New)
	add("attachdetach", "attachdetach-controller", attachdetach.New)
	add("expand", "expand-controller", expand.New)
	add("resourceclaimpods", "resource-claim-controller", resourceclaim.NewPods)
	add("resourceclaim", "resource-claim-controller", resourceclaim.NewClaims)
	add("devicetainteviction", "device-taint-eviction-controller", devicetainteviction.New)
	add("rootca", "root-ca-cert-publisher", func(d controller.Deps) (controller.Runnable, error) { return rootca.New(d, c.CABundle) })
	if c.TrustBundles {
		add("trustbundle", "kube-apiserver-serving-clustertrustbundle-publisher", func(d controller.Deps) (controller.Runnable, error) { return trustbundle.New(d, c.CABundle) })
	}
	add("namespace", "namespace-controller", func(d controller.Deps) (controller.Runnable, error) { return namespace.New(d, c.Discover) })
	add("garbagecollector", "generic-garbage-collector", func(d controller.Deps) (controller.Runnable, error) { return garbagecollector.New(d, c.Discover) })
	add("resourcequota", "resourcequota-controller", func(d controller.Deps) (controller.Runnable, error) { return resourcequota.New(d, c.Discover) })
	add("nodelifecycle", "node-controller", func(d controller.Deps) (controller.Runnable, error) { return nodelifecycle.New(d, c.Nodes) })
	add("podgc", "pod-garbage-collector", func(d controller.Deps) (controller.Runnable, error) { return podgc.New(d, c.PodGC) })
	add("podautoscaler", "horizontal-pod-autoscaler", func(d controller.Deps) (controller.Runnable, error) { return podautoscaler.New(d, c.Autoscaler) })
	add("csr", "certificate-controller", func(d controller.Deps) (controller.Runnable, error) { return csr.New(d, c.Certificates) })
	if len(c.ClusterCIDRs) > 0 {
		add("nodeipam", "node-controller", func(d controller.Deps) (controller.Runnable, error) {
			return nodeipam.New(d, nodeipam.Options{
				ClusterCIDRs: c.ClusterCIDRs, Reserved: c.ServiceCIDRs,
				MaskSizeIPv4: c.NodeMaskSizeIPv4, MaskSizeIPv6: c.NodeMaskSizeIPv6,
			})
		})
	}
	if c.LocalVolumes != nil {
		add("localpath", "persistent-volume-binder", func(d controller.Deps) (controller.Runnable, error) { return localpath.New(d, c.LocalVolumes) })
	}
	if c.Schemas != nil {
		add("policystatus", "validatingadmissionpolicy-status-controller", func(d controller.Deps) (controller.Runnable, error) { return policystatus.New(d, c.Schemas, c.Server) })
	}
	if c.Server.Client != nil {
		addAs("ipaddresses", c.Server, servicecidr.NewAddresses)
		addAs("legacytokentracker", c.Server, legacytoken.NewTracker)
		addAs("apiserverlease", c.Server, apiserverlease.New)
	}
	if c.SignToken != nil {
		addAs("tokensecret", c.Manager, func(d controller.Deps) (controller.Runnable, error) {
			return tokensecret.New(d, c.SignToken, c.CABundle)
		})
	}
	return all, errors.Join(problems...)
}

// Run runs all controllers until ctx ends; if one cannot run, it ends them all
// and returns why.
func (c *Controllers) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var problems []error
	for _, n := range c.all {
		wg.Go(func() {
			defer c.metrics.Running(n.name)()
			if err := n.Start(ctx); err != nil {
				err = fmt.Errorf("controller %s: %w", n.name, err)
				cancel(err)
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(problems...)
}
