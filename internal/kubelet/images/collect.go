package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
)

// Upstream's defaults (imageGCHighThresholdPercent, imageGCLowThresholdPercent,
// imageMinimumGCAge) and how often its kubelet looks.
const (
	DefaultHighPercent = 85
	DefaultLowPercent  = 80
	minAge             = 2 * time.Minute
	collectInterval    = 5 * time.Minute
)

// Collector removes images that no container uses: those used longest ago
// first, when the file system they are on is HighPercent full, until it is
// LowPercent full.
type Collector struct {
	Images cri.ImageServiceClient
	// InUse returns the IDs and names of the images that the pods have.
	InUse func(ctx context.Context) (map[string]bool, error)
	// Space returns the space of the images' file system, in bytes.
	Space func() (available, capacity int64, err error)
	// HighPercent of 100 keeps the collector from looking at all.
	HighPercent, LowPercent int
	// Reference names the node in events.
	Reference *v1.ObjectReference
	Recorder  record.EventRecorder
	Clock     clock.WithTicker
	Log       *slog.Logger

	mu    sync.Mutex
	known map[string]*history
}

// history is what is known of an image. One that was there when the collector
// began has neither time.
type history struct {
	seen, used time.Time
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	if c.HighPercent >= 100 {
		return
	}
	ticker := c.Clock.NewTicker(collectInterval)
	defer ticker.Stop()
	for {
		if err := c.Collect(ctx); err != nil && ctx.Err() == nil {
			c.Log.Warn("removing unused images", "err", err)
			c.Recorder.Event(c.Reference, v1.EventTypeWarning, "ImageGCFailed", err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// Collect removes images if the file system is too full.
func (c *Collector) Collect(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	unused, err := c.unused(ctx)
	if err != nil {
		return err
	}
	available, capacity, err := c.Space()
	if err != nil {
		return fmt.Errorf("measuring the file system of images: %w", err)
	}
	if capacity == 0 {
		return errors.New("invalid capacity 0 on image filesystem")
	}
	if 100-available*100/capacity < int64(c.HighPercent) {
		return nil
	}
	wanted := capacity*int64(100-c.LowPercent)/100 - available
	freed, err := c.remove(ctx, unused, wanted)
	if err == nil && freed < wanted {
		message := fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", wanted, freed)
		c.Recorder.Event(c.Reference, v1.EventTypeWarning, "FreeDiskSpaceFailed", message)
		err = errors.New(message)
	}
	return err
}

// Clear removes all images that no container uses.
func (c *Collector) Clear(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	unused, err := c.unused(ctx)
	if err != nil {
		return err
	}
	_, err = c.remove(ctx, unused, math.MaxInt64)
	return err
}

// unused brings the histories up to date and returns the images that may be
// removed, those used longest ago first. c.mu must be held.
func (c *Collector) unused(ctx context.Context) ([]*cri.Image, error) {
	inUse, err := c.InUse(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images in use: %w", err)
	}
	list, err := c.Images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	now := c.Clock.Now()
	known := map[string]*history{}
	var out []*cri.Image
	for _, image := range list.Images {
		h := c.known[image.Id]
		switch {
		case h != nil:
		case c.known == nil:
			h = &history{}
		default:
			h = &history{seen: now}
		}
		known[image.Id] = h
		switch {
		case uses(inUse, image):
			h.used = now
		case !image.Pinned && now.Sub(h.seen) >= minAge:
			out = append(out, image)
		}
	}
	c.known = known
	slices.SortStableFunc(out, func(a, b *cri.Image) int {
		x, y := known[a.Id], known[b.Id]
		return cmp.Or(x.used.Compare(y.used), x.seen.Compare(y.seen))
	})
	return out, nil
}

func uses(inUse map[string]bool, image *cri.Image) bool {
	named := func(name string) bool { return inUse[name] }
	return inUse[image.Id] || slices.ContainsFunc(image.RepoTags, named) || slices.ContainsFunc(image.RepoDigests, named)
}

// remove removes images until so many bytes are freed; one that cannot be
// removed does not keep the others.
func (c *Collector) remove(ctx context.Context, images []*cri.Image, wanted int64) (freed int64, err error) {
	for _, image := range images {
		if freed >= wanted {
			break
		}
		if _, failed := c.Images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: image.Id}}); failed != nil {
			err = errors.Join(err, fmt.Errorf("removing image %s: %w", image.Id, failed))
			continue
		}
		c.Log.Info("unused image removed", "image", image.Id, "names", image.RepoTags, "bytes", image.Size)
		delete(c.known, image.Id)
		freed += int64(image.Size)
	}
	return freed, err
}
