package cluster

import (
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"skiff/internal/apis/builtin"
	"skiff/internal/apiserver"
	"skiff/internal/apiserver/admission/plugins"
	"skiff/internal/apiserver/audit"
	"skiff/internal/apiserver/encryption"
	"skiff/internal/apiserver/features"
	"skiff/internal/apiserver/flowcontrol"
	"skiff/internal/apiserver/runtimeconfig"
)

// APIConfig configures the API server. The fields are named like
// kube-apiserver's flags; zero values mean upstream's defaults.
type APIConfig struct {
	apiserver.Limits

	DisablePriorityAndFairness bool
	// MaxRequestsInFlight (default 400) and MaxMutatingRequestsInFlight (default
	// 200) are how many requests there may be at a time; priority and fairness
	// divides the sum. -1 is no limit.
	MaxRequestsInFlight, MaxMutatingRequestsInFlight int

	AuthenticationConfig
	AuthorizationConfig

	// RuntimeConfig says which of the built-in APIs are served, and FeatureGates
	// turn optional features on and off. DisabledMetrics are not shown.
	RuntimeConfig   runtimeconfig.Config
	FeatureGates    features.Set
	DisabledMetrics []string

	// Admission says which admission plug-ins run, and how.
	Admission plugins.Config

	// AuditPolicyFile says what is recorded; without one nothing is. The
	// records go to AuditLog, AuditWebhook or both.
	AuditPolicyFile string
	AuditLog        audit.LogOptions
	AuditWebhook    audit.WebhookOptions

	// EncryptionConfigFile says which resources are encrypted in the store;
	// with EncryptionReload it is followed.
	EncryptionConfigFile string
	EncryptionReload     bool
}

// check returns an error if what is to be served contradicts itself or names
// what there is not.
func (c *APIConfig) check() error {
	if err := errors.Join(c.FeatureGates.Check(), c.RuntimeConfig.Check()); err != nil || c.DisablePriorityAndFairness {
		return err
	}
	return c.RuntimeConfig.Fairness()
}

// encrypt puts encryption between the API and the engine.
func (p *ControlPlane) encrypt() error {
	measures := encryption.NewMetrics(p.Metrics)
	file := p.Config.API.EncryptionConfigFile
	if file == "" {
		return nil
	}
	config, err := encryption.Load(file)
	if err != nil {
		return err
	}
	prefixes := map[string]schema.GroupResource{}
	for _, d := range builtin.Resources(builtin.Hooks{}) {
		prefixes[d.Prefix] = d.GroupResource()
	}
	engine := encryption.New(p.engine, config, prefixes, measures, p.log)
	p.engine, p.staleValue = engine, engine.Stale
	if !p.Config.API.EncryptionReload {
		return nil
	}
	return p.reload.follow("encryption", file, func() error {
		config, err := encryption.Load(file)
		if err != nil {
			return err
		}
		engine.Reload(config)
		return nil
	})
}

// flow returns what bounds the requests, by priority or plainly.
func (c *APIConfig) flow(clk clock.WithDelayedExecution) (*flowcontrol.Controller, *flowcontrol.InFlight) {
	orDefault(&c.MaxRequestsInFlight, 400)
	orDefault(&c.MaxMutatingRequestsInFlight, 200)
	readOnly, mutating := max(0, c.MaxRequestsInFlight), max(0, c.MaxMutatingRequestsInFlight)
	if c.DisablePriorityAndFairness || readOnly+mutating == 0 {
		return nil, &flowcontrol.InFlight{ReadOnly: readOnly, Mutating: mutating}
	}
	return flowcontrol.New(readOnly+mutating, clk), nil
}

// auditor returns what records requests, nil if nothing does, and what must be
// closed after the last request.
func (c *APIConfig) auditor(clk clock.PassiveClock, m *audit.Metrics, failed func(error)) (*audit.Auditor, []io.Closer, error) {
	if c.AuditPolicyFile == "" {
		return nil, nil, nil
	}
	policy, err := audit.LoadPolicy(c.AuditPolicyFile)
	if err != nil {
		return nil, nil, err
	}
	var sinks audit.Sinks
	var closers []io.Closer
	if c.AuditLog.Path != "" {
		log, err := audit.NewLog(c.AuditLog)
		if err != nil {
			return nil, nil, err
		}
		sinks, closers = append(sinks, log), append(closers, log)
	}
	if c.AuditWebhook.Kubeconfig != "" {
		hook, err := audit.NewWebhook(c.AuditWebhook, failed)
		if err != nil {
			return nil, nil, errors.Join(err, closeAll(closers))
		}
		sinks, closers = append(sinks, hook), append(closers, hook)
	}
	if len(sinks) == 0 {
		return nil, nil, fmt.Errorf("the audit policy %s is of no use: set --audit-log-path or --audit-webhook-config-file too", c.AuditPolicyFile)
	}
	return &audit.Auditor{Policy: policy, Sink: sinks, Clock: clk, Failed: failed, Metrics: m}, closers, nil
}

func closeAll(closers []io.Closer) error {
	var errs []error
	for _, c := range closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
