// Package unversioned shows values of API types as upstream's messages do.
// Upstream validates types of its own that have no version: their fields have
// Go names, an order of their own, and none is left out when it is empty. The
// types of package metav1 are the same there as here.
package unversioned

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// fields are those of the types that have other fields, or the same in another
// order, without version. A field that the versioned type lacks is null.
var fields = map[reflect.Type]string{
	reflect.TypeFor[admissionregistrationv1.ValidatingAdmissionPolicySpec](): "ParamKind MatchConstraints Validations MatchConditions FailurePolicy AuditAnnotations Variables",
	reflect.TypeFor[apiextensionsv1.JSONSchemaProps](): "ID Schema Ref Description Type Nullable Format Title Default Maximum ExclusiveMaximum Minimum ExclusiveMinimum " +
		"MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Enum MaxProperties MinProperties Required Items AllOf OneOf AnyOf Not " +
		"Properties AdditionalProperties PatternProperties Dependencies AdditionalItems Definitions ExternalDocs Example " +
		"XPreserveUnknownFields XEmbeddedResource XIntOrString XListMapKeys XListType XMapType XValidations",
	reflect.TypeFor[appsv1.DeploymentSpec]():                       "Replicas Selector Template Strategy MinReadySeconds RevisionHistoryLimit Paused RollbackTo ProgressDeadlineSeconds",
	reflect.TypeFor[autoscalingv2.ContainerResourceMetricSource](): "Name Container Target",
	reflect.TypeFor[autoscalingv2.ContainerResourceMetricStatus](): "Name Container Current",
	reflect.TypeFor[batchv1.JobSpec](): "Parallelism Completions PodFailurePolicy SuccessPolicy ActiveDeadlineSeconds BackoffLimit BackoffLimitPerIndex MaxFailedIndexes " +
		"Selector ManualSelector Template TTLSecondsAfterFinished CompletionMode Suspend PodReplacementPolicy ManagedBy",
	reflect.TypeFor[batchv1.JobStatus](): "Conditions StartTime CompletionTime Active Terminating Ready Succeeded Failed CompletedIndexes FailedIndexes UncountedTerminatedPods",
	reflect.TypeFor[corev1.NodeSpec]():   "PodCIDRs ProviderID Unschedulable Taints ConfigSource DoNotUseExternalID",
	reflect.TypeFor[corev1.PersistentVolumeSource](): "GCEPersistentDisk AWSElasticBlockStore HostPath Glusterfs NFS RBD Quobyte ISCSI FlexVolume Cinder CephFS FC Flocker " +
		"AzureFile VsphereVolume AzureDisk PhotonPersistentDisk PortworxVolume ScaleIO Local StorageOS CSI",
	reflect.TypeFor[podSecurityContext](): "HostNetwork HostPID HostIPC ShareProcessNamespace HostUsers SELinuxOptions WindowsOptions RunAsUser RunAsGroup RunAsNonRoot " +
		"SupplementalGroups SupplementalGroupsPolicy FSGroup FSGroupChangePolicy Sysctls SeccompProfile AppArmorProfile SELinuxChangePolicy",
	reflect.TypeFor[corev1.PodSpec](): "Volumes InitContainers Containers EphemeralContainers RestartPolicy TerminationGracePeriodSeconds ActiveDeadlineSeconds DNSPolicy " +
		"NodeSelector ServiceAccountName AutomountServiceAccountToken NodeName SecurityContext ImagePullSecrets Hostname Subdomain SetHostnameAsFQDN Affinity SchedulerName " +
		"Tolerations HostAliases PriorityClassName Priority PreemptionPolicy DNSConfig ReadinessGates RuntimeClassName Overhead EnableServiceLinks TopologySpreadConstraints " +
		"OS SchedulingGates ResourceClaims Resources HostnameOverride SchedulingGroup",
	reflect.TypeFor[corev1.PodStatus](): "ObservedGeneration Phase Conditions Message Reason NominatedNodeName HostIP HostIPs PodIPs StartTime QOSClass InitContainerStatuses " +
		"ContainerStatuses EphemeralContainerStatuses Resize ResourceClaimStatuses ExtendedResourceClaimStatus AllocatedResources Resources NodeAllocatableResourceClaimStatuses",
	reflect.TypeFor[corev1.ServiceSpec](): "Type Ports Selector ClusterIP ClusterIPs IPFamilies IPFamilyPolicy ExternalName ExternalIPs LoadBalancerIP SessionAffinity " +
		"SessionAffinityConfig LoadBalancerSourceRanges ExternalTrafficPolicy HealthCheckNodePort PublishNotReadyAddresses AllocateLoadBalancerNodePorts LoadBalancerClass " +
		"InternalTrafficPolicy TrafficDistribution",
	reflect.TypeFor[corev1.VolumeSource](): "HostPath EmptyDir GCEPersistentDisk AWSElasticBlockStore GitRepo Secret NFS ISCSI Glusterfs PersistentVolumeClaim RBD Quobyte " +
		"FlexVolume Cinder CephFS Flocker DownwardAPI FC AzureFile ConfigMap VsphereVolume AzureDisk PhotonPersistentDisk Projected PortworxVolume ScaleIO StorageOS CSI " +
		"Ephemeral Image",
	reflect.TypeFor[storagev1.CSIDriverSpec](): "AttachRequired FSGroupPolicy PodInfoOnMount VolumeLifecycleModes StorageCapacity TokenRequests RequiresRepublish SELinuxMount " +
		"NodeAllocatableUpdatePeriodSeconds ServiceAccountTokenInSecrets PreventPodSchedulingIfMissing",
}

