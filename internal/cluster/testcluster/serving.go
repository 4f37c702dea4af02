package testcluster

import (
	"testing"

	"skiff/internal/apiserver/features"
	"skiff/internal/apiserver/runtimeconfig"
	"skiff/internal/cluster"
)

// StartServing starts an API server with what the flag --runtime-config says,
// and with features that are off by default.
func StartServing(t testing.TB, flag string, on ...string) *Cluster {
	t.Helper()
	c := cluster.APIConfig{RuntimeConfig: runtimeconfig.Config{}, FeatureGates: features.Set{}}
	c.RuntimeConfig.Parse(flag)
	for _, gate := range on {
		c.FeatureGates[gate] = true
	}
	return StartWith(t, cluster.ServerConfig{API: c})
}
