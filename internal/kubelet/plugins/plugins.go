// Package plugins finds the plug-ins of the node (CSI and DRA drivers): each
// puts a socket into the registration directory and says over it what it is
// and where it serves. A plug-in is known as long as its socket is there.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginregistration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
)

// Plugin is what a plug-in says of itself.
type Plugin struct {
	Type, Name string
	// Endpoint is the path of the socket that it serves on.
	Endpoint string
	Versions []string
}

// Handler takes the plug-ins of one type.
type Handler interface {
	// Register makes use of the plug-in; an error is told to it, and it is asked
	// again later.
	Register(ctx context.Context, p Plugin) error
	// Deregister says that the plug-in is gone.
	Deregister(ctx context.Context, p Plugin)
}

// Watcher watches the registration directory.
type Watcher struct {
	Dir string
	// Handlers are by the type of plug-in.
	Handlers map[string]Handler
	Clock    clock.Clock
	Log      *slog.Logger
}

const (
	firstRetry  = 200 * time.Millisecond
	lastRetry   = time.Minute
	callTimeout = 10 * time.Second
)

// Run follows the directory until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	if err := os.MkdirAll(w.Dir, 0o750); err != nil {
		return fmt.Errorf("making the plug-ins' directory: %w", err)
	}
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching %s: %w", w.Dir, err)
	}
	defer events.Close()
	if err := events.Add(w.Dir); err != nil {
		return fmt.Errorf("watching %s: %w", w.Dir, err)
	}
	present := map[string]context.CancelFunc{}
	var running sync.WaitGroup
	defer running.Wait()
	defer func() {
		for _, stop := range present {
			stop()
		}
	}()
	look := func(path string) {
		if stop := present[path]; stop != nil {
			// A socket made anew may belong to another plug-in.
			stop()
			delete(present, path)
		}
		if info, err := os.Stat(path); err != nil || info.Mode()&fs.ModeSocket == 0 {
			return
		}
		follow, stop := context.WithCancel(ctx)
		present[path] = stop
		running.Go(func() { w.follow(ctx, follow, path) })
	}
	entries, err := os.ReadDir(w.Dir)
	if err != nil {
		return fmt.Errorf("reading %s: %w", w.Dir, err)
	}
	for _, e := range entries {
		look(filepath.Join(w.Dir, e.Name()))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events.Events:
			if e.Has(fsnotify.Create) || e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
				look(e.Name)
			}
		case err := <-events.Errors:
			w.Log.Warn("watching plug-ins", "err", err)
		}
	}
}

// follow registers the plug-in behind a socket and, when here ends, takes it
// back, unless everything ends: a restart of the kubelet changes nothing.
func (w *Watcher) follow(ctx, here context.Context, socket string) {
	var known *Plugin
	for delay := firstRetry; known == nil; delay = min(delay*2, lastRetry) {
		p, err := w.register(here, socket)
		if err == nil {
			known = p
			break
		}
		if here.Err() != nil {
			return
		}
		w.Log.Info("a plug-in could not be registered", "socket", socket, "retry", delay, "err", err)
		select {
		case <-here.Done():
			return
		case <-w.Clock.After(delay):
		}
	}
	<-here.Done()
	if ctx.Err() == nil {
		w.Handlers[known.Type].Deregister(ctx, *known)
	}
}

func (w *Watcher) register(ctx context.Context, socket string) (*Plugin, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := Dial(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := pluginregistration.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &pluginregistration.InfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking what it is: %w", err)
	}
	p := &Plugin{Type: info.Type, Name: info.Name, Endpoint: info.Endpoint, Versions: info.SupportedVersions}
	if p.Endpoint == "" {
		p.Endpoint = socket
	}
	handler := w.Handlers[p.Type]
	if handler == nil {
		err = fmt.Errorf("no handler registered for plugin type: %s at socket %s", p.Type, socket)
	} else {
		err = handler.Register(ctx, *p)
	}
	status := &pluginregistration.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = err.Error()
	}
	if _, notifyErr := client.NotifyRegistrationStatus(ctx, status); notifyErr != nil && err == nil {
		// It will not work, and does not know that it is registered.
		handler.Deregister(ctx, *p)
		return nil, fmt.Errorf("telling that it is registered: %w", notifyErr)
	}
	if err != nil {
		return nil, err
	}
	w.Log.Info("plug-in registered", "type", p.Type, "name", p.Name, "endpoint", p.Endpoint)
	return p, nil
}

// Dial connects to a plug-in's socket.
func Dial(socket string) (*grpc.ClientConn, error) {
	if socket == "" {
		return nil, errors.New("the plug-in names no socket")
	}
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}
