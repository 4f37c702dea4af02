package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// aPod returns a valid pod, changed and then defaulted.
func aPod(change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.local/app:1"}}},
	}
	for _, f := range change {
		f(pod)
	}
	defaultPod(pod)
	return pod
}

// check compares the first lines of errors with what is wanted, in any order.
func check(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	var got []string
	for _, e := range errs {
		text, _, _ := strings.Cut(e.Error(), "\n")
		got = append(got, text)
	}
	left := append([]string(nil), got...)
	for _, w := range want {
		found := false
		for i, g := range left {
			if g == w {
				left, found = append(left[:i], left[i+1:]...), true
				break
			}
		}
		if !found {
			t.Errorf("no error %q in\n%s", w, strings.Join(got, "\n"))
		}
	}
	if len(left) > 0 {
		t.Errorf("further errors:\n%s", strings.Join(left, "\n"))
	}
}

func TestPodDefaults(t *testing.T) {
	pod := aPod(func(p *corev1.Pod) {
		p.Spec.HostNetwork = true
		p.Spec.DeprecatedServiceAccount = "robot"
		c := &p.Spec.Containers[0]
		c.Image = "app"
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80}}
		c.Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("0.0001"), "memory": resource.MustParse("1Gi")}
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}}
		c.Env = []corev1.EnvVar{{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}}
		p.Spec.Volumes = []corev1.Volume{{Name: "v"}, {Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "x"}}}}
	})
	c := &pod.Spec.Containers[0]
	for what, ok := range map[string]bool{
		"dnsPolicy":          pod.Spec.DNSPolicy == corev1.DNSClusterFirst,
		"restartPolicy":      pod.Spec.RestartPolicy == corev1.RestartPolicyAlways,
		"scheduler":          pod.Spec.SchedulerName == "default-scheduler",
		"grace":              *pod.Spec.TerminationGracePeriodSeconds == 30,
		"security context":   pod.Spec.SecurityContext != nil,
		"service links":      *pod.Spec.EnableServiceLinks,
		"service account":    pod.Spec.ServiceAccountName == "robot",
		"pull policy":        c.ImagePullPolicy == corev1.PullAlways,
		"protocol":           c.Ports[0].Protocol == corev1.ProtocolTCP,
		"host port":          c.Ports[0].HostPort == 80,
		"request from limit": c.Resources.Requests.Memory().String() == "1Gi",
		"rounded up":         c.Resources.Limits.Cpu().String() == "1m",
		"probe":              c.LivenessProbe.TimeoutSeconds == 1 && c.LivenessProbe.PeriodSeconds == 10 && c.LivenessProbe.FailureThreshold == 3,
		"probe path":         c.LivenessProbe.HTTPGet.Path == "/" && c.LivenessProbe.HTTPGet.Scheme == "HTTP",
		"field version":      c.Env[0].ValueFrom.FieldRef.APIVersion == "v1",
		"message path":       c.TerminationMessagePath == "/dev/termination-log" && c.TerminationMessagePolicy == "File",
		"empty dir":          pod.Spec.Volumes[0].EmptyDir != nil,
		"secret mode":        *pod.Spec.Volumes[1].Secret.DefaultMode == 0o644,
	} {
		if !ok {
			t.Errorf("%s is not defaulted: %+v", what, pod.Spec)
		}
	}
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"app": "Always", "app:latest": "Always", "host:5000/app": "Always", "app:1": "IfNotPresent", "host:5000/app:1": "IfNotPresent",
		"app@sha256:" + strings.Repeat("a", 64): "IfNotPresent", "Not An Image": "IfNotPresent",
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

func TestSubscripted(t *testing.T) {
	for path, want := range map[string][2]string{
		"metadata.labels['a']": {"metadata.labels", "a"}, "metadata.labels['']": {"metadata.labels", ""},
		"metadata.labels": {"metadata.labels", ""}, "['a']": {"['a']", ""}, "x['": {"x['", ""}, "x[']": {"x[']", ""},
	} {
		if field, key, _ := subscripted(path); field != want[0] || key != want[1] {
			t.Errorf("%s: %q %q, want %q", path, field, key, want)
		}
	}
}

func TestPodQOS(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		if cpu != "" {
			l["cpu"] = resource.MustParse(cpu)
		}
		if memory != "" {
			l["memory"] = resource.MustParse(memory)
		}
		return l
	}
	for name, c := range map[string]struct {
		requests, limits corev1.ResourceList
		want             corev1.PodQOSClass
	}{
		"nothing":      {nil, nil, corev1.PodQOSBestEffort},
		"limits":       {nil, list("1", "1Gi"), corev1.PodQOSGuaranteed},
		"equal":        {list("1", "1Gi"), list("1", "1Gi"), corev1.PodQOSGuaranteed},
		"lower":        {list("0.5", "1Gi"), list("1", "1Gi"), corev1.PodQOSBurstable},
		"request only": {list("1", ""), nil, corev1.PodQOSBurstable},
		"one limit":    {nil, list("1", ""), corev1.PodQOSBurstable},
	} {
		pod := aPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: c.requests, Limits: c.limits}
		})
		if got := podQOS(pod); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestValidatePod(t *testing.T) {
	container := func(f func(*corev1.Container)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { f(&p.Spec.Containers[0]) }
	}
	volume := func(s corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: s}} }
	}
	label := "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"good":          {func(*corev1.Pod) {}, nil},
		"no containers": {func(p *corev1.Pod) { p.Spec.Containers = nil }, []string{"spec.containers: Required value"}},
		"bad name":      {container(func(c *corev1.Container) { c.Name = "C" }), []string{`spec.containers[0].name: Invalid value: "C": ` + label}},
		"no image":      {container(func(c *corev1.Container) { c.Image = "" }), []string{"spec.containers[0].image: Required value"}},
		"padded image":  {container(func(c *corev1.Container) { c.Image = " x:1" }), []string{`spec.containers[0].image: Invalid value: " x:1": must not have leading or trailing whitespace`}},
		"same name": {func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "c", Image: "x:1"}} },
			[]string{`spec.initContainers[0].name: Duplicate value: "c"`}},
		"probe of init container": {func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x:1", ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}}}
		}, []string{"spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"}},
		"sidecar with probe": {func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x:1", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways),
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}}}
		}, nil},
		"ephemeral on create": {func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "x:1"}}}
		}, []string{"spec.ephemeralContainers: Forbidden: cannot be set on create"}},
		"port": {container(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: 70000, Protocol: "tcp"}} }), []string{
			"spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
			`spec.containers[0].ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`,
		}},
		"host ports meet": {container(func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 1, HostPort: 9}, {ContainerPort: 2, HostPort: 9}}
		}), []string{`spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//9"`}},
		"host network": {func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}}
		}, []string{"spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"}},
		"env": {container(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "a=b"}, {Name: "X", ValueFrom: &corev1.EnvVarSource{}},
				{Name: "Y", Value: "1", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}},
				{Name: "Z", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.phase"}}},
				{Name: "W", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nonsense"}}}}
		}), []string{
			`spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='`,
			"spec.containers[0].env[1].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
			"spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
			`spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`,
			`spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Invalid value: "spec.nonsense": error converting fieldPath: field label not supported: spec.nonsense`,
		}},
		"resources": {container(func(c *corev1.Container) {
			c.Resources = corev1.ResourceRequirements{
				Limits:   corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("-1")},
				Requests: corev1.ResourceList{"cpu": resource.MustParse("2"), "nonsense": resource.MustParse("1")},
			}
		}), []string{
			`spec.containers[0].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0`,
			`spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0`,
			`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`,
			`spec.containers[0].resources.requests[nonsense]: Invalid value: "nonsense": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.requests[nonsense]: Invalid value: "nonsense": must be a standard resource for containers`,
		}},
		"device without limit": {container(func(c *corev1.Container) {
			c.Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
		}), []string{"spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources"}},
		"huge pages alone": {container(func(c *corev1.Container) {
			c.Resources.Limits = corev1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi")}
		}), []string{"spec.containers[0].resources: Forbidden: HugePages require cpu or memory"}},
		"probe": {container(func(c *corev1.Container) {
			c.LivenessProbe = &corev1.Probe{SuccessThreshold: 2, PeriodSeconds: -1}
		}), []string{
			"spec.containers[0].livenessProbe: Required value: must specify a handler type",
			"spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
			"spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
		}},
		"two handlers": {container(func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}, Sleep: &corev1.SleepAction{Seconds: 1}}}
		}), []string{"spec.containers[0].lifecycle.preStop.sleep: Forbidden: may not specify more than 1 handler type"}},
		"long sleep": {container(func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 31}}}
		}), []string{"spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"}},
		"mount of nothing": {container(func(c *corev1.Container) {
			c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/x"}}
		}), []string{`spec.containers[0].volumeMounts[0].name: Not found: "v"`}},
		"restart rules": {container(func(c *corev1.Container) {
			c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Restart"}}
		}), []string{
			"spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
			"spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
		}},
		"two sources": {volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}, HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}),
			[]string{"spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"}},
		"host path": {volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/a/../b", Type: ptr.To(corev1.HostPathType("X"))}}), []string{
			`spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'`,
			`spec.volumes[0].hostPath.type: Unsupported value: "X": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`,
		}},
		"config map keys": {volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{Items: []corev1.KeyToPath{{Path: "/x", Mode: ptr.To[int32](0o1000)}}}}), []string{
			"spec.volumes[0].configMap.name: Required value",
			"spec.volumes[0].configMap.items[0].key: Required value",
			`spec.volumes[0].configMap.items[0].path: Invalid value: "/x": must be a relative path`,
			"spec.volumes[0].configMap.items[0].mode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
		}},
		"token life": {func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "sa"
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", ExpirationSeconds: ptr.To[int64](60)}}}}}}}
		}, []string{"spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes"}},
		"grace": {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](0) },
			[]string{"spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"}},
		"restart policy": {func(p *corev1.Pod) { p.Spec.RestartPolicy = "Sometimes" },
			[]string{`spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"`}},
		"dns none": {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone },
			[]string{"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"}},
		"toleration": {func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: "Equal"}} },
			[]string{"spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\""}},
		"node affinity": {func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: "In"}}}}}}}
		}, []string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"}},
		"pod affinity": {func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				{Weight: 101, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: "zone"}}}}}
		}, []string{"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100"}},
		"spread": {func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "zone", WhenUnsatisfiable: "DoNotSchedule"}}
		}, []string{"spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"}},
		"user": {func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](-1)} },
			[]string{"spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"}},
		"sysctl of the host": {func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.core.somaxconn", Value: "1"}}}
		}, []string{`spec.securityContext.sysctls[0].name: Invalid value: "net.core.somaxconn": may not be specified when 'hostNetwork' is true`}},
		"seccomp": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: "Localhost"}}
		}, []string{"spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost"}},
		"windows options for linux": {func(p *corev1.Pod) {
			p.Spec.OS = &corev1.PodOS{Name: "linux"}
			p.Spec.SecurityContext = &corev1.PodSecurityContext{WindowsOptions: &corev1.WindowsSecurityContextOptions{}}
		}, []string{"spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"}},
		"privileged for windows": {func(p *corev1.Pod) {
			p.Spec.OS = &corev1.PodOS{Name: "windows"}
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
		}, []string{"spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod"}},
		"gated and assigned": {func(p *corev1.Pod) {
			p.Spec.NodeName = "n"
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		}, []string{"spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"}},
		"pod level": {func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}}
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("2")}
		}, []string{`spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2`}},
		"mirror": {func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} },
			[]string{`metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set`}},
		"deletion cost": {func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "+1"} },
			[]string{`metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+1": must be a 32bit integer`}},
		"seccomp annotation": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.SeccompContainerAnnotationKeyPrefix + "c": "unconfined"}
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: "RuntimeDefault"}}
		}, []string{"spec.containers[0].securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"}},
		"AppArmor annotation": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "d": "x"}
		}, []string{
			`metadata.annotations[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: "d": container not found`,
			`metadata.annotations[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: "x": invalid AppArmor profile name: "x"`,
		}},
		"AppArmor": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: "Localhost", LocalhostProfile: ptr.To(" x")}}
		}, []string{`spec.securityContext.appArmorProfile.localhostProfile: Invalid value: " x": must not be padded with whitespace`}},
		"downward file": {volume(corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "..x"}, {Path: "y", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.cpu", Divisor: resource.MustParse("2")}},
		}}}), []string{
			`spec.volumes[0].downwardAPI.path: Invalid value: "..x": must not start with '..'`,
			"spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
			`spec.volumes[0].downwardAPI.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource`,
		}},
		"projected paths meet": {volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: []corev1.KeyToPath{{Key: "k", Path: "p"}}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "m"}, Items: []corev1.KeyToPath{{Key: "k", Path: "p"}}}},
		}}}), []string{`spec.volumes[0].projected: Invalid value: "m": conflicting duplicate paths`}},
		"ephemeral volume": {volume(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}},
		}}}), []string{"spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value"}},
		"claim of the ephemeral volume": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{
				{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
				{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "p-e"}}},
			}
		}, []string{
			"spec.volumes[0].ephemeral.volumeClaimTemplate: Required value",
			`spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: "p-e": must not reference a PVC that gets created for an ephemeral volume`,
		}},
		"iscsi": {volume(corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{TargetPortal: "p", IQN: "iqn.x", Lun: 256, SessionCHAPAuth: true}}), []string{
			`spec.volumes[0].iscsi.iqn: Invalid value: "iqn.x": must be valid format`,
			"spec.volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
			"spec.volumes[0].iscsi.secretRef: Required value",
		}},
		"propagation": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v"}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", MountPropagation: ptr.To(corev1.MountPropagationBidirectional)}}
		}, []string{"spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers"}},
		"claims": {func(p *corev1.Pod) {
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "a", ResourceClaimName: ptr.To("x")}}
			p.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "b"}}
		}, []string{`spec.containers[0].resources.claims[0]: Not found: "b": must be one of the names in pod.spec.resourceClaims: a`}},
	} {
		t.Run(name, func(t *testing.T) { check(t, validatePodCreate(aPod(c.change)), c.want...) })
	}
}

