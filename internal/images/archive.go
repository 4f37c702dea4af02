package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Build is an image of one layer, made without a builder.
type Build struct {
	// Name is the image's full name.
	Name string
	// Arch is a GOARCH.
	Arch   string
	Files  []File
	Config ocispec.ImageConfig
}

// File is a file of an image's layer: a symbolic link where Link is set, else a
// regular file. Its path is relative to the root.
type File struct {
	Path string
	Mode int64
	Data []byte
	Link string
}

// pause is the image that holds a pod's namespaces.
func pause(name, arch string) (Build, error) {
	program, err := pauseProgram(arch)
	return Build{
		Name:   name,
		Arch:   arch,
		Files:  []File{{Path: "pause", Mode: 0o755, Data: program}},
		Config: ocispec.ImageConfig{User: "65535:65535", Entrypoint: []string{"/pause"}, WorkingDir: "/"},
	}, err
}

// Archive returns the image as an OCI archive. The same image gives the same
// bytes.
func (b Build) Archive() ([]byte, error) {
	layer, err := tarOf(b.Files)
	if err != nil {
		return nil, err
	}
	platform := ocispec.Platform{Architecture: b.Arch, OS: "linux"}
	config, err := json.Marshal(ocispec.Image{
		Platform: platform,
		Config:   b.Config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    describe(ocispec.MediaTypeImageConfig, config),
		Layers:    []ocispec.Descriptor{describe(ocispec.MediaTypeImageLayer, layer)},
	})
	if err != nil {
		return nil, err
	}
	top := describe(ocispec.MediaTypeImageManifest, manifest)
	top.Annotations = map[string]string{ocispec.AnnotationRefName: b.Name}
	top.Platform = &platform
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{top},
	})
	if err != nil {
		return nil, err
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	return tarOf([]File{
		{Path: ocispec.ImageLayoutFile, Mode: 0o644, Data: layout},
		{Path: ocispec.ImageIndexFile, Mode: 0o644, Data: index},
		blob(manifest), blob(config), blob(layer),
	})
}

func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func blob(data []byte) File {
	return File{Path: "blobs/sha256/" + digest.FromBytes(data).Encoded(), Mode: 0o644, Data: data}
}

// tarOf writes files without times or owners.
func tarOf(files []File) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: f.Mode, Size: int64(len(f.Data)), Format: tar.FormatUSTAR}
		if f.Link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("archiving %s: %w", f.Path, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("archiving %s: %w", f.Path, err)
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
