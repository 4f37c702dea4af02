package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"
	crclient "sigs.k8s.io/controller-runtime/pkg/client"
)

// defaultWindow is that of custom metrics that do not say theirs.
const defaultWindow = time.Minute

// source is where metrics come from: what pods use from the metrics API, all
// others from whoever serves the custom and external metrics APIs.
type source struct {
	client   crclient.Client
	adapters func() (*adapters, error)
}

// adapters are clients of APIs that other servers serve.
type adapters struct {
	versions custom_metrics.AvailableAPIsGetter
	custom   custom_metrics.CustomMetricsClient
	external external_metrics.ExternalMetricsClient
}

func newSource(c crclient.Client, config *rest.Config) *source {
	return &source{client: c, adapters: sync.OnceValues(func() (*adapters, error) {
		if config == nil {
			return nil, errors.New("this controller cannot reach other servers' metrics APIs")
		}
		found, err := discovery.NewDiscoveryClientForConfig(config)
		if err != nil {
			return nil, err
		}
		a := &adapters{versions: custom_metrics.NewAvailableAPIsGetter(found)}
		a.custom = custom_metrics.NewForConfig(config, c.RESTMapper(), a.versions)
		a.external, err = external_metrics.NewForConfig(config)
		return a, err
	})}
}

// usage returns what each pod uses of a resource; container narrows that to
// one container.
func (s *source) usage(ctx context.Context, name corev1.ResourceName, namespace string, selector labels.Selector, container string) (measurements, error) {
	var list metricsv1beta1.PodMetricsList
	if err := s.client.List(ctx, &list, crclient.InNamespace(namespace), crclient.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	values := measurements{}
	for i := range list.Items {
		m := &list.Items[i]
		value, known := sumOf(m, name, container)
		if !known && container != "" {
			return nil, fmt.Errorf("container %s not present in metrics for pod %s/%s", container, m.Namespace, m.Name)
		}
		if known {
			values[m.Name] = measured{value: value, at: m.Timestamp.Time, window: m.Window.Duration}
		}
	}
	return values, nil
}

// sumOf sums the usage of the pod's containers, all of which must be known.
func sumOf(m *metricsv1beta1.PodMetrics, name corev1.ResourceName, container string) (sum int64, known bool) {
	for i := range m.Containers {
		if container != "" && m.Containers[i].Name != container {
			continue
		}
		q, ok := m.Containers[i].Usage[name]
		if !ok {
			return 0, false
		}
		sum, known = sum+q.MilliValue(), true
	}
	return sum, known
}

// pods returns the values of a custom metric of pods.
func (s *source) pods(name, namespace string, selector, of labels.Selector) (measurements, error) {
	a, err := s.adapters()
	if err != nil {
		return nil, err
	}
	list, err := a.custom.NamespacedMetrics(namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, selector, name, of)
	if err != nil {
		a.versions.Invalidate()
		return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from custom metrics API")
	}
	values := measurements{}
	for i := range list.Items {
		m := &list.Items[i]
		window := defaultWindow
		if m.WindowSeconds != nil {
			window = time.Duration(*m.WindowSeconds) * time.Second
		}
		values[m.DescribedObject.Name] = measured{value: m.Value.MilliValue(), at: m.Timestamp.Time, window: window}
	}
	return values, nil
}

// object returns the value of a custom metric of one object.
func (s *source) object(name, namespace string, ref *autoscalingv2.CrossVersionObjectReference, of labels.Selector) (int64, error) {
	a, err := s.adapters()
	if err != nil {
		return 0, err
	}
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
	getter := a.custom.NamespacedMetrics(namespace)
	if kind == (schema.GroupKind{Kind: "Namespace"}) || !s.namespaced(kind) {
		getter = a.custom.RootScopedMetrics()
	}
	m, err := getter.GetForObject(kind, ref.Name, name, of)
	if err != nil {
		a.versions.Invalidate()
		return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	return m.Value.MilliValue(), nil
}

func (s *source) namespaced(kind schema.GroupKind) bool {
	mapping, err := s.client.RESTMapper().RESTMapping(kind)
	return err != nil || mapping.Scope.Name() == meta.RESTScopeNameNamespace
}

// external returns the sum of the values of an external metric.
func (s *source) external(name, namespace string, of labels.Selector) (int64, error) {
	a, err := s.adapters()
	if err != nil {
		return 0, err
	}
	list, err := a.external.NamespacedMetrics(namespace).List(name, of)
	if err != nil {
		return 0, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return 0, errors.New("no metrics returned from external metrics API")
	}
	sum := int64(0)
	for i := range list.Items {
		sum += list.Items[i].Value.MilliValue()
	}
	return sum, nil
}
