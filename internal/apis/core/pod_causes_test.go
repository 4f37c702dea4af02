package core

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestPodCauses holds what pods of rarer kinds are refused for.
func TestPodCauses(t *testing.T) {
	container := func(change func(*corev1.Container)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }
	}
	amounts := func(cpu string) corev1.ResourceList { return corev1.ResourceList{"cpu": resource.MustParse(cpu)} }
	system := func(name corev1.OSName, change func(*corev1.Pod)) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.OS = &corev1.PodOS{Name: name}
			change(p)
		}
	}
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"user namespace": {func(p *corev1.Pod) {
			p.Spec.HostUsers, p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = ptr.To(false), true, true, true
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
			p.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "v", DevicePath: "/d"}}
		}, []string{
			"spec.hostNetwork: Forbidden: when `hostUsers` is false",
			"spec.HostPID: Forbidden: when `hostUsers` is false",
			"spec.HostIPC: Forbidden: when `hostUsers` is false",
			"spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false",
		}},
		"system without name": {system("", func(*corev1.Pod) {}), []string{"spec.os.name: Required value"}},
		"host name": {func(p *corev1.Pod) {
			p.Spec.HostnameOverride, p.Spec.HostNetwork, p.Spec.SetHostnameAsFQDN = ptr.To("h"), true, ptr.To(true)
		}, []string{
			"spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
			"spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
		}},
		"rules of a sidecar": {func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "s", Image: "x", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways),
				RestartPolicyRules: []corev1.ContainerRestartRule{{}}}}
		}, []string{
			`spec.initContainers[0].restartPolicyRules[0].action: Unsupported value: "": supported values: "Restart", "RestartAllContainers"`,
			"spec.initContainers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
		}},
		"comparing toleration": {func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: "Gt", Value: "1"}, {Key: "a", Operator: "In", Value: "1"}}
		}, []string{
			`spec.tolerations[0].operator: Unsupported value: "Gt": supported values: "Equal", "Exists", "Lt", "Gt"`,
			`spec.tolerations[1].operator: Unsupported value: "In": supported values: "Equal", "Exists"`,
		}},
		"recursive": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v"}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", RecursiveReadOnly: ptr.To[corev1.RecursiveReadOnlyMode]("Often")}}
		}, []string{`spec.containers[0].volumeMounts.recursiveReadOnly: Unsupported value: "Often": supported values: "Disabled", "Enabled", "IfPossible"`}},
		"file of no volume": {container(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "a.b", Path: "f", Key: strings.Repeat("k", 129)}}}}
		}), []string{
			`spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Invalid value: "a.b": must not contain dots`,
			`spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Not found: "a.b"`,
		}},
		"whole pod's resources": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: amounts("2"), Limits: amounts("4")}
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("1"), Limits: amounts("3"), Claims: []corev1.ResourceClaim{}}
		}, []string{
			"spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level",
			`spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2`,
			`spec.resources.containers[0][cpu].limits: Invalid value: "4": must be less than or equal to pod limits of 3`,
		}},
		"whole pod's huge pages": {func(p *corev1.Pod) {
			pages := func(n string) corev1.ResourceList {
				return corev1.ResourceList{"cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse(n)}
			}
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: pages("6Mi")}
			p.Spec.Resources = &corev1.ResourceRequirements{Limits: pages("4Mi")}
		}, []string{
			`spec.resources.requests[hugepages-2Mi]: Invalid value: "4Mi": must be greater than or equal to aggregate container requests of 6Mi`,
			`spec.resources.limits[hugepages-2Mi]: Invalid value: "4Mi": must be greater than or equal to aggregate container limits of 6Mi`,
			`spec.resources.containers[0][hugepages-2Mi].limits: Invalid value: "6Mi": must be less than or equal to pod limits of 4Mi`,
		}},
		"whole pod's resources on windows": {system("windows", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{}}}
		}),
			[]string{"spec.resources: Forbidden: may not be set for a windows pod"}},
		"keys without selector": {func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "k", WhenUnsatisfiable: "ScheduleAnyway", MatchLabelKeys: []string{"-"}}}
		}, []string{"spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"}},
		"metadata of a claim": {func(p *corev1.Pod) {
			claim := &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1")}},
			}}
			claim.Name, claim.UID = "c", "u"
			p.Spec.Volumes = []corev1.Volume{{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: claim}}}}
		}, []string{
			"spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
			"spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.uID: Forbidden: cannot be set",
		}},
	} {
		t.Run(name, func(t *testing.T) { check(t, validatePodCreate(aPod(c.change)), c.want...) })
	}
}

