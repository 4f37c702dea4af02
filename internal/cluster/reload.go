package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// reloader follows files of configuration. A file that becomes unreadable or
// wrong leaves what was in force.
type reloader struct {
	log   *slog.Logger
	files []*followed
}

type followed struct {
	path   string
	last   []byte
	reload func() error
}

// follow has reload called whenever the file's content is another.
func (r *reloader) follow(path string, reload func() error) error {
	last, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	r.files = append(r.files, &followed{path, last, reload})
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
		if err := f.reload(); err != nil {
			r.log.Error("a changed configuration is not taken over", "file", f.path, "error", err)
			continue
		}
		r.log.Info("configuration taken over", "file", f.path)
	}
}
