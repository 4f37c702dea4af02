// Package remote binds components to an API server on another machine: HTTP/2
// and protobuf, with informers for what they read often.
package remote

import (
	"context"
	"fmt"
	"log/slog"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	skiffclient "skiff/internal/client"
)

const protobuf = "application/vnd.kubernetes.protobuf"

// Options narrow what a remote component keeps in memory.
type Options struct {
	// ByObject restricts informers, for instance to one node's pods.
	ByObject map[client.Object]cache.ByObject
}

// Connect returns a view of the cluster that config reaches, until ctx ends.
func Connect(ctx context.Context, config *rest.Config, scheme *runtime.Scheme, o Options, log *slog.Logger) (skiffclient.Set, error) {
	config = rest.CopyConfig(config)
	config.ContentType = protobuf
	config.AcceptContentTypes = protobuf + ",application/json"
	if config.QPS == 0 {
		// The server decides who has to wait (API Priority and Fairness).
		config.QPS = -1
	}
	hc, err := rest.HTTPClientFor(config)
	if err != nil {
		return skiffclient.Set{}, fmt.Errorf("connecting to %s: %w", config.Host, err)
	}
	mapper, err := apiutil.NewDynamicRESTMapper(config, hc)
	if err != nil {
		return skiffclient.Set{}, fmt.Errorf("connecting to %s: %w", config.Host, err)
	}
	c, err := client.NewWithWatch(config, client.Options{HTTPClient: hc, Scheme: scheme, Mapper: mapper})
	if err != nil {
		return skiffclient.Set{}, fmt.Errorf("connecting to %s: %w", config.Host, err)
	}
	informers, err := cache.New(config, cache.Options{HTTPClient: hc, Scheme: scheme, Mapper: mapper, ByObject: o.ByObject})
	if err != nil {
		return skiffclient.Set{}, fmt.Errorf("connecting to %s: %w", config.Host, err)
	}
	go func() {
		if err := informers.Start(ctx); err != nil && ctx.Err() == nil {
			log.Error("the informers stopped", "error", err)
		}
	}()
	return skiffclient.Set{Client: c, Cache: informers, Recorder: skiffclient.Recorders(ctx, c, log)}, nil
}