func TestNegativeGracePeriod(t *testing.T) {
	negative := corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](-3)}
	pod, template := &corev1.Pod{Spec: negative}, &corev1.PodTemplateSpec{Spec: negative}
	defaultPod(pod)
	DefaultPodTemplateSpec(template)
	if *pod.Spec.TerminationGracePeriodSeconds != 1 || *template.Spec.TerminationGracePeriodSeconds != -3 {
		t.Errorf("pod %d, template %d", *pod.Spec.TerminationGracePeriodSeconds, *template.Spec.TerminationGracePeriodSeconds)
	}
}

func TestPodIPsAgree(t *testing.T) {
	ips := func(list ...string) (out []corev1.PodIP) {
		for _, ip := range list {
			out = append(out, corev1.PodIP{IP: ip})
		}
		return out
	}
	for name, c := range map[string]struct {
		ip   string
		ips  []corev1.PodIP
		want string
	}{
		"none":     {"", nil, ""},
		"one":      {"10.0.0.1", nil, "10.0.0.1"},
		"list":     {"", ips("10.0.0.1", "fd00::1"), "10.0.0.1,fd00::1"},
		"same":     {"10.0.0.1", ips("10.0.0.1", "fd00::1"), "10.0.0.1,fd00::1"},
		"disagree": {"10.0.0.2", ips("10.0.0.1", "fd00::1"), "10.0.0.2"},
	} {
		pod := &corev1.Pod{Status: corev1.PodStatus{PodIP: c.ip, PodIPs: c.ips}}
		defaultPod(pod)
		if got := podIPs(pod); got != c.want || pod.Status.PodIP != podIP(pod) {
			t.Errorf("%s: %q and %q, want %q", name, pod.Status.PodIP, got, c.want)
		}
	}
}

