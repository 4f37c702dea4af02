package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process is a child of this one, which it does not outlive.
type process struct {
	cmd    *exec.Cmd
	exited chan error
	log    *bytes.Buffer
}

func start(program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), exited: make(chan error, 1), log: &bytes.Buffer{}}
	p.cmd.Stderr = p.log
	// However this process ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.exited <- p.cmd.Wait() }()
	return p, nil
}

// ended returns an error if the process has ended by itself.
func (p *process) ended() error {
	select {
	case err := <-p.exited:
		p.exited <- err
		text := p.log.Bytes()
		return fmt.Errorf("%s ended (%v): %s", filepath.Base(p.cmd.Path), err, text[max(0, len(text)-2000):])
	default:
		return nil
	}
}

// stop ends the process as its service manager would.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(30 * time.Second):
		return errors.Join(fmt.Errorf("%s did not end within 30 s", filepath.Base(p.cmd.Path)), p.cmd.Process.Kill())
	}
}

// A usage is what processes hold and have used.
type usage struct {
	// resident is all their memory, anonymous that which no file backs; bytes.
	resident, anonymous float64
	cpu                 time.Duration
}

// ticksPerSecond is USER_HZ, which is 100 on every Linux architecture that Go
// knows.
const ticksPerSecond = 100

// add adds what the process uses.
func (u *usage) add(p *process) error {
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			u.resident += kib * 1024
		case "RssAnon:":
			u.anonymous += kib * 1024
		}
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return err
	}
	// The name in parentheses may hold anything; utime and stime are the 14th
	// and 15th fields (proc(5)).
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, text := range f[11:13] {
		ticks, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		u.cpu += time.Duration(ticks) * time.Second / ticksPerSecond
	}
	return nil
}
