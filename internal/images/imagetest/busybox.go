// Package imagetest makes images for tests with real containers.
package imagetest

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"skiff/internal/images"
)

// BusyboxName is the name of the image that Busybox makes.
const BusyboxName = "skiff.local/busybox:1"

// Busybox returns an archive of an image with the machine's own busybox and a
// link for each of its commands. The test is skipped where there is none.
func Busybox(t testing.TB) []byte {
	t.Helper()
	return BusyboxWith(t, BusyboxName)
}

// BusyboxWith returns an archive of an image like Busybox's, of another name and
// with more files.
func BusyboxWith(t testing.TB, name string, more ...images.File) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox; install it (Debian: apt-get install busybox-static)")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !static(t, program) {
		t.Skipf("%s is not static (Debian: apt-get install busybox-static)", path)
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := []images.File{
		{Path: "bin/busybox", Mode: 0o755, Data: program},
		{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/bin/sh\n")},
		{Path: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\n")},
	}
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			files = append(files, images.File{Path: "bin/" + name, Mode: 0o777, Link: "/bin/busybox"})
		}
	}
	archive, err := images.Build{
		Name:   name,
		Arch:   runtime.GOARCH,
		Files:  append(files, more...),
		Config: ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}, WorkingDir: "/"},
	}.Archive()
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// static reports whether an executable needs no interpreter.
func static(t testing.TB, program []byte) bool {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}