func TestPodStatusCauses(t *testing.T) {
	old := aPod(func(p *corev1.Pod) {
		p.Spec.NodeName = "n"
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}, Limits: corev1.ResourceList{"example.com/gpu": resource.MustParse("1")},
			Claims: []corev1.ResourceClaim{{Name: "a"}, {Name: "b", Request: "r"}},
		}
	})
	health := func(name corev1.ResourceName, all ...corev1.ResourceHealth) func(*corev1.PodStatus) {
		return func(s *corev1.PodStatus) {
			s.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResourcesStatus: []corev1.ResourceStatus{{Name: name, Resources: all}}}}
		}
	}
	for name, c := range map[string]struct {
		change func(*corev1.PodStatus)
		want   []string
	}{
		"nothing": {func(*corev1.PodStatus) {}, nil},
		"condition": {func(s *corev1.PodStatus) {
			s.Conditions = []corev1.PodCondition{{Type: "a/b/c", ObservedGeneration: -1}}
		}, []string{
			"status.conditions[0].observedGeneration: Invalid value: -1: must be a non-negative integer",
			`status.conditions[0].Type: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`,
		}},
		"nomination of a bound pod": {func(s *corev1.PodStatus) { s.NominatedNodeName = "m" },
			[]string{"status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"}},
		"host addresses": {func(s *corev1.PodStatus) { s.HostIPs = []corev1.HostIP{{IP: "10.0.0.1"}, {IP: "10.0.0.1"}} }, []string{
			"status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`",
			`status.hostIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.1"}]: may specify no more than one IP for each IP family`,
		}},
		"device":           {health("example.com/gpu", corev1.ResourceHealth{ResourceID: "1", Health: "Healthy"}), nil},
		"claim":            {health("claim:a"), nil},
		"claim's request":  {health("claim:b/r"), nil},
		"another claim":    {health("claim:b"), []string{`status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: "claim:b": must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty`}},
		"another resource": {health("cpu"), []string{`status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: "cpu": must match one of the container's resource requests`}},
		"health of a device": {health("claim:a", corev1.ResourceHealth{ResourceID: "1", Health: "Well"}, corev1.ResourceHealth{ResourceID: "1", Health: "Unknown"}), []string{
			`status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health: Unsupported value: "Well": supported values: "Healthy", "Unhealthy", "Unknown"`,
			`status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID: Duplicate value: "1"`,
		}},
		"device of a debugger": {func(s *corev1.PodStatus) {
			s.EphemeralContainerStatuses = []corev1.ContainerStatus{{AllocatedResourcesStatus: []corev1.ResourceStatus{{}}}}
		}, []string{"status.ephemeralContainerStatuses[0].allocatedResourcesStatus: Forbidden: must not be specified in container status"}},
		"user": {func(s *corev1.PodStatus) {
			s.InitContainerStatuses = []corev1.ContainerStatus{{User: &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: -1, SupplementalGroups: []int64{-2}}}}}
		}, []string{
			"status.initContainerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive",
			"status.initContainerStatuses[0].user.linux.supplementalGroups[0]: Invalid value: -2: must be between 0 and 2147483647, inclusive",
		}},
		"extended claim": {func(s *corev1.PodStatus) {
			s.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{RequestMappings: []corev1.ContainerExtendedResourceRequest{
				{ContainerName: "c", ResourceName: "example.com/gpu", RequestName: "r"}, {ContainerName: "c", ResourceName: "example.com/gpu", RequestName: "r"},
				{ContainerName: "d", ResourceName: "x", RequestName: "s"}, {ContainerName: "c", ResourceName: "x", RequestName: "t"},
			}}
		}, []string{
			`status.extendedResourceClaimStatus.requestMappings[1].containerName: Duplicate value: "c"`,
			`status.extendedResourceClaimStatus.requestMappings[1].resourceName: Duplicate value: "example.com/gpu"`,
			`status.extendedResourceClaimStatus.requestMappings[2].containerName: Invalid value: "d": must match the name of an entry in spec.initContainers.name or spec.containers.name`,
			`status.extendedResourceClaimStatus.requestMappings[3].resourceName: Invalid value: "x": must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests`,
			"status.extendedResourceClaimStatus.resourceClaimName: Required value",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := old.DeepCopy()
			c.change(&pod.Status)
			check(t, validatePodStatus(pod, old), c.want...)
		})
	}
}

// TestContainersThatEnded shows which may run again.
func TestContainersThatEnded(t *testing.T) {
	on := func(operator corev1.ContainerRestartRuleOnExitCodesOperator, action corev1.ContainerRestartRuleAction, codes ...int32) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{Action: action, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: operator, Values: codes}}}
	}
	never := ptr.To(corev1.ContainerRestartPolicyNever)
	for name, c := range map[string]struct {
		pod  corev1.RestartPolicy
		own  *corev1.ContainerRestartPolicy
		rule []corev1.ContainerRestartRule
		code int32
		want bool
	}{
		"always":                   {"Always", nil, nil, 0, true},
		"never":                    {"Never", nil, nil, 1, false},
		"failed":                   {"OnFailure", nil, nil, 1, true},
		"succeeded":                {"OnFailure", nil, nil, 0, false},
		"own policy":               {"Always", never, nil, 1, false},
		"own policy that restarts": {"Never", ptr.To(corev1.ContainerRestartPolicyOnFailure), nil, 1, true},
		"rule":                     {"Never", never, on("In", "Restart", 42), 42, true},
		"rule of other codes":      {"Never", never, on("In", "Restart", 42), 1, false},
		"rule of all other codes":  {"Never", never, on("NotIn", "Restart", 42), 1, true},
		"all containers":           {"Never", never, on("In", "RestartAllContainers", 42), 0, true},
	} {
		old := aPod(func(p *corev1.Pod) {
			p.Spec.RestartPolicy = c.pod
			p.Spec.Containers[0].RestartPolicy, p.Spec.Containers[0].RestartPolicyRules = c.own, c.rule
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: c.code}}}}
		})
		pod := old.DeepCopy()
		pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
		if errs := validatePodStatus(pod, old); (len(errs) == 0) != c.want {
			t.Errorf("%s: runs again: %v", name, errs)
		}
	}
}

