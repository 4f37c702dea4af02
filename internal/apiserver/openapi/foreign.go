package openapi

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/internal/apiserver/aggregate"
)

// foreignV3 is what another server says of its group version: nothing while it
// does not answer. Servers that do not speak version 3 are asked in version 2.
func foreignV3(e *aggregate.Extension) *spec3.OpenAPI {
	empty := &spec3.OpenAPI{Version: "3.0.0", Info: &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: "unversioned"}}}
	if _, stale := e.Resources(); stale {
		return empty
	}
	doc := &spec3.OpenAPI{}
	data, err := e.Get(context.Background(), "/openapi/v3/"+pathOf(e.GroupVersion), "application/json")
	if err == nil && json.Unmarshal(data, doc) == nil {
		return doc
	}
	if old, err := foreignV2(e); err == nil {
		return openapiconv.ConvertV2ToV3(old)
	}
	return empty
}

// foreignV2 is the part of another server's description that is about its group
// version.
func foreignV2(e *aggregate.Extension) (*spec.Swagger, error) {
	if _, stale := e.Resources(); stale {
		return nil, fmt.Errorf("%s does not answer", e.GroupVersion)
	}
	data, err := e.Get(context.Background(), "/openapi/v2", "application/json")
	if err != nil {
		return nil, err
	}
	doc := &spec.Swagger{}
	if err := json.Unmarshal(data, doc); err != nil {
		return nil, err
	}
	return aggregator.FilterSpecByPathsWithoutSideEffects(doc, []string{"/" + pathOf(e.GroupVersion) + "/"}), nil
}

// withForeign adds to doc what the other servers say. One that does not answer,
// or whose words contradict ours, is left out.
func withForeign(doc *spec.Swagger, extensions []*aggregate.Extension) (*spec.Swagger, string, error) {
	for _, e := range extensions {
		part, err := foreignV2(e)
		if err != nil {
			continue
		}
		merged := *doc
		if aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(&merged, part) == nil {
			doc = &merged
		}
	}
	return doc, "", nil
}
