package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func (c *podCheck) containers(at *field.Path) {
	if len(c.spec.Containers) == 0 {
		c.required(at)
		return
	}
	names, hostPorts := sets.New[string](), sets.New[string]()
	for i := range c.spec.Containers {
		ctr, at := &c.spec.Containers[i], at.Index(i)
		c.container(at, ctr)
		if names.Has(ctr.Name) {
			c.duplicate(at.Child("name"), ctr.Name)
		}
		names.Insert(ctr.Name)
		c.lifecycleAndProbes(at, ctr)
		c.restartRules(at, ctr)
		c.hostPorts(at, ctr, hostPorts)
	}
}

func (c *podCheck) initContainers(at *field.Path) {
	names := sets.New[string]()
	for i := range c.spec.Containers {
		names.Insert(c.spec.Containers[i].Name)
	}
	for i := range c.spec.InitContainers {
		ctr, at := &c.spec.InitContainers[i], at.Index(i)
		c.container(at, ctr)
		c.initRestartRules(at, ctr)
		if names.Has(ctr.Name) {
			c.duplicate(at.Child("name"), ctr.Name)
		} else if ctr.Name != "" {
			names.Insert(ctr.Name)
		}
		// They run one after the other: each may use the same ports.
		c.hostPorts(at, ctr, sets.New[string]())
		if isSidecar(ctr) {
			c.lifecycleAndProbes(at, ctr)
			continue
		}
		c.forbiddenIf(at, "may not be set for init containers without restartPolicy=Always", map[string]bool{
			"lifecycle":      ctr.Lifecycle != nil,
			"livenessProbe":  ctr.LivenessProbe != nil,
			"readinessProbe": ctr.ReadinessProbe != nil,
			"startupProbe":   ctr.StartupProbe != nil,
		})
		for j, policy := range ctr.ResizePolicy {
			if policy.RestartPolicy == corev1.RestartContainer {
				c.invalid(at.Child("resizePolicy").Index(j).Child("restartPolicy"), policy.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers")
			}
		}
	}
}

// isSidecar tells whether an init container runs on beside the others.
func isSidecar(ctr *corev1.Container) bool {
	return ptr.Deref(ctr.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
}

// ephemeralContainers: they debug a pod and do nothing for it, so what makes
// others rely on a container is not for them.
func (c *podCheck) ephemeralContainers(at *field.Path) {
	const not = "cannot be set for an Ephemeral Container"
	targets := sets.New[string]()
	for _, containers := range [][]corev1.Container{c.spec.Containers, c.spec.InitContainers} {
		for i := range containers {
			targets.Insert(containers[i].Name)
		}
	}
	names := targets.Clone()
	for i := range c.spec.EphemeralContainers {
		e, at := &c.spec.EphemeralContainers[i], at.Index(i)
		ctr := (*corev1.Container)(&e.EphemeralContainerCommon)
		c.container(at, ctr)
		if names.Has(e.Name) {
			c.duplicate(at.Child("name"), e.Name)
		}
		names.Insert(e.Name)
		if e.TargetContainerName != "" && !targets.Has(e.TargetContainerName) {
			c.one(field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		r := &ctr.Resources
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"ports", ctr.Ports != nil},
			{"resources", r.Limits != nil || r.Requests != nil || r.Claims != nil},
			{"resizePolicy", ctr.ResizePolicy != nil},
			{"restartPolicy", ctr.RestartPolicy != nil},
			{"restartPolicyRules", ctr.RestartPolicyRules != nil},
			{"livenessProbe", ctr.LivenessProbe != nil},
			{"readinessProbe", ctr.ReadinessProbe != nil},
			{"startupProbe", ctr.StartupProbe != nil},
			{"lifecycle", ctr.Lifecycle != nil},
		} {
			if f.set {
				c.forbidden(at.Child(f.name), not)
			}
		}
		for j, mount := range e.VolumeMounts {
			if mount.SubPath != "" {
				c.forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), not)
			}
			if mount.SubPathExpr != "" {
				c.forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), not)
			}
		}
	}
}

// image checks a container's image. Templates may have spaces around it.
func (p *problems) image(at *field.Path, image string, isPod bool) {
	if image == "" {
		p.required(at)
	}
	if isPod && strings.TrimSpace(image) != image {
		p.invalid(at, image, "must not have leading or trailing whitespace")
	}
}