func TestValidatePodUpdate(t *testing.T) {
	other := "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
	gated := func(p *corev1.Pod) {
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}, {Name: "b"}}
		p.Spec.NodeSelector = map[string]string{"x": "1"}
	}
	for name, c := range map[string]struct {
		old, change func(*corev1.Pod)
		want        []string
	}{
		"image":   {nil, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "y:2" }, nil},
		"label":   {nil, func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, nil},
		"command": {nil, func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"x"} }, []string{other}},
		"node":    {nil, func(p *corev1.Pod) { p.Spec.NodeName = "n" }, []string{other}},
		"containers": {nil, func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "x:1"})
		}, []string{"spec.containers: Forbidden: pod updates may not add or remove containers"}},
		"deadline": {nil, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, nil},
		"later deadline": {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](6) },
			[]string{"spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"}},
		"no deadline": {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil },
			[]string{"spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"}},
		"toleration added": {nil, func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: "Exists"}} }, nil},
		"toleration removed": {func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: "Exists"}} }, func(p *corev1.Pod) { p.Spec.Tolerations = nil },
			[]string{"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"}},
		"grace":          {nil, func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1) }, []string{other}},
		"negative grace": {func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](-1) }, func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1) }, nil},
		"gate removed":   {gated, func(p *corev1.Pod) { p.Spec.SchedulingGates = p.Spec.SchedulingGates[:1] }, nil},
		"gate added": {gated, func(p *corev1.Pod) {
			p.Spec.SchedulingGates = append(p.Spec.SchedulingGates, corev1.PodSchedulingGate{Name: "c"})
		},
			[]string{"spec.schedulingGates[2].name: Forbidden: only deletion is allowed, but found new scheduling gate 'c'"}},
		"gated selector grows": {gated, func(p *corev1.Pod) { p.Spec.NodeSelector["y"] = "2" }, nil},
		"gated selector changes": {gated, func(p *corev1.Pod) { p.Spec.NodeSelector["x"] = "2" },
			[]string{`spec.nodeSelector: Invalid value: {"x":"2"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)`}},
		"gated affinity changes": {func(p *corev1.Pod) { gated(p); p.Spec.Affinity = onNodes("a") }, func(p *corev1.Pod) { p.Spec.Affinity = onNodes("b") },
			[]string{`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value: {"matchExpressions":[{"key":"b","operator":"Exists"}]}: only additions are allowed (no mutations or deletions)`}},
		"gated affinity grows": {func(p *corev1.Pod) { gated(p); p.Spec.Affinity = onNodes("a") }, func(p *corev1.Pod) { p.Spec.Affinity = onNodes("a", "b") }, nil},
		"gated affinity comes": {gated, func(p *corev1.Pod) { p.Spec.Affinity = onNodes("a") }, nil},
		"affinity comes":       {nil, func(p *corev1.Pod) { p.Spec.Affinity = onNodes("a") }, []string{other}},
		"old mistake":          {func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "x"} }, func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if c.old == nil {
				c.old = func(*corev1.Pod) {}
			}
			old := aPod(c.old)
			pod := old.DeepCopy()
			c.change(pod)
			defaultPod(pod)
			check(t, validatePodUpdate(pod, old), c.want...)
		})
	}
}

