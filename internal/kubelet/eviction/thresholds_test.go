package eviction

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestParseThresholds(t *testing.T) {
	for _, test := range []struct {
		text string
		want []Threshold
		bad  bool
	}{
		{text: ""},
		{text: "memory.available<100Mi, nodefs.available<10%", want: []Threshold{
			{Signal: MemoryAvailable, Amount: 100 << 20}, {Signal: NodeFsAvailable, Percent: 10}}},
		{text: "pid.available<1k", want: []Threshold{{Signal: PIDAvailable, Amount: 1000}}},
		{text: "imagefs.available<0%,nodefs.available<100%"},
		{text: "memory.available", bad: true},
		{text: "memory.available>1Gi", bad: true},
		{text: "memory.free<1Gi", bad: true},
		{text: "memory.available<0", bad: true},
		{text: "memory.available<-1Gi", bad: true},
		{text: "memory.available<much", bad: true},
		{text: "memory.available<101%", bad: true},
		{text: "memory.available<NaN%", bad: true},
		{text: "memory.available<1Gi,memory.available<2Gi", bad: true},
	} {
		got, err := ParseThresholds(test.text)
		if !slices.Equal(got, test.want) || (err != nil) != test.bad {
			t.Errorf("%q: %v, %v", test.text, got, err)
		}
	}
	if defaults, err := ParseThresholds(DefaultThresholds); err != nil || len(defaults) != 5 {
		t.Errorf("the defaults are %v, %v", defaults, err)
	}
}

func TestLeast(t *testing.T) {
	for _, test := range []struct {
		threshold Threshold
		want      int64
	}{
		{Threshold{Amount: 7}, 7},
		{Threshold{Percent: 15}, 30},
	} {
		if got := test.threshold.least(200); got != test.want {
			t.Errorf("%+v of 200: %d, want %d", test.threshold, got, test.want)
		}
	}
}

func TestMeasureThisMachine(t *testing.T) {
	dir := t.TempDir()
	got := Measure(dir, dir)
	for _, s := range []Signal{MemoryAvailable, NodeFsAvailable, ImageFsAvailable, PIDAvailable} {
		if o := got[s]; o.Available <= 0 || o.Available > o.Capacity {
			t.Errorf("%s: %+v", s, o)
		}
	}
	got = Measure(filepath.Join(dir, "none"), "")
	for _, s := range []Signal{NodeFsAvailable, NodeFsInodesFree, ImageFsAvailable, ImageFsInodesFree} {
		if o, ok := got[s]; ok {
			t.Errorf("%s of nothing: %+v", s, o)
		}
	}
}

func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "below", "file")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	before, files := DiskUsage(dir)
	if files != 2 {
		t.Errorf("%d files in two directories", files)
	}
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, file+"-too"); err != nil {
		t.Fatal(err)
	}
	bytes, files := DiskUsage(dir)
	if grown := bytes - before; grown < 1<<20 || grown >= 2<<20 || files != 3 {
		t.Errorf("a file of 1 MiB with two names takes %d bytes and makes %d files", grown, files)
	}
	if bytes, files := DiskUsage(filepath.Join(dir, "none")); bytes != 0 || files != 0 {
		t.Errorf("nothing takes %d bytes, %d files", bytes, files)
	}
}
