// Package images puts images into a node's container runtime without a
// registry: archives that a user has, and the pause image, which it makes
// itself.
package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// namespace is the containerd namespace that CRI keeps its things in.
const namespace = "k8s.io"

// snapshotter is the one that the runtime is configured with.
const snapshotter = "overlayfs"

// showTimeout is how long CRI may take to see an image that containerd has:
// it learns of it by an event.
const showTimeout = 10 * time.Second

// Store is the image store of one node's containerd.
type Store struct {
	client *containerd.Client
	cri    runtimeapi.ImageServiceClient
}

// Open returns the store of the containerd that listens on a socket's path. It
// connects with the first call.
func Open(socket string) (*Store, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connecting to the container runtime at %s: %w", socket, err)
	}
	client, err := containerd.NewWithConn(conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to the container runtime at %s: %w", socket, err), conn.Close())
	}
	return &Store{client: client, cri: runtimeapi.NewImageServiceClient(conn)}, nil
}

// Close ends the connection.
func (s *Store) Close() error { return s.client.Close() }

// EnsurePause imports the pause image under the given name unless an image of
// that name is there.
func (s *Store) EnsurePause(ctx context.Context, name string) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	_, err := s.client.GetImage(ctx, name)
	if err == nil || !errdefs.IsNotFound(err) {
		return err
	}
	image, err := pause(name, runtime.GOARCH)
	if err != nil {
		return err
	}
	archive, err := image.Archive()
	if err != nil {
		return fmt.Errorf("making the pause image: %w", err)
	}
	if _, err := s.Import(ctx, bytes.NewReader(archive), ""); err != nil {
		return fmt.Errorf("importing the pause image: %w", err)
	}
	return nil
}

// Import reads an OCI or Docker archive, compressed or not, and makes its
// images usable by pods. It returns their full names. An archive that names no
// image needs a name; for others name must be empty.
func (s *Store) Import(ctx context.Context, archive io.Reader, name string) ([]string, error) {
	ctx = namespaces.WithNamespace(ctx, namespace)
	plain, err := compression.DecompressStream(archive)
	if err != nil {
		return nil, fmt.Errorf("reading the image archive: %w", err)
	}
	defer plain.Close()
	options := []containerd.ImportOpt{containerd.WithImageRefTranslator(fullName)}
	if name != "" {
		full, err := reference.ParseDockerRef(name)
		if err != nil {
			return nil, fmt.Errorf("%q is not an image name: %w", name, err)
		}
		options = append(options, containerd.WithIndexName(full.String()))
	}
	imported, err := s.client.Import(ctx, plain, options...)
	if err != nil {
		return nil, fmt.Errorf("importing the image archive: %w", err)
	}
	if len(imported) == 0 {
		return nil, errors.New("the archive names no image; say its name")
	}
	names := make([]string, 0, len(imported))
	for _, image := range imported {
		if err := s.unpack(ctx, image); err != nil {
			return nil, fmt.Errorf("unpacking image %s: %w", image.Name, err)
		}
		names = append(names, image.Name)
	}
	return names, s.awaitShown(ctx, names)
}

func (s *Store) unpack(ctx context.Context, image images.Image) error {
	return containerd.NewImageWithPlatform(s.client, image, platforms.Default()).Unpack(ctx, snapshotter)
}

// fullName returns the full form of a name in an archive, or nothing for a mere
// tag, which some archives have in a name's place.
func fullName(name string) string {
	if !strings.ContainsAny(name, "/:@") {
		return ""
	}
	full, err := reference.ParseDockerRef(name)
	if err != nil {
		return ""
	}
	return full.String()
}

// awaitShown returns when CRI sees the images.
func (s *Store) awaitShown(ctx context.Context, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, showTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, name := range names {
		for {
			answer, err := s.cri.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
			if err == nil && answer.Image != nil {
				break
			}
			if err != nil && status.Code(err) != codes.Unavailable && ctx.Err() == nil {
				return fmt.Errorf("asking for image %s: %w", name, err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the container runtime does not show image %s: %w", name, ctx.Err())
			case <-tick.C:
			}
		}
	}
	return nil
}

// Image is an image as a list shows it.
type Image struct {
	ID    string
	Names []string
	// Size in bytes, as packed.
	Size uint64
}

// List returns the node's images, ordered by their first name.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	answer, err := s.cri.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	list := make([]Image, 0, len(answer.Images))
	for _, i := range answer.Images {
		names := i.RepoTags
		if len(names) == 0 {
			names = i.RepoDigests
		}
		slices.Sort(names)
		list = append(list, Image{ID: i.Id, Names: names, Size: i.Size})
	}
	slices.SortFunc(list, func(a, b Image) int { return slices.Compare(a.Names, b.Names) })
	return list, nil
}