// numbers are the fields that are numbers there, not pointers to them.
var numbers = map[reflect.Type]string{reflect.TypeFor[appsv1.RollingUpdateStatefulSetStrategy](): "Partition"}

// podSecurityContext is a pod's security context, to which belongs there what
// the pod shares with its host.
type podSecurityContext struct {
	*corev1.PodSecurityContext
	HostNetwork, HostPID, HostIPC    bool
	ShareProcessNamespace, HostUsers *bool
}

// Errors shows the values of errs as upstream does.
func Errors(errs field.ErrorList) field.ErrorList {
	for i, e := range errs {
		if v := reflect.ValueOf(e.BadValue); v.IsValid() && versioned(v.Type()) {
			shown := *e
			shown.BadValue = Value(e.BadValue)
			errs[i] = &shown
		}
	}
	return errs
}

// Value returns what is v in JSON, with upstream's names.
func Value(v any) json.RawMessage {
	var b bytes.Buffer
	if err := write(&b, reflect.ValueOf(v)); err != nil {
		return json.RawMessage(fmt.Sprintf("%q", err))
	}
	return b.Bytes()
}

// Diff shows how two values differ, line by line.
func Diff(old, now any) string { return diff.Diff(Value(old), Value(now)) }

// versioned reports whether values of the type are, or consist of, structs of
// API versions.
func versioned(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return versioned(t.Elem())
	case reflect.Struct:
		return t == reflect.TypeFor[podSecurityContext]() || !t.Implements(reflect.TypeFor[json.Marshaler]()) && !reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()) &&
			(strings.HasPrefix(t.PkgPath(), "k8s.io/api/") || strings.HasPrefix(t.PkgPath(), "k8s.io/apiextensions-apiserver/"))
	}
	return false
}

func write(b *bytes.Buffer, v reflect.Value) error {
	if !v.IsValid() || !versioned(v.Type()) {
		return plain(b, v)
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		return write(b, v.Elem())
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			b.WriteString("null")
			return nil
		}
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := write(b, v.Index(i)); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case reflect.Map:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		b.WriteByte('{')
		for i, k := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(b, "%q:", k.String())
			if err := write(b, v.MapIndex(k)); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	}
	b.WriteByte('{')
	err := members(b, v)
	b.WriteByte('}')
	return err
}

// members writes the fields of a struct without its braces. Those of embedded
// structs are its own.
func members(b *bytes.Buffer, v reflect.Value) error {
	first := b.Len()
	separate := func() {
		if b.Len() > first {
			b.WriteByte(',')
		}
	}
	member := func(name string, f reflect.Value) error {
		separate()
		fmt.Fprintf(b, "%q:", name)
		if !f.IsValid() {
			b.WriteString("null")
			return nil
		}
		return write(b, f)
	}
	if spec, ok := v.Interface().(corev1.PodSpec); ok {
		context := podSecurityContext{spec.SecurityContext, spec.HostNetwork, spec.HostPID, spec.HostIPC, spec.ShareProcessNamespace, spec.HostUsers}
		if context.PodSecurityContext == nil {
			context.PodSecurityContext = &corev1.PodSecurityContext{}
		}
		for name := range strings.FieldsSeq(fields[v.Type()]) {
			f := v.FieldByName(name)
			if name == "SecurityContext" {
				f = reflect.ValueOf(context)
			}
			if err := member(name, f); err != nil {
				return err
			}
		}
		return nil
	}
	if names, ok := fields[v.Type()]; ok {
		for name := range strings.FieldsSeq(names) {
			if err := member(name, v.FieldByName(name)); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.Anonymous {
			value := v.Field(i)
			if f.Name == numbers[v.Type()] && value.IsNil() {
				value = reflect.New(f.Type.Elem())
			}
			if err := member(f.Name, value); err != nil {
				return err
			}
			continue
		}
		var embedded bytes.Buffer
		var err error
		if versioned(f.Type) {
			err = members(&embedded, v.Field(i))
		} else if err = plain(&embedded, v.Field(i)); err == nil {
			embedded.Next(1)
			embedded.Truncate(embedded.Len() - 1)
		}
		if err != nil {
			return err
		}
		if embedded.Len() > 0 {
			separate()
			b.Write(embedded.Bytes())
		}
	}
	return nil
}

// plain writes what is the same there as here.
func plain(b *bytes.Buffer, v reflect.Value) error {
	if !v.IsValid() {
		b.WriteString("null")
		return nil
	}
	js, err := json.Marshal(v.Interface())
	b.Write(js)
	return err
}
