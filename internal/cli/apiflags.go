package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"skiff/internal/apiserver/features"
	"skiff/internal/apiserver/runtimeconfig"
	"skiff/internal/cluster"
)

// addAPIFlags adds kube-apiserver's flags, under their upstream names.
func addAPIFlags(cmd *cobra.Command, c *cluster.APIConfig) {
	f := cmd.Flags()
	f.DurationVar(&c.RequestTimeout, "request-timeout", time.Minute, "time that a request may take")
	f.Var(&secondsFlag{&c.MinWatchTimeout}, "min-request-timeout", "seconds that a watch lasts at least (default 1800)")
	f.DurationVar(&c.ShutdownDelay, "shutdown-delay-duration", 0, "time that the API is still served after /readyz says that it ends")
	f.BoolVar(&c.ShutdownRetryAfter, "shutdown-send-retry-after", false, "refuse new requests, with Retry-After, while those in flight finish at the end")
	f.Float64Var(&c.GoawayChance, "goaway-chance", 0, "part of the HTTP/2 requests whose client is asked to connect anew, at most 0.02")
	f.IntVar(&c.StreamsPerConnection, "http2-max-streams-per-connection", 0, "requests of one HTTP/2 connection at a time (default 1000)")
	f.Var(&patternsFlag{&c.CORSOrigins}, "cors-allowed-origins", "pattern of the origins whose web pages may use the API (can be repeated)")
	f.StringSliceVar(&c.StrictTransport, "strict-transport-security-directives", nil, "directives of the Strict-Transport-Security header")
	f.Var(&invertedFlag{&c.DisableProfiling}, "profiling", "serve Go's profiles below /debug/pprof")
	f.Lookup("profiling").NoOptDefVal = "true"

	f.Var(&apisFlag{&c.RuntimeConfig}, "runtime-config", "built-in APIs that are turned on or off: group/version[/resource]=true or false, or all of a kind by api/all, api/ga, api/beta (can be repeated)")
	f.Var(&gatesFlag{&c.FeatureGates}, "feature-gates", "optional features that are turned on or off: NAME=true or NAME=false (can be repeated)")
	f.StringSliceVar(&c.DisabledMetrics, "disabled-metrics", nil, "metrics that are not shown")

	f.Var(&invertedFlag{&c.DisablePriorityAndFairness}, "enable-priority-and-fairness", "divide the server among its users by FlowSchemas and priority levels")
	f.Lookup("enable-priority-and-fairness").NoOptDefVal = "true"
	f.IntVar(&c.MaxRequestsInFlight, "max-requests-inflight", 400, "requests at a time that read; -1 is no limit")
	f.IntVar(&c.MaxMutatingRequestsInFlight, "max-mutating-requests-inflight", 200, "requests at a time that change something; -1 is no limit")
	f.Var(&invertedFlag{&c.DisableAnonymous}, "anonymous-auth", "let requests without credentials in, as system:anonymous")
	f.Lookup("anonymous-auth").NoOptDefVal = "true"

	f.StringSliceVar(&c.Admission.Enable, "enable-admission-plugins", nil, "admission plug-ins that run besides the default ones")
	f.StringSliceVar(&c.Admission.Disable, "disable-admission-plugins", nil, "default admission plug-ins that do not run")
	f.StringVar(&c.Admission.File, "admission-control-config-file", "", "file that configures admission plug-ins")

	f.StringVar(&c.AuthenticationConfigFile, "authentication-config", "", "file that says which OpenID issuers are trusted, and where requests may be anonymous")
	f.StringVar(&c.TokenAuthFile, "token-auth-file", "", "file of tokens and whose they are: token,user,uid and, if wanted, \"group,group\" in each line")
	f.StringVar(&c.OIDC.IssuerURL, "oidc-issuer-url", "", "OpenID issuer whose tokens are accepted, without a configuration file")
	f.StringVar(&c.OIDC.ClientID, "oidc-client-id", "", "client that those tokens must be for")
	f.StringVar(&c.OIDC.CAFile, "oidc-ca-file", "", "authority of the issuer's certificate (default: the machine's)")
	f.StringVar(&c.OIDC.UsernameClaim, "oidc-username-claim", "sub", "claim that names the user")
	f.StringVar(&c.OIDC.UsernamePrefix, "oidc-username-prefix", "", "what stands before that name; - is nothing (default: the issuer and #, nothing for the claim email)")
	f.StringVar(&c.OIDC.GroupsClaim, "oidc-groups-claim", "", "claim that names the user's groups")
	f.StringVar(&c.OIDC.GroupsPrefix, "oidc-groups-prefix", "", "what stands before those names")
	f.StringSliceVar(&c.OIDC.SigningAlgs, "oidc-signing-algs", []string{"RS256"}, "how those tokens may be signed")
	f.StringToStringVar(&c.OIDC.RequiredClaims, "oidc-required-claim", nil, "claim=value that those tokens must have (can be repeated)")
	f.StringSliceVar(&c.RequestHeader.Username, "requestheader-username-headers", nil, "headers by which front proxies name the user (default X-Remote-User)")
	f.StringSliceVar(&c.RequestHeader.UID, "requestheader-uid-headers", nil, "headers by which they tell the user's UID (default X-Remote-Uid)")
	f.StringSliceVar(&c.RequestHeader.Group, "requestheader-group-headers", nil, "headers by which they name the user's groups (default X-Remote-Group)")
	f.StringSliceVar(&c.RequestHeader.ExtraPrefix, "requestheader-extra-headers-prefix", nil, "prefixes of the headers by which they tell more of the user (default X-Remote-Extra-)")
	f.StringVar(&c.RequestHeaderClientCAFile, "requestheader-client-ca-file", "", "authority of front proxies' certificates, beside the cluster's own")
	f.StringSliceVar(&c.RequestHeaderAllowedNames, "requestheader-allowed-names", nil, "common names of those certificates (default: any)")
	f.StringVar(&c.TokenWebhookConfigFile, "authentication-token-webhook-config-file", "", "kubeconfig of a webhook that knows whose tokens are")
	f.StringVar(&c.TokenWebhookVersion, "authentication-token-webhook-version", "v1beta1", "version of the reviews by which it is asked: v1 or v1beta1")
	f.DurationVar(&c.TokenWebhookCacheTTL, "authentication-token-webhook-cache-ttl", 2*time.Minute, "time for which that webhook's answers hold")
	f.StringSliceVar(&c.ServiceAccountIssuers, "service-account-issuer", nil, "issuer of service accounts' tokens; the first is used for new ones (can be repeated)")
	f.StringSliceVar(&c.APIAudiences, "api-audiences", nil, "audiences of tokens for this server (default: the issuers)")
	f.StringVar(&c.ServiceAccountSigningKeyFile, "service-account-signing-key-file", "", "private key that signs service accounts' tokens (default: the cluster's own)")
	f.StringArrayVar(&c.ServiceAccountKeyFiles, "service-account-key-file", nil, "further keys by which those tokens are accepted (can be repeated)")
	f.StringVar(&c.ServiceAccountJWKSURI, "service-account-jwks-uri", "", "where others find the keys of those tokens (default: this server)")
	f.DurationVar(&c.MaxTokenExpiration, "service-account-max-token-expiration", 0, "longest life of a token that somebody asks for (default: no limit)")

	f.StringSliceVar(&c.AuthorizationModes, "authorization-mode", nil, "authorizers in the order in which they are asked: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny (default Node,RBAC)")
	f.StringVar(&c.AuthorizationWebhook.ConfigFile, "authorization-webhook-config-file", "", "kubeconfig of the webhook that decides in the mode Webhook")
	f.StringVar(&c.AuthorizationWebhook.Version, "authorization-webhook-version", "v1beta1", "version of the reviews by which it is asked: v1 or v1beta1")
	f.Var(&cacheFlag{&c.AuthorizationWebhook.CacheAuthorizedTTL, &c.AuthorizationWebhook.DontCacheAuthorized}, "authorization-webhook-cache-authorized-ttl", "time for which that webhook's permissions hold (default 5m0s)")
	f.Var(&cacheFlag{&c.AuthorizationWebhook.CacheUnauthorizedTTL, &c.AuthorizationWebhook.DontCacheUnauthorized}, "authorization-webhook-cache-unauthorized-ttl", "time for which that webhook's refusals hold (default 30s)")
	f.StringVar(&c.AuthorizationConfigFile, "authorization-config", "", "file that says so instead, webhooks included")

	f.StringVar(&c.AuditPolicyFile, "audit-policy-file", "", "file that says which requests are recorded (default: none are)")
	f.StringVar(&c.AuditLog.Path, "audit-log-path", "", "file that requests are recorded in; - is the standard output")
	f.StringVar(&c.AuditLog.Format, "audit-log-format", "json", "json or legacy")
	f.IntVar(&c.AuditLog.MaxAge, "audit-log-maxage", 366, "days that old files of the audit log are kept")
	f.IntVar(&c.AuditLog.MaxBackups, "audit-log-maxbackup", 100, "old files of the audit log that are kept")
	f.IntVar(&c.AuditLog.MaxSize, "audit-log-maxsize", 100, "megabytes at which a new file of the audit log is begun")
	f.BoolVar(&c.AuditLog.Compress, "audit-log-compress", false, "compress old files of the audit log")
	f.StringVar(&c.AuditWebhook.Kubeconfig, "audit-webhook-config-file", "", "kubeconfig that says where records of requests are sent")
	f.Var(&modeFlag{&c.AuditWebhook.Blocking}, "audit-webhook-mode", "batch or blocking")
	f.IntVar(&c.AuditWebhook.Buffer, "audit-webhook-batch-buffer-size", 10000, "records that may wait to be sent")
	f.IntVar(&c.AuditWebhook.MaxSize, "audit-webhook-batch-max-size", 400, "records that are sent at once")
	f.DurationVar(&c.AuditWebhook.MaxWait, "audit-webhook-batch-max-wait", 30*time.Second, "time after which fewer are sent")
	f.Float32Var(&c.AuditWebhook.QPS, "audit-webhook-batch-throttle-qps", 10, "batches that are sent in a second")
	f.IntVar(&c.AuditWebhook.Burst, "audit-webhook-batch-throttle-burst", 15, "batches that are sent at once if none were for a while")
	f.DurationVar(&c.AuditWebhook.InitialBackoff, "audit-webhook-initial-backoff", 10*time.Second, "time before the first failed call is tried again")

	f.StringVar(&c.EncryptionConfigFile, "encryption-provider-config", "", "file that says which resources are encrypted in the store")
	f.BoolVar(&c.EncryptionReload, "encryption-provider-config-automatic-reload", false, "follow changes of that file")
}

