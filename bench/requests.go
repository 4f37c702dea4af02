package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

const namespace = "bench"

func collection(resource string) string { return "/api/v1/namespaces/" + namespace + "/" + resource }

// measureCreate makes objects from 64 clients; every answer tells that the
// object is durable.
func measureCreate(ctx context.Context, b *bench) error {
	const clients, n = 64, 20000
	s, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.namespace(ctx, namespace); err != nil {
		return err
	}
	configMaps := func() (time.Duration, error) {
		return s.each(ctx, clients, n, func(ctx context.Context, c *http.Client, i int) error {
			return s.create(ctx, c, collection("configmaps"), newConfigMap(fmt.Sprintf("c-%06d", i)))
		})
	}
	pods := func() (time.Duration, error) { return s.createPods(ctx, clients, n, nobody) }
	for _, m := range []struct {
		what     string
		make     func() (time.Duration, error)
		upstream float64
	}{{"configmaps", configMaps, upstreamConfigMaps}, {"pods", pods, upstreamPods}} {
		before, err := s.usage()
		if err != nil {
			return err
		}
		took, err := m.make()
		if err != nil {
			return err
		}
		after, err := s.usage()
		if err != nil {
			return err
		}
		b.report(figure{"create " + m.what + ", 64 clients", n / took.Seconds(), "/s", m.upstream, false})
		b.report(figure{"  processor time of the server for each", float64((after.cpu - before.cpu).Microseconds()) / n, "µs", 0, true})
	}
	return nil
}

func (a *api) createPods(ctx context.Context, clients, n int, scheduler string) (time.Duration, error) {
	return a.each(ctx, clients, n, func(ctx context.Context, c *http.Client, i int) error {
		return a.create(ctx, c, collection("pods"), newPod(fmt.Sprintf("p-%06d", i), scheduler))
	})
}

// measureList reads 10,000 pods again and again from one client, which throws
// the bytes away: consistent reads, without resourceVersion.
func measureList(ctx context.Context, b *bench) error {
	const pods, settle, span = 10000, 15 * time.Second, 5 * time.Second
	s, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.namespace(ctx, namespace); err != nil {
		return err
	}
	if err := wait(ctx, settle); err != nil {
		return err
	}
	before, err := s.usage()
	if err != nil {
		return err
	}
	if _, err := s.createPods(ctx, 16, pods, nobody); err != nil {
		return err
	}
	if err := wait(ctx, settle); err != nil {
		return err
	}
	after, err := s.usage()
	if err != nil {
		return err
	}
	b.report(figure{"memory for each stored pod, resident", (after.resident - before.resident) / pods / 1e3, "kB", upstreamPerPod, true})
	b.report(figure{"memory for each stored pod, anonymous", (after.anonymous - before.anonymous) / pods / 1e3, "kB", 0, true})

	c := s.client()
	defer c.CloseIdleConnections()
	for _, form := range []struct {
		name, media string
		upstream    float64
	}{{"protobuf", mediaProtobuf, upstreamProtobuf}, {"JSON", mediaJSON, upstreamJSON}, {"Table", mediaTable, 0}} {
		lists, size := 0, int64(0)
		var first time.Duration
		began := time.Now()
		for time.Since(began) < span+first {
			body, err := s.open(ctx, c, request{method: http.MethodGet, path: collection("pods"), accept: form.media})
			if err != nil {
				return err
			}
			size, err = io.Copy(io.Discard, body)
			body.Close()
			if err != nil {
				return err
			}
			if first == 0 {
				first = time.Since(began)
				continue
			}
			lists++
		}
		if size < pods*100 {
			return fmt.Errorf("the LIST in %s holds only %d bytes: that cannot be %d pods", form.name, size, pods)
		}
		b.report(figure{"LIST of 10,000 pods, " + form.name, float64(lists) / (time.Since(began) - first).Seconds(), "/s", form.upstream, false})
		b.report(figure{"  the first one, which encodes them", milliseconds(first), "ms", 0, true})
		b.report(figure{"  bytes", float64(size) / 1e6, "MB", 0, true})
	}
	return nil
}
