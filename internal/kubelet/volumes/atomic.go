package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// File is one file of a content volume.
type File struct {
	Data []byte
	Mode fs.FileMode
	// Owner, when set, is the user that owns the file.
	Owner *int64
}

// dataLink points to the directory with the present content; readers see all
// of a change or nothing of it, since one rename moves the link.
const dataLink = "..data"

// writeAtomic makes dir show exactly files, by path relative to it. It reports
// whether anything changed. prepare is called with the new content's directory
// before it becomes visible.
func writeAtomic(dir string, files map[string]File, prepare func(dir string) error) (bool, error) {
	for name := range files {
		if !filepath.IsLocal(name) || strings.HasPrefix(name, "..") {
			return false, fmt.Errorf("invalid path %q: must be relative and not contain '..'", name)
		}
	}
	old, _ := os.Readlink(filepath.Join(dir, dataLink))
	if old != "" && sameContent(filepath.Join(dir, old), files) {
		return false, nil
	}
	next, err := os.MkdirTemp(dir, "..")
	if err != nil {
		return false, fmt.Errorf("making directory for new content: %w", err)
	}
	if err := writeContent(next, files); err != nil {
		return false, errors.Join(err, os.RemoveAll(next))
	}
	if prepare != nil {
		if err := prepare(next); err != nil {
			return false, errors.Join(err, os.RemoveAll(next))
		}
	}
	link := filepath.Join(dir, dataLink+"_tmp")
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.Symlink(filepath.Base(next), link); err != nil {
		return false, err
	}
	if err := os.Rename(link, filepath.Join(dir, dataLink)); err != nil {
		return false, err
	}
	if err := linkVisible(dir, files); err != nil {
		return false, err
	}
	if old != "" {
		return true, os.RemoveAll(filepath.Join(dir, old))
	}
	return true, nil
}

func writeContent(dir string, files map[string]File) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.Data, f.Mode); err != nil {
			return err
		}
		// The process's umask must not narrow the mode.
		if err := os.Chmod(path, f.Mode); err != nil {
			return err
		}
		if f.Owner != nil {
			if err := os.Chown(path, int(*f.Owner), -1); err != nil {
				return err
			}
		}
	}
	return nil
}

// sameContent reports whether dir holds exactly files. Group bits are not
// compared: ownership of the volume by a group adds to them.
func sameContent(dir string, files map[string]File) bool {
	found := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[name]
		if !ok {
			return fs.ErrNotExist
		}
		have, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want.Data) || info.Mode().Perm()&0o707 != want.Mode.Perm()&0o707 {
			return fs.ErrInvalid
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}

// linkVisible makes the names at the top of dir point into the present
// content and removes those that are gone.
func linkVisible(dir string, files map[string]File) error {
	visible := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, string(filepath.Separator))
		visible[top] = true
	}
	for name := range visible {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !visible[e.Name()] && !strings.HasPrefix(e.Name(), "..") {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
