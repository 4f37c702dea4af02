package crd_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"skiff/internal/cluster/testcluster"
)

// BenchmarkThousandDefinitions measures what a thousand definitions, each with
// a schema of a hundred fields, cost:
//
//	go test -run '^$' -bench Thousand -benchtime 1x ./internal/apiserver/crd
func BenchmarkThousandDefinitions(b *testing.B) {
	const count = 1000
	c := testcluster.Start(b)
	ctx := b.Context()
	template := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.Unmarshal([]byte(boats), template); err != nil {
		b.Fatal(err)
	}
	fields := template.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties
	for i := range 100 {
		fields[fmt.Sprintf("field%d", i)] = apiextensionsv1.JSONSchemaProps{Type: "string", Description: strings.Repeat("what this field is for ", 5), MaxLength: new(int64)}
	}
	w, err := c.Client.Watch(ctx, &apiextensionsv1.CustomResourceDefinitionList{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	for b.Loop() {
		before := heap()
		begun, took := make(map[string]time.Time, count), make([]time.Duration, 0, count)
		start := time.Now()
		for i := range count {
			// Ten to a group, as it is with operators.
			d := template.DeepCopy()
			name := fmt.Sprintf("boats%d", i)
			d.Spec.Group = fmt.Sprintf("g%d.example.com", i/10)
			d.Name, d.Spec.Names.Plural, d.Spec.Names.Kind, d.Spec.Names.ShortNames = name+"."+d.Spec.Group, name, fmt.Sprintf("Boat%d", i), nil
			begun[d.Name] = time.Now()
			if err := c.Client.Create(ctx, d); err != nil {
				b.Fatal(err)
			}
			took = append(took, established(b, w.ResultChan(), begun[d.Name], d.Name))
		}
		all := time.Since(start)
		slices.Sort(took)
		b.ReportMetric(float64(all.Milliseconds()), "ms-all")
		b.ReportMetric(float64(took[count/2].Microseconds())/1000, "ms-established-p50")
		b.ReportMetric(float64(took[count*99/100].Microseconds())/1000, "ms-established-p99")
		b.ReportMetric(float64(heap()-before)/count/1024, "KiB-heap/definition")
		b.ReportMetric(elapsed(func() { create(b, ctx, c.Client, 1) }), "ms-first-object")
		b.ReportMetric(elapsed(func() { create(b, ctx, c.Client, 1) }), "ms-second-object")
		b.ReportMetric(elapsed(func() {
			if _, err := c.PreferredResources(ctx); err != nil {
				b.Fatal(err)
			}
		}), "ms-discovery")
		unpublished := heap()
		b.ReportMetric(elapsed(func() { fetch(b, c, "/openapi/v3") }), "ms-openapi-first")
		b.ReportMetric(float64(heap()-unpublished)/count/1024, "KiB-openapi/definition")
		one := &apiextensionsv1.CustomResourceDefinition{}
		if err := c.Client.Get(ctx, client.ObjectKey{Name: "boats0.g0.example.com"}, one); err != nil {
			b.Fatal(err)
		}
		one.Spec.Versions[0].Schema.OpenAPIV3Schema.Description = "changed"
		if err := c.Client.Update(ctx, one); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(elapsed(func() { fetch(b, c, "/openapi/v3") }), "ms-openapi-after-change")
		b.ReportMetric(elapsed(func() { fetch(b, c, "/openapi/v2") }), "ms-openapi-v2-first")
		b.ReportMetric(float64(heap()-unpublished)/count/1024, "KiB-openapi-v2/definition")
		one.Spec.Versions[0].Schema.OpenAPIV3Schema.Description = "changed again"
		if err := c.Client.Update(ctx, one); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(elapsed(func() { fetch(b, c, "/openapi/v2") }), "ms-openapi-v2-after-change")
	}
}

func established(b *testing.B, events <-chan watch.Event, begun time.Time, name string) time.Duration {
	for ev := range events {
		d, ok := ev.Object.(*apiextensionsv1.CustomResourceDefinition)
		if !ok || d.Name != name {
			continue
		}
		for _, condition := range d.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return time.Since(begun)
			}
		}
	}
	b.Fatal("the watch ended")
	return 0
}

func create(b *testing.B, ctx context.Context, c client.Client, i int) {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("g0.example.com/v1")
	u.SetKind(fmt.Sprintf("Boat%d", i))
	u.SetNamespace("default")
	u.SetGenerateName("x-")
	if err := c.Create(ctx, u); err != nil {
		b.Fatal(err)
	}
}

func fetch(b *testing.B, c *testcluster.Cluster, path string) {
	h, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		b.Fatal(err)
	}
	resp, err := h.Get(c.Config.Host + path)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		b.Fatal(resp.Status, err)
	}
}

func elapsed(f func()) float64 {
	start := time.Now()
	f()
	return float64(time.Since(start).Microseconds()) / 1000
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