// invertedFlag is a switch that is on unless it is turned off.
type invertedFlag struct{ off *bool }

func (f *invertedFlag) Type() string { return "bool" }

func (f *invertedFlag) String() string { return strconv.FormatBool(f.off == nil || !*f.off) }

func (f *invertedFlag) Set(text string) error {
	on, err := strconv.ParseBool(text)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", text)
	}
	*f.off = !on
	return nil
}

// gatesFlag is a list of feature gates.
type gatesFlag struct{ set *features.Set }

func (f *gatesFlag) Type() string { return "gates" }

func (f *gatesFlag) String() string { return "" }

func (f *gatesFlag) Set(text string) error {
	for pair := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%q must have the form NAME=true or NAME=false", pair)
		}
		if *f.set == nil {
			*f.set = features.Set{}
		}
		(*f.set)[name] = on
	}
	return f.set.Check()
}

// apisFlag says which APIs are served.
type apisFlag struct{ config *runtimeconfig.Config }

func (f *apisFlag) Type() string { return "apis" }

func (f *apisFlag) String() string { return "" }

func (f *apisFlag) Set(text string) error {
	if *f.config == nil {
		*f.config = runtimeconfig.Config{}
	}
	f.config.Parse(text)
	return nil
}

// cacheFlag is the time that something is kept; 0 does not keep it.
type cacheFlag struct {
	ttl *time.Duration
	off *bool
}