// onNodes requires nodes with labels.
func onNodes(keys ...string) *corev1.Affinity {
	var term corev1.NodeSelectorTerm
	for _, key := range keys {
		term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpExists})
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}}}
}

func TestPodStatusUpdate(t *testing.T) {
	ended := corev1.ContainerStatus{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
	old := aPod(func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Status = corev1.PodStatus{QOSClass: corev1.PodQOSBestEffort, ContainerStatuses: []corev1.ContainerStatus{ended}}
	})
	pod := old.DeepCopy()
	pod.Status.QOSClass = ""
	preparePodStatus(pod, old)
	check(t, validatePodStatus(pod, old))

	pod.Status.QOSClass = corev1.PodQOSBurstable
	pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}}
	check(t, validatePodStatus(pod, old),
		`status.qosClass: Invalid value: "Burstable": field is immutable`,
		"status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
		`status.podIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]: may specify no more than one IP for each IP family`)
}

// TestEndedContainers are containers that have ended and run again.
func TestEndedContainers(t *testing.T) {
	rule := func(action corev1.ContainerRestartRuleAction) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{Action: action, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{42}}}}
	}
	const forbidden = "status.%sontainerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
	init, app := fmt.Sprintf(forbidden, "initC"), fmt.Sprintf(forbidden, "c")
	for name, c := range map[string]struct {
		code int32
		edit func(*corev1.PodSpec)
		want []string
	}{
		"never":                     {42, func(*corev1.PodSpec) {}, []string{app, init}},
		"on failure, failed":        {42, func(s *corev1.PodSpec) { s.RestartPolicy = corev1.RestartPolicyOnFailure }, nil},
		"on failure, succeeded":     {0, func(s *corev1.PodSpec) { s.RestartPolicy = corev1.RestartPolicyOnFailure }, []string{app, init}},
		"its rule":                  {42, func(s *corev1.PodSpec) { s.Containers[0].RestartPolicyRules = rule("Restart") }, []string{init}},
		"its rule, another code":    {1, func(s *corev1.PodSpec) { s.Containers[0].RestartPolicyRules = rule("Restart") }, []string{app, init}},
		"a rule that restarts all":  {1, func(s *corev1.PodSpec) { s.Containers[0].RestartPolicyRules = rule("RestartAllContainers") }, nil},
		"the same of an init":       {1, func(s *corev1.PodSpec) { s.InitContainers[0].RestartPolicyRules = rule("RestartAllContainers") }, nil},
		"a policy of the container": {0, func(s *corev1.PodSpec) { s.Containers[0].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways) }, []string{init}},
	} {
		t.Run(name, func(t *testing.T) {
			old := aPod(func(p *corev1.Pod) {
				p.Spec.RestartPolicy = corev1.RestartPolicyNever
				p.Spec.InitContainers = []corev1.Container{*p.Spec.Containers[0].DeepCopy()}
				p.Spec.InitContainers[0].Name = "i"
				c.edit(&p.Spec)
				ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: c.code}}
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: p.Spec.Containers[0].Name, State: ended}}
				p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "i", State: ended}}
			})
			pod := old.DeepCopy()
			pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
			pod.Status.InitContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
			check(t, validatePodStatus(pod, old), c.want...)
		})
	}
}

