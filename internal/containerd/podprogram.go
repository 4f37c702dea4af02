package containerd

import (
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const podProgramPrefix = "skiff-pod-"

// layPodProgram lays the program that the runtime starts for every pod into
// dir and returns its path. Its name tells its contents, so it is written once
// for each release; the files of others are removed, and go on running where
// they run.
func layPodProgram(dir, compressed string) (string, error) {
	sum := sha256.Sum256([]byte(compressed))
	path := filepath.Join(dir, fmt.Sprintf("%s%x", podProgramPrefix, sum[:6]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	old, err := filepath.Glob(filepath.Join(dir, podProgramPrefix+"*"))
	if err != nil {
		return "", err
	}
	if err := unpack(compressed, path); err != nil {
		return "", fmt.Errorf("writing %s: %w", path, err)
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return "", err
		}
	}
	return path, nil
}

// unpack writes an executable file that is either whole and durable or absent.
func unpack(compressed, path string) (err error) {
	in, err := gzip.NewReader(strings.NewReader(compressed))
	if err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(path), podProgramPrefix+"*")
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(out.Name()))
	}
	return nil
}
