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

// pauseArchive returns the pause image as an OCI archive, named name. The same
// arguments give the same bytes.
func pauseArchive(name, arch string) ([]byte, error) {
	program, err := pauseProgram(arch)
	if err != nil {
		return nil, err
	}
	layer, err := tarOf([]file{{name: "pause", mode: 0o755, data: program}})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{Architecture: arch, OS: "linux"},
		Config:   ocispec.ImageConfig{User: "65535:65535", Entrypoint: []string{"/pause"}, WorkingDir: "/"},
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
	top.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	top.Platform = &ocispec.Platform{Architecture: arch, OS: "linux"}
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
	return tarOf([]file{
		{name: ocispec.ImageLayoutFile, mode: 0o644, data: layout},
		{name: ocispec.ImageIndexFile, mode: 0o644, data: index},
		blob(manifest), blob(config), blob(layer),
	})
}

func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

type file struct {
	name string
	mode int64
	data []byte
}

func blob(data []byte) file {
	return file{name: "blobs/sha256/" + digest.FromBytes(data).Encoded(), mode: 0o644, data: data}
}

// tarOf writes regular files without times or owners.
func tarOf(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("archiving %s: %w", f.name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("archiving %s: %w", f.name, err)
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