func TestPodResize(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
	}
	old := aPod(func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{*p.Spec.Containers[0].DeepCopy()}
		p.Spec.InitContainers[0].Name = "i"
		p.Spec.InitContainers[0].Resources.Requests = list("1", "1Gi")
		p.Spec.Containers[0].Resources.Requests = list("1", "1Gi")
	})
	for name, c := range map[string]struct {
		want    func(*corev1.Pod)
		problem []string
	}{
		"more":    {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list("2", "2Gi") }, nil},
		"removed": {func(p *corev1.Pod) { delete(p.Spec.Containers[0].Resources.Requests, "cpu") }, []string{"spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"}},
		"other class": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits, p.Spec.InitContainers[0].Resources.Limits = list("1", "1Gi"), list("1", "1Gi")
		},
			[]string{`spec: Invalid value: "": Pod QOS Class may not change as a result of resizing`}},
		"other resource": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["ephemeral-storage"] = resource.MustParse("1")
		}, []string{"spec: Forbidden: only cpu and memory resources are mutable"}},
		"more of an init container": {func(p *corev1.Pod) { p.Spec.InitContainers[0].Resources.Requests = list("2", "2Gi") }, nil},
		"other resource of an init container": {func(p *corev1.Pod) {
			p.Spec.InitContainers[0].Resources.Requests["ephemeral-storage"] = resource.MustParse("1")
		}, []string{"spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable"}},
		"another policy": {func(p *corev1.Pod) {
			p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.RestartContainer}}
		}, []string{"spec: Forbidden: only cpu and memory resources are mutable"}},
		"removed containers": {func(p *corev1.Pod) { p.Spec.InitContainers = nil },
			[]string{"spec.initContainers: Forbidden: initContainers may not be added or removed on resize"}},
		"renamed containers": {func(p *corev1.Pod) { p.Spec.InitContainers[0].Name = "other" },
			[]string{"spec.initContainers[0].name: Forbidden: initContainers may not be renamed or reordered on resize"}},
		"limits of the pod": {func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("3", "3Gi"), Limits: list("4", "4Gi")}
		}, nil},
		"image is ignored": {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other:1" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			pod := old.DeepCopy()
			c.want(pod)
			keepResources(pod, old.DeepCopy())
			if pod.Spec.Containers[0].Image != old.Spec.Containers[0].Image {
				t.Error("a resize has changed an image")
			}
			check(t, validatePodResize(pod, old), c.problem...)
		})
	}
}

func TestEphemeralContainers(t *testing.T) {
	debugger := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d", Image: "x:1"}, TargetContainerName: "c"}
	old := aPod(func(p *corev1.Pod) { p.Spec.EphemeralContainers = []corev1.EphemeralContainer{debugger} })
	pod := old.DeepCopy()
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "x:1", Ports: []corev1.ContainerPort{{ContainerPort: 1}}}, TargetContainerName: "none"})
	defaultPod(pod)
	check(t, validateEphemeralContainersUpdate(pod, old),
		`spec.ephemeralContainers[1].targetContainerName: Not found: "none"`,
		"spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container")
	pod.Spec.EphemeralContainers = nil
	check(t, validateEphemeralContainersUpdate(pod, old), `spec.ephemeralContainers: Forbidden: existing ephemeral containers "d" may not be removed`)
}

func TestPodGracePeriod(t *testing.T) {
	running := func(p *corev1.Pod) { p.Spec.NodeName = "n"; p.Status.Phase = corev1.PodRunning }
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		wish *int64
		want int64
	}{
		"default":      {aPod(running), nil, 30},
		"wish":         {aPod(running), ptr.To[int64](5), 5},
		"now":          {aPod(running), ptr.To[int64](0), 0},
		"negative":     {aPod(running), ptr.To[int64](-5), 1},
		"not assigned": {aPod(), ptr.To[int64](5), 0},
		"finished":     {aPod(running, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), nil, 0},
	} {
		if got := podGracePeriod(c.pod, c.wish); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestPodCells(t *testing.T) {
	status := func(name string, state corev1.ContainerState, restarts int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: state, RestartCount: restarts, Ready: state.Running != nil}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	waiting := func(why string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why}}
	}
	ended := func(why string, code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: why, ExitCode: code}}
	}
	withInit := func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x:1"}, {Name: "j", Image: "x:1"}}
	}
	for name, c := range map[string]struct {
		change                  func(*corev1.Pod)
		ready, reason, restarts string
	}{
		"new": {preparePod, "0/1", "Pending", "0"},
		"running": {func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{status("c", running, 2)}}
		}, "1/1", "Running", "2"},
		"crash": {func(p *corev1.Pod) {
			s := status("c", waiting("CrashLoopBackOff"), 3)
			s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(time.Now().Add(-5*time.Minute - time.Second))}
			p.Status = corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{s}}
		}, "0/1", "CrashLoopBackOff", "3 (5m1s ago)"},
		"done": {func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: "Succeeded", ContainerStatuses: []corev1.ContainerStatus{status("c", ended("Completed", 0), 0)}}
		}, "0/1", "Completed", "0"},
		"exit code": {func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: "Failed", ContainerStatuses: []corev1.ContainerStatus{status("c", ended("", 3), 0)}}
		}, "0/1", "ExitCode:3", "0"},
		"init": {func(p *corev1.Pod) {
			withInit(p)
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{status("i", ended("Completed", 0), 0), status("j", running, 1)}
		}, "0/1", "Init:1/2", "1"},
		"init error": {func(p *corev1.Pod) {
			withInit(p)
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{status("i", waiting("ImagePullBackOff"), 0)}
		}, "0/1", "Init:ImagePullBackOff", "0"},
		"sidecar": {func(p *corev1.Pod) {
			withInit(p)
			p.Spec.InitContainers = p.Spec.InitContainers[:1]
			p.Spec.InitContainers[0].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
			s := status("i", running, 1)
			s.Started = ptr.To(true)
			p.Status = corev1.PodStatus{Phase: "Running", InitContainerStatuses: []corev1.ContainerStatus{s}, ContainerStatuses: []corev1.ContainerStatus{status("c", running, 2)}}
		}, "2/2", "Running", "3"},
		"gated": {func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}; preparePod(p) }, "0/1", "SchedulingGated", "0"},
		"terminating": {func(p *corev1.Pod) {
			p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			p.Status = corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{status("c", running, 0)}}
		}, "1/1", "Terminating", "0"},
		"node lost": {func(p *corev1.Pod) {
			p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			p.Status.Reason = "NodeLost"
		}, "0/1", "Unknown", "0"},
		"evicted": {func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: "Failed", Reason: "Evicted"} }, "0/1", "Evicted", "0"},
		"half ready": {func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "x:1"})
			p.Status = corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{status("c", ended("Completed", 0), 0), status("d", running, 0)}}
		}, "1/2", "NotReady", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			cells := podCells(aPod(c.change))
			if cells[1] != c.ready || cells[2] != c.reason || cells[3] != c.restarts {
				t.Errorf("got %v, want %s %s %s", cells[1:4], c.ready, c.reason, c.restarts)
			}
		})
	}
}