// What upstream answers to changes of pods.
func TestPodUpdateCauses(t *testing.T) {
	policy := func(p corev1.PodSELinuxChangePolicy) func(*corev1.Pod) {
		return func(pod *corev1.Pod) { pod.Spec.SecurityContext = &corev1.PodSecurityContext{SELinuxChangePolicy: &p} }
	}
	const changed = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
	for name, c := range map[string]struct {
		was, now func(*corev1.Pod)
		want     []string
	}{
		"no image": {func(*corev1.Pod) {}, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "" },
			[]string{"spec.containers[0].image: Required value", "spec.containers[0].image: Required value"}},
		"first policy": {func(*corev1.Pod) {}, policy("MountOption"),
			[]string{`spec.securityContext.seLinuxChangePolicy: Unsupported value: "MountOption": supported values: "Recursive"`, changed}},
		"another policy": {policy("Recursive"), policy("MountOption"), []string{changed}},
		"unknown policy": {policy("Recursive"), policy("x"),
			[]string{`spec.securityContext.seLinuxChangePolicy: Unsupported value: "x": supported values: "MountOption", "Recursive"`, changed}},
	} {
		t.Run(name, func(t *testing.T) { check(t, validatePodUpdate(aPod(c.now), aPod(c.was)), c.want...) })
	}
}

// What features that upstream has not turned on have in a pod is dropped, but
// its writer owns it.
func TestGatedFieldsArePrepared(t *testing.T) {
	gated := func() *corev1.Pod {
		return aPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{StopSignal: ptr.To(corev1.SIGTERM)}
			p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{}
		})
	}
	dropped := func(p *corev1.Pod) bool {
		return p.Spec.Containers[0].Lifecycle == nil && p.Spec.SchedulingGroup == nil
	}
	r, pod := pods(), gated()
	if r.Default(pod); dropped(pod) {
		t.Error("dropped before owners are known")
	}
	if r.PrepareCreate(t.Context(), pod); !dropped(pod) {
		t.Errorf("created with %+v", pod.Spec)
	}
	pod = gated()
	if r.PrepareUpdate(t.Context(), pod, pod); !dropped(pod) {
		t.Errorf("updated with %+v", pod.Spec)
	}
	template := &corev1.PodTemplateSpec{Spec: gated().Spec}
	if DefaultPodTemplateSpec(template); !dropped(&corev1.Pod{Spec: template.Spec}) {
		t.Errorf("a template with %+v", template.Spec)
	}
}

func TestPreparedPodStatus(t *testing.T) {
	r := pods()
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   corev1.PodQOSClass
	}{
		"no class": {func(p *corev1.Pod) { p.Status.Phase = "Running" }, "BestEffort"},
		"a class":  {func(p *corev1.Pod) { p.Status.QOSClass = "Burstable" }, "Burstable"},
		"of the whole pod": {func(p *corev1.Pod) {
			p.Spec.Resources, p.Spec.Containers[0].Resources.Limits = &corev1.ResourceRequirements{}, corev1.ResourceList{"cpu": resource.MustParse("1")}
		}, "BestEffort"},
	} {
		pod := aPod(c.change)
		pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		r.PrepareCreate(t.Context(), pod)
		if pod.Status.QOSClass != c.want || pod.Status.Phase != corev1.PodPending {
			t.Errorf("%s: %+v", name, pod.Status)
		}
		if pod.Status.Conditions[0].LastTransitionTime.IsZero() {
			t.Errorf("%s: it waits since no time", name)
		}
	}
	pod := aPod(func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{
			VolumeMounts: []corev1.VolumeMountStatus{{Name: "v", VolumeStatus: &corev1.VolumeStatus{}}},
			Resources:    &corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("1n")}},
		}}
	})
	r.Default(pod)
	r.PrepareStatusUpdate(t.Context(), pod, pod.DeepCopy())
	if s := pod.Status.ContainerStatuses[0]; s.VolumeMounts[0].VolumeStatus != nil || s.Resources.Limits.Cpu().String() != "1m" {
		t.Errorf("a container is %+v", s)
	}
}
