package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// frames calls f for each event of a watch in protobuf (WatchEvent messages,
// each behind its length) until the answer ends or f returns false. The bytes
// are valid during the call only.
func frames(r io.Reader, f func(frame []byte) bool) error {
	var head [4]byte
	var frame []byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(head[:])
		if size > 1<<22 {
			return fmt.Errorf("an event of %d bytes", size)
		}
		if int(size) > cap(frame) {
			frame = make([]byte, size)
		}
		frame = frame[:size]
		if _, err := io.ReadFull(r, frame); err != nil {
			return err
		}
		if !f(frame) {
			return nil
		}
	}
}

// eventType returns whether an event is ADDED, MODIFIED …
func eventType(frame []byte) (string, error) {
	var e metav1.WatchEvent
	err := e.Unmarshal(frame)
	return e.Type, err
}

// measureWatch lets 1,000 watchers see the same objects being made, at a rate
// that leaves the machine time for the watchers, which run on it too.
func measureWatch(ctx context.Context, b *bench) error {
	const (
		watchers    = 1000
		connections = 50
		events      = 200
		pause       = 50 * time.Millisecond
		mark        = "delivered-"
	)
	s, err := b.fresh(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.namespace(ctx, namespace); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("not every event has reached every watcher within a minute"))
	defer cancel()
	var sent [events]atomic.Int64
	delays := make([][]time.Duration, watchers)
	failures := make(chan error, watchers)
	var open, over sync.WaitGroup
	open.Add(watchers)
	began := time.Now()
	clients := make([]*http.Client, connections)
	for i := range clients {
		clients[i] = s.client()
		defer clients[i].CloseIdleConnections()
	}
	for w := range watchers {
		over.Go(func() {
			body, err := s.open(ctx, clients[w%connections], request{
				method: http.MethodGet, path: collection("configmaps") + "?watch=true&resourceVersion=0", accept: mediaProtobuf + ";stream=watch",
			})
			open.Done()
			if err != nil {
				failures <- err
				return
			}
			defer body.Close()
			err = frames(body, func(frame []byte) bool {
				at := bytes.Index(frame, []byte(mark))
				if at < 0 || len(frame) < at+len(mark)+6 {
					return true
				}
				i, err := strconv.Atoi(string(frame[at+len(mark) : at+len(mark)+6]))
				if err == nil && i < events {
					delays[w] = append(delays[w], time.Since(began)-time.Duration(sent[i].Load()))
				}
				return len(delays[w]) < events
			})
			if err != nil {
				failures <- err
			}
		})
	}
	open.Wait()
	c := s.client()
	defer c.CloseIdleConnections()
	for i := range events {
		sent[i].Store(int64(time.Since(began)))
		if err := s.create(ctx, c, collection("configmaps"), newConfigMap(fmt.Sprintf("%s%06d", mark, i))); err != nil {
			return err
		}
		if err := wait(ctx, pause); err != nil {
			return context.Cause(ctx)
		}
	}
	over.Wait()
	select {
	case err := <-failures:
		return fmt.Errorf("a watcher failed: %w (%v)", err, context.Cause(ctx))
	default:
	}
	var all []time.Duration
	for _, d := range delays {
		all = append(all, d...)
	}
	if len(all) != watchers*events {
		return fmt.Errorf("%d events were delivered instead of %d", len(all), watchers*events)
	}
	b.report(figure{"watch: write sent to event read, 1,000 watchers, p50", milliseconds(percentile(all, 50)), "ms", 0, true})
	b.report(figure{"watch: the same, p99", milliseconds(percentile(all, 99)), "ms", upstreamWatchP99, true})
	return nil
}
