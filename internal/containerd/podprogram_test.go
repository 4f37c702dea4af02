package containerd

import (
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"testing"
)

func TestPodProgramIsLaidOncePerRelease(t *testing.T) {
	dir := t.TempDir()
	lay := func(script string) string {
		t.Helper()
		path, err := layPodProgram(dir, compress(t, "#!/bin/sh\n"+script))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := lay("echo first")
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	if again := lay("echo first"); again != first {
		t.Errorf("the same program is at %s and then at %s", first, again)
	}
	if after, err := os.Stat(first); err != nil || !os.SameFile(before, after) {
		t.Errorf("the program was written twice (%v)", err)
	}
	second := lay("echo second")
	if out, err := exec.Command(second).Output(); err != nil || string(out) != "second\n" {
		t.Errorf("the program says %q, %v", out, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%v are left, %v; want the second program alone", left, err)
	}
}

func TestDamagedPodProgramLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	whole := compress(t, "a program")
	for _, damaged := range []string{whole[:len(whole)-4], "no archive"} {
		if path, err := layPodProgram(dir, damaged); err == nil {
			t.Errorf("%q was unpacked to %s", damaged, path)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

func compress(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
