package devnet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// bind mounts From, a file or directory of the machine, over To in the node.
type bind struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// nodeFile is a file that the node sees at To with the content that the
// machine's file From has. It differs from a bind in that To may be a symbolic
// link into a directory that the node has emptied (as /etc/resolv.conf into
// /run).
type nodeFile = bind

// mountNode makes the mounts of a node in the present mount namespace.
//
// The namespace first becomes a slave of the machine's, so that nothing done in
// it is seen outside, and then shared, so that what the kubelet mounts is seen
// by the containers that ask for it.
func mountNode(spec *initSpec) error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	for _, b := range spec.Binds {
		if err := mountApart(b); err != nil {
			return err
		}
	}
	files := make([][]byte, len(spec.Files))
	for i, f := range spec.Files {
		text, err := os.ReadFile(f.From)
		if err != nil {
			return err
		}
		files[i] = text
	}
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for i, f := range spec.Files {
		if err := placeFile(f, files[i]); err != nil {
			return err
		}
	}
	return mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// mountApart makes the bind a mount of its own: as a peer of the machine's file
// system, what is mounted below it would show at From, too, and make the table
// of mounts longer, which is read for each container several times.
func mountApart(b bind) error {
	if err := mount(b.From, b.To, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := mount("", b.To, "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return mount("", b.To, "", unix.MS_SHARED, "")
}

func placeFile(f nodeFile, text []byte) error {
	if _, err := os.Stat(f.To); err == nil {
		return mount(f.From, f.To, "", unix.MS_BIND, "")
	}
	link, err := os.Readlink(f.To)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the machine does without the file, and so does the node
	} else if err != nil {
		return fmt.Errorf("looking at %s: %w", f.To, err)
	}
	if !filepath.IsAbs(link) {
		link = filepath.Join(filepath.Dir(f.To), link)
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	return os.WriteFile(link, text, 0o644)
}

func mount(from, to, kind string, flags uintptr, options string) error {
	if err := unix.Mount(from, to, kind, flags, options); err != nil {
		return fmt.Errorf("mounting %s %s on %s: %w", kind, from, to, err)
	}
	return nil
}
