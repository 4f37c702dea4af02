package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	testingclock "k8s.io/utils/clock/testing"
)

// disk is a runtime's images on a disk of 1000 bytes, with some more on it.
type disk struct {
	cri.ImageServiceClient
	images []*cri.Image
	more   int64
	stuck  string
	inUse  map[string]bool
}

func (d *disk) ListImages(context.Context, *cri.ListImagesRequest, ...grpc.CallOption) (*cri.ListImagesResponse, error) {
	return &cri.ListImagesResponse{Images: slices.Clone(d.images)}, nil
}

func (d *disk) RemoveImage(_ context.Context, r *cri.RemoveImageRequest, _ ...grpc.CallOption) (*cri.RemoveImageResponse, error) {
	if r.Image.Image == d.stuck {
		return nil, errors.New("it is stuck")
	}
	d.images = slices.DeleteFunc(d.images, func(i *cri.Image) bool { return i.Id == r.Image.Image })
	return &cri.RemoveImageResponse{}, nil
}

func (d *disk) space() (available, capacity int64, err error) {
	available = 1000 - d.more
	for _, i := range d.images {
		available -= int64(i.Size)
	}
	return available, 1000, nil
}

func (d *disk) add(id string, size uint64) *cri.Image {
	image := &cri.Image{Id: id, Size: size, RepoTags: []string{"example.com/" + id + ":1"}}
	d.images = append(d.images, image)
	return image
}

func (d *disk) left() string {
	var ids []string
	for _, i := range d.images {
		ids = append(ids, i.Id)
	}
	return strings.Join(ids, " ")
}

func collector(d *disk) (*Collector, *testingclock.FakeClock, *record.FakeRecorder) {
	clk, events := testingclock.NewFakeClock(time.Unix(1000, 0)), record.NewFakeRecorder(10)
	d.inUse = map[string]bool{}
	return &Collector{
		Images: d, InUse: func(context.Context) (map[string]bool, error) { return d.inUse, nil }, Space: d.space,
		HighPercent: DefaultHighPercent, LowPercent: DefaultLowPercent,
		Reference: &v1.ObjectReference{Kind: "Node", Name: "n"}, Recorder: events, Clock: clk, Log: slog.New(slog.DiscardHandler),
	}, clk, events
}

func TestCollectRemovesTheLongestUnused(t *testing.T) {
	d := &disk{more: 440}
	c, clk, _ := collector(d)
	for _, id := range []string{"pinned", "busy", "mounted", "recent", "old"} {
		d.add(id, 80)
	}
	d.images[0].Pinned = true
	d.inUse = map[string]bool{"busy": true, "example.com/mounted:1": true, "recent": true, "old": true}
	collect := func(want string) {
		t.Helper()
		if err := c.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.left(); got != want {
			t.Errorf("left are %s, want %s", got, want)
		}
	}
	collect("pinned busy mounted recent old")
	clk.Step(time.Hour)
	delete(d.inUse, "old")
	collect("pinned busy mounted recent old")
	clk.Step(time.Hour)
	delete(d.inUse, "recent")
	collect("pinned busy mounted recent old")
	// 85 % are used now, and 80 % after the first one goes.
	d.more += 10
	collect("pinned busy mounted recent")
}

func TestCollectSparesWhatWasJustPulled(t *testing.T) {
	d := &disk{more: 100}
	c, clk, events := collector(d)
	d.add("there-before", 10)
	if err := c.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.add("pulled", 700)
	d.more = 190
	err := c.Collect(t.Context())
	want := "Failed to garbage collect required amount of images. Attempted to free 100 bytes, but only found 10 bytes eligible to free."
	if err == nil || err.Error() != want || d.left() != "pulled" {
		t.Errorf("left are %s, error %v", d.left(), err)
	}
	if e := <-events.Events; e != "Warning FreeDiskSpaceFailed "+want {
		t.Errorf("event %q", e)
	}
	clk.Step(minAge)
	if err := c.Collect(t.Context()); err != nil || d.left() != "" {
		t.Errorf("left are %s, error %v", d.left(), err)
	}
}

func TestClear(t *testing.T) {
	d := &disk{stuck: "stuck"}
	c, _, _ := collector(d)
	for _, id := range []string{"stuck", "busy", "unused"} {
		d.add(id, 1)
	}
	d.inUse["busy"] = true
	if err := c.Clear(t.Context()); err == nil || fmt.Sprint(err) != "removing image stuck: it is stuck" || d.left() != "stuck busy" {
		t.Errorf("left are %s, error %v", d.left(), err)
	}
}
