package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// reloader follows files of configuration. A file that becomes unreadable or
// wrong leaves the last good configuration in force.
type reloader struct {
	log     *slog.Logger
	metrics prometheus.Registerer
	// server identifies this one among the API servers.
	server string
	files  []*followed
}

type followed struct {
	path    string
	last    []byte
	reload  func() error
	metrics *reloadMetrics
}

// follow has reload called whenever the file's content is another. what the
// file configures is part of the names of metrics.
func (r *reloader) follow(what, path string, reload func() error) error {
	last, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f := &followed{path, last, reload, newReloadMetrics(r.metrics, what, r.server)}
	f.metrics.inForce(last)
	r.files = append(r.files, f)
	return nil
}

// run reloads until ctx ends. The folders are watched rather than the files,
// which are often replaced as a whole.
func (r *reloader) run(ctx context.Context) error {
	if len(r.files) == 0 {
		return nil
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching configuration files: %w", err)
	}
	for _, f := range r.files {
		if err := watcher.Add(filepath.Dir(f.path)); err != nil {
			watcher.Close()
			return fmt.Errorf("watching %s: %w", f.path, err)
		}
	}
	go func() {
		defer watcher.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case err := <-watcher.Errors:
				r.log.Warn("watching configuration files", "error", err)
			case <-watcher.Events:
				r.check()
			}
		}
	}()
	return nil
}

func (r *reloader) check() {
	for _, f := range r.files {
		now, err := os.ReadFile(f.path)
		if err != nil || bytes.Equal(now, f.last) {
			continue
		}
		f.last = now
		err = f.reload()
		f.metrics.reloaded(err)
		if err != nil {
			r.log.Error("a changed configuration is not taken over", "file", f.path, "error", err)
			continue
		}
		f.metrics.inForce(now)
		r.log.Info("configuration taken over", "file", f.path)
	}
}

// reloadMetrics are upstream's about one file that is followed.
type reloadMetrics struct {
	server  string
	reloads *prometheus.CounterVec
	last    *prometheus.GaugeVec
	info    *prometheus.GaugeVec
}

func newReloadMetrics(reg prometheus.Registerer, what, server string) *reloadMetrics {
	auto, prefix := promauto.With(reg), "apiserver_"+what+"_config_controller_"
	return &reloadMetrics{
		server: hash([]byte(server)),
		reloads: auto.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "automatic_reloads_total", Help: "Times that a changed " + what + " configuration was taken over, or could not be.",
		}, []string{"status", "apiserver_id_hash"}),
		last: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "automatic_reload_last_timestamp_seconds", Help: "When that last happened.",
		}, []string{"status", "apiserver_id_hash"}),
		info: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "last_config_info", Help: "The hash of the " + what + " configuration in force.",
		}, []string{"apiserver_id_hash", "hash"}),
	}
}

// reloaded counts an attempt to take over what the file says now.
func (m *reloadMetrics) reloaded(err error) {
	status := "success"
	if err != nil {
		status = "failure"
	}
	m.reloads.WithLabelValues(status, m.server).Inc()
	m.last.WithLabelValues(status, m.server).SetToCurrentTime()
}

// inForce tells what configuration is in force.
func (m *reloadMetrics) inForce(config []byte) {
	m.info.Reset()
	m.info.WithLabelValues(m.server, hash(config)).Set(1)
}

func hash(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }
