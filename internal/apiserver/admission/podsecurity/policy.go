package podsecurity

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// level is how much a standard forbids.
type level int

const (
	privileged level = iota
	baseline
	restricted
)

func (l level) String() string { return [...]string{"privileged", "baseline", "restricted"}[l] }

// latest is the minor version that stands for "the newest".
const latest = math.MaxInt

// standard is a level as it was in a minor version of Kubernetes.
type standard struct {
	level   level
	version int
}

func (s standard) String() string {
	if s.version == latest {
		return s.level.String() + ":latest"
	}
	return fmt.Sprintf("%s:v1.%d", s.level, s.version)
}

// policy is what a namespace's labels say.
type policy struct{ enforce, audit, warn standard }

const labelPrefix = "pod-security.kubernetes.io/"

// open is the policy that forbids nothing.
var open = policy{standard{privileged, latest}, standard{privileged, latest}, standard{privileged, latest}}

// parsePolicy reads the labels on top of a policy. One that cannot be read
// means the strictest; a namespace that only enforces also warns.
func parsePolicy(labels map[string]string, p policy) (_ policy, errs field.ErrorList) {
	path := field.NewPath("metadata", "labels")
	read := func(mode string, into *standard) (hasLevel, hasVersion bool) {
		var text string
		if text, hasLevel = labels[labelPrefix+mode]; hasLevel {
			switch text {
			case "privileged":
				into.level = privileged
			case "baseline":
				into.level = baseline
			case "restricted":
				into.level = restricted
			default:
				into.level = restricted
				errs = append(errs, field.Invalid(path.Key(labelPrefix+mode), text, "must be one of privileged, baseline, restricted"))
			}
		}
		if text, hasVersion = labels[labelPrefix+mode+"-version"]; hasVersion {
			version, ok := parseVersion(text)
			if !ok {
				errs = append(errs, field.Invalid(path.Key(labelPrefix+mode+"-version"), text, `must be "latest" or "v1.x"`))
			}
			into.version = version
		}
		return hasLevel, hasVersion
	}
	read("enforce", &p.enforce)
	read("audit", &p.audit)
	hasLevel, hasVersion := read("warn", &p.warn)
	if p.enforce.level > p.warn.level && !hasLevel {
		p.warn.level = p.enforce.level
		if !hasVersion {
			p.warn.version = p.enforce.version
		}
	}
	return p, errs
}

func parseVersion(s string) (int, bool) {
	if s == "latest" {
		return latest, true
	}
	if digits, ok := strings.CutPrefix(s, "v1."); ok {
		// Only the canonical form: no sign, no leading zeros.
		if minor, err := strconv.Atoi(digits); err == nil && minor >= 0 && strconv.Itoa(minor) == digits {
			return minor, true
		}
	}
	return latest, false
}

// violation is one thing that a standard forbids, in upstream's words.
type violation struct{ reason, detail string }

// describe joins violations to one text.
func describe(found []violation) (text string) {
	for i, v := range found {
		if i > 0 {
			text += ", "
		}
		text += v.reason
		if v.detail != "" {
			text += " (" + v.detail + ")"
		}
	}
	return text
}

// check looks for one kind of violation.
type check struct {
	level level
	// since is the first minor version that has the check.
	since int
	// instead is the check of baseline that this one of restricted contains.
	instead string
	id      string
	find    func(p *podView) *violation
}

// podView is what the checks look at.
type podView struct {
	meta    *metav1.ObjectMeta
	spec    *corev1.PodSpec
	version int
}

// windows reports whether the pod says that it is for Windows, to which some
// checks do not apply since v1.25.
func (p *podView) windows() bool {
	return p.version >= 25 && p.spec.OS != nil && p.spec.OS.Name == corev1.Windows
}

// evaluate returns all that the standard forbids about the pod: what baseline
// does first, each in the order of the checks' names.
func evaluate(s standard, meta *metav1.ObjectMeta, spec *corev1.PodSpec) (found []violation) {
	if s.level == privileged {
		return nil
	}
	checks := checks()
	contained := map[string]bool{}
	for _, c := range checks {
		if c.instead != "" && s.level >= c.level && s.version >= c.since {
			contained[c.instead] = true
		}
	}
	view := &podView{meta, spec, s.version}
	for _, c := range checks {
		if s.level < c.level || s.version < c.since || contained[c.id] {
			continue
		}
		if v := c.find(view); v != nil {
			found = append(found, *v)
		}
	}
	return found
}

// checks returns all checks in the order in which violations are told.
func checks() []check {
	return []check{
		{level: baseline, id: "appArmorProfile", find: appArmor},
		{level: baseline, id: "capabilities_baseline", find: capabilitiesBaseline},
		{level: baseline, id: "hostNamespaces", find: hostNamespaces},
		{level: baseline, id: "hostPathVolumes", find: hostPath},
		{level: baseline, id: "hostPorts", find: hostPorts},
		{level: baseline, since: 34, id: "hostProbesAndHostLifecycle", find: hostProbes},
		{level: baseline, id: "privileged", find: privilegedContainers},
		{level: baseline, id: "procMount", find: procMount},
		{level: baseline, id: "seLinuxOptions", find: seLinux},
		{level: baseline, since: 19, id: "seccompProfile_baseline", find: seccompBaseline},
		{level: baseline, id: "sysctls", find: sysctls},
		{level: baseline, id: "windowsHostProcess", find: windowsHostProcess},
		{level: restricted, since: 8, id: "allowPrivilegeEscalation", find: allowPrivilegeEscalation},
		{level: restricted, since: 22, id: "capabilities_restricted", instead: "capabilities_baseline", find: capabilitiesRestricted},
		{level: restricted, id: "restrictedVolumes", instead: "hostPathVolumes", find: restrictedVolumes},
		{level: restricted, id: "runAsNonRoot", find: runAsNonRoot},
		{level: restricted, since: 23, id: "runAsUser", find: runAsUser},
		{level: restricted, since: 19, id: "seccompProfile_restricted", instead: "seccompProfile_baseline", find: seccompRestricted},
	}
}
