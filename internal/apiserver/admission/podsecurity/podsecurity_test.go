package podsecurity

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

const harmless = `
containers:
- name: a
  securityContext:
    allowPrivilegeEscalation: false
    runAsNonRoot: true
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
`

func TestEvaluate(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		meta                 metav1.ObjectMeta
		spec                 string
		baseline, restricted string
		version              int
	}{
		{name: "harmless", spec: harmless},
		{
			name: "plain", spec: `{containers: [{name: a}, {name: b}]}`,
			restricted: `allowPrivilegeEscalation != false (containers "a", "b" must set securityContext.allowPrivilegeEscalation=false), ` +
				`unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"]), ` +
				`runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true), ` +
				`seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")`,
		},
		{
			name: "plain, before the checks", version: 7, spec: `{containers: [{name: a}]}`,
			restricted: `runAsNonRoot != true (pod or container "a" must set securityContext.runAsNonRoot=true)`,
		},
		{
			name: "windows", spec: `{os: {name: windows}, containers: [{name: a, securityContext: {runAsNonRoot: true}}]}`,
		},
		{
			name: "host", spec: harmless + "hostNetwork: true\nhostPID: true\nhostIPC: true\nvolumes: [{name: v, hostPath: {path: /}}, {name: net, nfs: {server: s, path: /}}, {name: e, emptyDir: {}}]",
			baseline:   `host namespaces (hostNetwork=true, hostPID=true, hostIPC=true), hostPath volumes (volume "v")`,
			restricted: `host namespaces (hostNetwork=true, hostPID=true, hostIPC=true), restricted volume types (volumes "v", "net" use restricted volume types "hostPath", "nfs")`,
		},
		{
			name: "privileged", spec: `{securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}, initContainers: [{name: i, securityContext: {privileged: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}], containers: []}`,
			baseline:   `privileged (container "i" must not set securityContext.privileged=true)`,
			restricted: `privileged (container "i" must not set securityContext.privileged=true)`,
		},
		{
			name:       "capabilities",
			spec:       `{securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}, containers: [{name: a, securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [SYS_ADMIN, CHOWN, NET_BIND_SERVICE]}}}]}`,
			baseline:   `non-default capabilities (container "a" must not include "SYS_ADMIN" in securityContext.capabilities.add)`,
			restricted: `unrestricted capabilities (container "a" must set securityContext.capabilities.drop=["ALL"]; container "a" must not include "CHOWN", "SYS_ADMIN" in securityContext.capabilities.add)`,
		},
		{
			name:       "ports",
			spec:       `{securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}, containers: [{name: a, ports: [{hostPort: 80}, {hostPort: 81}], securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}`,
			baseline:   `hostPort (container "a" uses hostPorts 80, 81)`,
			restricted: `hostPort (container "a" uses hostPorts 80, 81)`,
		},
		{
			name:       "explicit",
			spec:       `{securityContext: {runAsNonRoot: false, runAsUser: 0, seccompProfile: {type: Unconfined}, sysctls: [{name: kernel.msgmax, value: "1"}, {name: kernel.shm_rmid_forced, value: "0"}], seLinuxOptions: {type: x, user: u}}, containers: [{name: a, securityContext: {procMount: Unmasked, allowPrivilegeEscalation: false, runAsUser: 0, capabilities: {drop: [ALL]}}}]}`,
			baseline:   `procMount (container "a" must not set securityContext.procMount to "Unmasked"), seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "x"; user may not be set), seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined"), forbidden sysctls (kernel.msgmax)`,
			restricted: `procMount (container "a" must not set securityContext.procMount to "Unmasked"), seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "x"; user may not be set), forbidden sysctls (kernel.msgmax), runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod and container "a" must not set runAsUser=0), seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")`,
		},
		{
			name: "app armor", spec: harmless,
			meta:       metav1.ObjectMeta{Annotations: map[string]string{"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}},
			baseline:   `forbidden AppArmor profile (annotation container.apparmor.security.beta.kubernetes.io/a="unconfined")`,
			restricted: `forbidden AppArmor profile (annotation container.apparmor.security.beta.kubernetes.io/a="unconfined")`,
		},
		{
			name:     "probe host",
			spec:     `{containers: [{name: a, livenessProbe: {httpGet: {host: 10.0.0.1, port: 80}}}]}`,
			baseline: `probe or lifecycle host (container "a" uses probe or lifecycle host "10.0.0.1")`, restricted: "-",
		},
		{name: "probe host, before the check", version: 33, spec: `{containers: [{name: a, livenessProbe: {httpGet: {host: 10.0.0.1, port: 80}}}]}`, restricted: "-"},
		{
			name: "host process", spec: `{os: {name: windows}, containers: [{name: a, securityContext: {runAsNonRoot: true, windowsOptions: {hostProcess: true}}}]}`,
			baseline:   `hostProcess (container "a" must not set securityContext.windowsOptions.hostProcess=true)`,
			restricted: `hostProcess (container "a" must not set securityContext.windowsOptions.hostProcess=true)`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var spec corev1.PodSpec
			if err := yaml.UnmarshalStrict([]byte(tt.spec), &spec); err != nil {
				t.Fatal(err)
			}
			version := tt.version
			if version == 0 {
				version = latest
			}
			if got := describe(evaluate(standard{baseline, version}, &tt.meta, &spec)); got != tt.baseline {
				t.Errorf("baseline:\n got %s\nwant %s", got, tt.baseline)
			}
			if got := describe(evaluate(standard{restricted, version}, &tt.meta, &spec)); tt.restricted != "-" && got != tt.restricted {
				t.Errorf("restricted:\n got %s\nwant %s", got, tt.restricted)
			}
			if got := evaluate(standard{privileged, version}, &tt.meta, &spec); got != nil {
				t.Errorf("privileged: %v", got)
			}
		})
	}
}