func TestMergeLabelKeys(t *testing.T) {
	pod := aPod(func(p *corev1.Pod) {
		p.Labels = map[string]string{"hash": "1"}
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}, MatchLabelKeys: []string{"hash", "absent"},
		}}
	})
	preparePod(pod)
	got := metav1.FormatLabelSelector(pod.Spec.TopologySpreadConstraints[0].LabelSelector)
	if want := "app=a,hash in (1)"; got != want {
		t.Errorf("selector is %q, want %q", got, want)
	}
	check(t, validatePodCreate(pod))
}

func TestPodWarnings(t *testing.T) {
	pod := aPod(func(p *corev1.Pod) {
		p.Name = "a.b"
		p.Spec.NodeSelector = map[string]string{"beta.kubernetes.io/os": "linux"}
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 1}, {ContainerPort: 1}}
		p.Spec.Volumes = []corev1.Volume{{Name: "g", VolumeSource: corev1.VolumeSource{GitRepo: &corev1.GitRepoVolumeSource{}}}}
	})
	got := podWarnings(t.Context(), pod, nil)
	want := []string{
		"metadata.name: this is used in the Pod's hostname",
		`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
		"spec.volumes[0].gitRepo: deprecated in v1.11",
		`spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`,
		"spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
	}
	if len(got) != len(want) {
		t.Fatalf("%d warnings, want %d: %q", len(got), len(want), got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("warning %q, want %q", got[i], want[i])
		}
	}
	if w := podWarnings(t.Context(), pod, pod); len(w) > 0 {
		t.Errorf("an update is warned of: %q", w)
	}
}