// container checks what containers of all three kinds have in common.
func (c *podCheck) container(at *field.Path, ctr *corev1.Container) {
	if ctr.Name == "" {
		c.required(at.Child("name"))
	} else {
		c.dnsLabel(at.Child("name"), ctr.Name)
	}
	c.image(at.Child("image"), ctr.Image, c.isPod)
	oneOf(&c.problems, at.Child("terminationMessagePolicy"), ctr.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	c.containerPorts(at.Child("ports"), ctr.Ports)
	c.env(at.Child("env"), ctr.Env)
	c.envFrom(at.Child("envFrom"), ctr.EnvFrom)
	c.volumeMounts(at.Child("volumeMounts"), ctr)
	c.volumeDevices(at.Child("volumeDevices"), ctr)
	c.pullPolicy(at.Child("imagePullPolicy"), ctr.ImagePullPolicy)
	c.resources(at.Child("resources"), &ctr.Resources, c.claims, c.containerResourceName)
	c.resizePolicy(at.Child("resizePolicy"), ctr.ResizePolicy)
	c.securityContext(at.Child("securityContext"), ctr.SecurityContext)
}

func (c *podCheck) pullPolicy(at *field.Path, policy corev1.PullPolicy) {
	oneOf(&c.problems, at, policy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func (c *podCheck) containerPorts(at *field.Path, ports []corev1.ContainerPort) {
	names := sets.New[string]()
	for i, port := range ports {
		at := at.Index(i)
		if port.Name != "" {
			if messages := validation.IsValidPortName(port.Name); len(messages) > 0 {
				c.invalids(at.Child("name"), port.Name, messages)
			} else if names.Has(port.Name) {
				c.duplicate(at.Child("name"), port.Name)
			} else {
				names.Insert(port.Name)
			}
		}
		if port.ContainerPort == 0 {
			c.required(at.Child("containerPort"))
		} else {
			c.port(at.Child("containerPort"), port.ContainerPort)
		}
		if port.HostPort != 0 {
			c.port(at.Child("hostPort"), port.HostPort)
		}
		oneOf(&c.problems, at.Child("protocol"), port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
	}
}

// hostPorts checks that no two ports claim the same port of the node.
func (c *podCheck) hostPorts(at *field.Path, ctr *corev1.Container, taken sets.Set[string]) {
	for i, port := range ctr.Ports {
		if port.HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
		if taken.Has(key) {
			c.duplicate(at.Child("ports").Index(i).Child("hostPort"), key)
		}
		taken.Insert(key)
	}
}

// restartRules checks a container's own restart policy (KEP-5307).
func (c *podCheck) restartRules(at *field.Path, ctr *corev1.Container) {
	rules := ctr.RestartPolicyRules
	if ctr.RestartPolicy == nil && len(rules) > 0 {
		c.missing(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
	}
	anyOf(&c.problems, at.Child("restartPolicy"), ctr.RestartPolicy, corev1.ContainerRestartPolicyAlways,
		corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	at = at.Child("restartPolicyRules")
	if most := 20; len(rules) > most {
		c.one(field.TooMany(at, len(rules), most))
	}
	for i, rule := range rules {
		at := at.Index(i)
		anyOf(&c.problems, at.Child("action"), &rule.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if rule.ExitCodes == nil {
			c.missing(at.Child("exitCodes"), "must be specified")
			continue
		}
		at = at.Child("exitCodes")
		anyOf(&c.problems, at.Child("operator"), &rule.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if most := 255; len(rule.ExitCodes.Values) > most {
			c.one(field.TooMany(at.Child("values"), len(rule.ExitCodes.Values), most))
		}
	}
}

// initRestartRules is restartRules for an init container, whose rules say
// nothing if it has no policy of its own.
func (c *podCheck) initRestartRules(at *field.Path, ctr *corev1.Container) {
	if ctr.RestartPolicy != nil {
		c.restartRules(at, ctr)
	} else if len(ctr.RestartPolicyRules) > 0 {
		c.missing(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
	}
}

func (c *podCheck) resizePolicy(at *field.Path, policies []corev1.ContainerResizePolicy) {
	seen := sets.New[corev1.ResourceName]()
	for i, policy := range policies {
		if seen.Has(policy.ResourceName) {
			c.duplicate(at.Index(i), policy.ResourceName)
		}
		seen.Insert(policy.ResourceName)
		oneOf(&c.problems, at, policy.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		oneOf(&c.problems, at, policy.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && policy.RestartPolicy != corev1.NotRequired {
			c.invalid(at, policy.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
	}
}

func (c *podCheck) lifecycleAndProbes(at *field.Path, ctr *corev1.Container) {
	if l := ctr.Lifecycle; l != nil {
		at := at.Child("lifecycle")
		if l.PostStart != nil {
			c.handler(at.Child("postStart"), handler{exec: l.PostStart.Exec, httpGet: l.PostStart.HTTPGet, tcpSocket: l.PostStart.TCPSocket, sleep: l.PostStart.Sleep})
		}
		if l.PreStop != nil {
			c.handler(at.Child("preStop"), handler{exec: l.PreStop.Exec, httpGet: l.PreStop.HTTPGet, tcpSocket: l.PreStop.TCPSocket, sleep: l.PreStop.Sleep})
		}
	}
	once := func(name string, probe *corev1.Probe) {
		c.probe(at.Child(name), probe)
		if probe != nil && probe.SuccessThreshold != 1 {
			c.invalid(at.Child(name, "successThreshold"), probe.SuccessThreshold, "must be 1")
		}
	}
	once("livenessProbe", ctr.LivenessProbe)
	once("startupProbe", ctr.StartupProbe)
	c.probe(at.Child("readinessProbe"), ctr.ReadinessProbe)
	if p := ctr.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		c.invalid(at.Child("readinessProbe", "terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
	}
}

func (c *podCheck) probe(at *field.Path, p *corev1.Probe) {
	if p == nil {
		return
	}
	c.handler(at, handler{exec: p.Exec, httpGet: p.HTTPGet, tcpSocket: p.TCPSocket, grpc: p.GRPC})
	c.nonNegative(at.Child("initialDelaySeconds"), int64(p.InitialDelaySeconds))
	c.nonNegative(at.Child("timeoutSeconds"), int64(p.TimeoutSeconds))
	c.nonNegative(at.Child("periodSeconds"), int64(p.PeriodSeconds))
	c.nonNegative(at.Child("successThreshold"), int64(p.SuccessThreshold))
	c.nonNegative(at.Child("failureThreshold"), int64(p.FailureThreshold))
	if s := p.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		c.invalid(at.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0")
	}
}

// handler is what a probe or a lifecycle hook does: one of these.
type handler struct {
	exec      *corev1.ExecAction
	httpGet   *corev1.HTTPGetAction
	tcpSocket *corev1.TCPSocketAction
	grpc      *corev1.GRPCAction
	sleep     *corev1.SleepAction
}

func (c *podCheck) handler(at *field.Path, h handler) {
	found := false
	for _, action := range []struct {
		name  string
		set   bool
		check func(at *field.Path)
	}{
		{"exec", h.exec != nil, func(at *field.Path) {
			if len(h.exec.Command) == 0 {
				c.required(at.Child("command"))
			}
		}},
		{"httpGet", h.httpGet != nil, func(at *field.Path) { c.httpGet(at, h.httpGet) }},
		{"tcpSocket", h.tcpSocket != nil, func(at *field.Path) { c.portOrName(at.Child("port"), h.tcpSocket.Port) }},
		{"grpc", h.grpc != nil, func(at *field.Path) { c.portOrName(at.Child("port"), intstr.FromInt32(h.grpc.Port)) }},
		{"sleep", h.sleep != nil, func(at *field.Path) {
			grace := c.spec.TerminationGracePeriodSeconds
			if grace != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *grace) {
				c.invalid(at, h.sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))
			}
		}},
	} {
		switch {
		case !action.set:
		case found:
			c.forbidden(at.Child(action.name), "may not specify more than 1 handler type")
		default:
			found = true
			action.check(at.Child(action.name))
		}
	}
	if !found {
		c.missing(at, "must specify a handler type")
	}
}

func (c *podCheck) httpGet(at *field.Path, get *corev1.HTTPGetAction) {
	c.requiredText(at, "path", get.Path)
	c.portOrName(at.Child("port"), get.Port)
	anyOf(&c.problems, at.Child("scheme"), &get.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for _, header := range get.HTTPHeaders {
		c.invalids(at.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))
	}
}