func TestPolicy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		labels map[string]string
		want   [3]string
		errs   []string
	}{
		{"none", nil, [3]string{"privileged:latest", "privileged:latest", "privileged:latest"}, nil},
		{"enforce warns", map[string]string{"enforce": "baseline", "enforce-version": "v1.24"}, [3]string{"baseline:v1.24", "privileged:latest", "baseline:v1.24"}, nil},
		{"warn alone", map[string]string{"warn": "restricted", "warn-version": "latest", "audit": "baseline"}, [3]string{"privileged:latest", "baseline:latest", "restricted:latest"}, nil},
		{"bad level", map[string]string{"enforce": "strict"}, [3]string{"restricted:latest", "privileged:latest", "restricted:latest"}, []string{
			`metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted`}},
		{"bad version", map[string]string{"warn": "baseline", "warn-version": "v1.01"}, [3]string{"privileged:latest", "privileged:latest", "baseline:latest"}, []string{
			`metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "v1.01": must be "latest" or "v1.x"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			labels := map[string]string{}
			for key, value := range tt.labels {
				labels[labelPrefix+key] = value
			}
			p, errs := parsePolicy(labels, open)
			if got := [3]string{p.enforce.String(), p.audit.String(), p.warn.String()}; got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			var texts []string
			for _, err := range errs {
				texts = append(texts, err.Error())
			}
			if !slices.Equal(texts, tt.errs) {
				t.Errorf("errors %q, want %q", texts, tt.errs)
			}
		})
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"latest", "v1.0", "v1.36", "v1.", "v1.-1", "v1.+1", "v2.1", "v1.99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		version, ok := parseVersion(s)
		if !ok && version != latest {
			t.Errorf("%q: a version that cannot be read means the newest, got %d", s, version)
		}
		if ok && version != latest && (standard{privileged, version}).String() != "privileged:"+s {
			t.Errorf("%q is read as %d", s, version)
		}
	})
}

func TestExistingPods(t *testing.T) {
	pod := func(name string, privileged bool) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{HostPID: true, Containers: []corev1.Container{
				{Name: "c", SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(privileged)}}}},
		}
	}
	got := existing("x", standard{baseline, latest}, []corev1.Pod{pod("c", false), pod("b", false), pod("a", true), pod("d", false)})
	want := []string{
		`existing pods in namespace "x" violate the new PodSecurity enforce level "baseline:latest"`,
		`a: host namespaces, privileged`,
		`b (and 2 other pods): host namespaces`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := existing("x", standard{privileged, latest}, []corev1.Pod{pod("a", true)}); got != nil {
		t.Errorf("got %q", got)
	}
}

func TestSignificantUpdates(t *testing.T) {
	old := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "x"}}}}
	for name, tt := range map[string]struct {
		change func(p *corev1.Pod)
		want   bool
	}{
		"nothing":     {func(*corev1.Pod) {}, false},
		"labels":      {func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, false},
		"tolerations": {func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "x"}} }, false},
		"image":       {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "y" }, true},
		"ephemeral container": {func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{}}
		}, true},
	} {
		pod := old.DeepCopy()
		tt.change(pod)
		if got := significant(old, pod); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
