package eviction

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"skiff/internal/kubelet/node"
)

// Observation is how much there is of something, and how much is left.
type Observation struct {
	Available, Capacity int64
}

// Observations are those of one moment. What could not be measured is absent,
// and never scarce.
type Observations map[Signal]Observation

// Measure looks at the machine; nodeFs and imageFs are directories on the file
// systems that hold pods' files and images.
func Measure(nodeFs, imageFs string) Observations {
	out := Observations{}
	if memory, err := node.Meminfo(); err == nil {
		// What the kernel takes for available counts all caches that it can
		// drop; upstream's own sum takes those used lately for lost.
		out[MemoryAvailable] = Observation{Available: int64(memory["MemAvailable"]), Capacity: int64(memory["MemTotal"])}
	}
	out.fileSystem(nodeFs, NodeFsAvailable, NodeFsInodesFree)
	out.fileSystem(imageFs, ImageFsAvailable, ImageFsInodesFree)
	var info unix.Sysinfo_t
	if most := maxPIDs(); most > 0 && unix.Sysinfo(&info) == nil {
		out[PIDAvailable] = Observation{Available: most - int64(info.Procs), Capacity: most}
	}
	return out
}

func (o Observations) fileSystem(dir string, space, files Signal) {
	var fs unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &fs) != nil {
		return
	}
	o[space] = Observation{Available: int64(fs.Bavail) * fs.Bsize, Capacity: int64(fs.Blocks) * fs.Bsize}
	// Some file systems make inodes as they are wanted, and have no number.
	if fs.Files > 0 {
		o[files] = Observation{Available: int64(fs.Ffree), Capacity: int64(fs.Files)}
	}
}

// maxPIDs returns how many processes and threads there can be; 0 if unknown.
func maxPIDs() int64 {
	least := int64(0)
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// DiskUsage returns what there is in dir and below it, on its file system: bytes
// on the disk, and files. What cannot be read counts for nothing.
func DiskUsage(dir string) (bytes, files int64) {
	var device uint64
	seen := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if path == dir {
			device = stat.Dev
		}
		switch linked := stat.Nlink > 1 && !d.IsDir(); {
		case stat.Dev != device && d.IsDir():
			return fs.SkipDir
		case stat.Dev != device, seen[stat.Ino]:
			return nil
		case linked:
			// A file with several names is there once.
			seen[stat.Ino] = true
		}
		bytes += stat.Blocks * 512
		files++
		return nil
	})
	return bytes, files
}