func (f *cacheFlag) Type() string { return "duration" }

func (f *cacheFlag) String() string {
	if f.ttl == nil || *f.ttl == 0 {
		return ""
	}
	return f.ttl.String()
}

func (f *cacheFlag) Set(text string) (err error) {
	*f.ttl, err = time.ParseDuration(text)
	*f.off = *f.ttl == 0
	return err
}

// secondsFlag is a time in seconds.
type secondsFlag struct{ d *time.Duration }

func (f *secondsFlag) Type() string { return "seconds" }

func (f *secondsFlag) String() string {
	if f.d == nil || *f.d == 0 {
		return ""
	}
	return strconv.Itoa(int(f.d.Seconds()))
}

func (f *secondsFlag) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a number of seconds", text)
	}
	*f.d = time.Duration(n) * time.Second
	return nil
}

// patternsFlag is a list of regular expressions.
type patternsFlag struct{ list *[]*regexp.Regexp }

func (f *patternsFlag) Type() string { return "pattern" }

func (f *patternsFlag) String() string { return "" }

func (f *patternsFlag) Set(text string) error {
	p, err := regexp.Compile(text)
	if err != nil {
		return fmt.Errorf("%q is not a regular expression: %w", text, err)
	}
	*f.list = append(*f.list, p)
	return nil
}

// modeFlag chooses between batch and blocking.
type modeFlag struct{ blocking *bool }

func (f *modeFlag) Type() string { return "mode" }

func (f *modeFlag) String() string {
	if f.blocking != nil && *f.blocking {
		return "blocking"
	}
	return "batch"
}

func (f *modeFlag) Set(text string) error {
	if text != "batch" && text != "blocking" {
		return fmt.Errorf("%q is neither batch nor blocking", text)
	}
	*f.blocking = text == "blocking"
	return nil
}
