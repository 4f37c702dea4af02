package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// prepareHostPath checks that the path is what its type asks for, and makes it
// where the type says so (see "hostPath volume types").
func prepareHostPath(s *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	info, err := os.Stat(s.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	switch kind {
	case v1.HostPathUnset:
		return nil
	case v1.HostPathDirectoryOrCreate:
		if missing {
			return os.MkdirAll(s.Path, 0o755)
		}
		return check(info.IsDir(), s.Path, "a directory")
	case v1.HostPathFileOrCreate:
		if missing {
			f, err := os.OpenFile(s.Path, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		return check(info.Mode().IsRegular(), s.Path, "a file")
	}
	names := map[v1.HostPathType]string{
		v1.HostPathDirectory: "a directory", v1.HostPathFile: "a file", v1.HostPathSocket: "a socket file",
		v1.HostPathCharDev: "a character device", v1.HostPathBlockDev: "a block device",
	}
	name, known := names[kind]
	if !known {
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	if missing {
		return check(false, s.Path, name)
	}
	mode := info.Mode()
	fits := map[v1.HostPathType]bool{
		v1.HostPathDirectory: mode.IsDir(),
		v1.HostPathFile:      mode.IsRegular(),
		v1.HostPathSocket:    mode&fs.ModeSocket != 0,
		v1.HostPathCharDev:   mode&fs.ModeCharDevice != 0,
		v1.HostPathBlockDev:  mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0,
	}
	return check(fits[kind], s.Path, name)
}

func check(ok bool, path, what string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("hostPath type check failed: %s is not %s", path, what)
}

// SubPath makes a directory inside a mounted volume (unless there is something
// at that path) and returns a bind mount of it. The path is walked inside the
// volume only: a symbolic link in the volume cannot lead the mount out of it.
func (m *Manager) SubPath(uid, container, volume, sub string, index int) (string, error) {
	base, err := m.Path(uid, volume)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return "", err
	}
	defer root.Close()
	sub = filepath.Clean(sub)
	if _, err := root.Stat(sub); errors.Is(err, fs.ErrNotExist) {
		if err := makeInside(root, sub); err != nil {
			return "", err
		}
	} else if err != nil {
		return "", err
	}
	opened, err := root.Open(sub)
	if err != nil {
		return "", err
	}
	defer opened.Close()
	target := filepath.Join(m.PodDir(uid), "volume-subpaths", volume, container, strconv.Itoa(index))
	return target, bind(opened, target)
}

// makeInside makes the directories of path, with the volume's own mode.
func makeInside(root *os.Root, path string) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if err := root.MkdirAll(path, info.Mode().Perm()); err != nil {
		return err
	}
	dir, err := root.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Chmod(info.Mode())
}

// bind mounts what is open at target, in place of what may be mounted there.
func bind(opened *os.File, target string) error {
	info, err := opened.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	for unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o750)
	} else {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o640); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	source := fmt.Sprintf("/proc/self/fd/%d", opened.Fd())
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mounting at %s: %w", target, err)
	}
	return nil
}
