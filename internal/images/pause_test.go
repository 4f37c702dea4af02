package images

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
)

func TestPauseProgramIsAnExecutable(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		program, err := pauseProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(program))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if f.Machine != machine || f.Type != elf.ET_EXEC || len(f.Progs) != 1 {
			t.Errorf("%s: got machine %v, type %v, %d segments", arch, f.Machine, f.Type, len(f.Progs))
		}
		if p := f.Progs[0]; p.Filesz != uint64(len(program)) || f.Entry < p.Vaddr || f.Entry >= p.Vaddr+p.Memsz {
			t.Errorf("%s: segment %+v does not hold entry %#x of a program of %d bytes", arch, p.ProgHeader, f.Entry, len(program))
		}
	}
	if _, err := pauseProgram("vax"); err == nil {
		t.Error("a program for an unknown architecture")
	}
}

// As process 1 of a PID namespace the program must end on the signals that
// would do nothing without a handler, and must reap what is left to it.
func TestPauseProgramRuns(t *testing.T) {
	program, err := pauseProgram(runtime.GOARCH)
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := exec.Command(path)
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		awaitSleeping(t, cmd.Process.Pid)
		cmd.Process.Signal(syscall.SIGCHLD)
		select {
		case err := <-ended:
			t.Fatalf("ended by itself: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		cmd.Process.Signal(signal)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%v: %v", signal, err)
			}
		case <-time.After(time.Minute):
			t.Errorf("goes on after %v", signal)
			cmd.Process.Kill()
			<-ended
		}
	}
}

// awaitSleeping returns when the process has set up its signals and sleeps in
// the kernel's pause.
func awaitSleeping(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		if errors.Is(err, os.ErrNotExist) {
			t.Fatal("ended by itself")
		}
		if bytes.Contains(stat, []byte("State:\tS")) && !bytes.Contains(stat, []byte("SigIgn:\t0000000000000000")) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("does not sleep")
}

func TestArchiveIsDeterministic(t *testing.T) {
	image, err := pause("skiff.local/pause:1", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	a, err := image.Archive()
	if err != nil {
		t.Fatal(err)
	}
	b, err := image.Archive()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two archives of the same image differ")
	}
}

func TestFullName(t *testing.T) {
	for in, want := range map[string]string{
		"v1":                           "",
		"latest":                       "",
		"busybox:1":                    "docker.io/library/busybox:1",
		"your-registry/flask:v1":       "docker.io/your-registry/flask:v1",
		"skiff.local/pause:1":          "skiff.local/pause:1",
		"localhost/app":                "localhost/app:latest",
		"registry.example:5000/a/b:v2": "registry.example:5000/a/b:v2",
		"a/Upper:v1":                   "",
	} {
		if got := fullName(in); got != want {
			t.Errorf("fullName(%q) = %q, want %q", in, got, want)
		}
	}
}
