package devnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// privateDirs are the directories that each node has for itself: in its own
// directory, and in its file system.
var privateDirs = []bind{
	{From: "data", To: "/var/lib/skiff"},
	{From: "kubelet", To: "/var/lib/kubelet"},
	{From: "pods", To: "/var/log/pods"},
	{From: "containers", To: "/var/log/containers"},
	{From: "cni", To: "/etc/cni"},
}

// privateFiles are the files, likewise.
var privateFiles = []bind{
	{From: "hostname", To: "/etc/hostname"},
	{From: "hosts", To: "/etc/hosts"},
	{From: "resolv.conf", To: "/etc/resolv.conf"},
}

// startNode makes the node's namespaces and runs command in them. binary is the
// skiff program.
func (c *Cluster) startNode(n *Node, cg *cgroups, binary string, command []string) error {
	spec, err := c.prepare(n, command)
	if err != nil {
		return fmt.Errorf("preparing node %s: %w", n.Name, err)
	}
	init, err := c.spawn(n, binary)
	if err != nil {
		return fmt.Errorf("making the namespaces of node %s: %w", n.Name, err)
	}
	if err := c.furnish(n, cg, init, spec); err != nil {
		err = fmt.Errorf("setting up node %s: %w", n.Name, err)
		return errors.Join(err, init.kill())
	}
	return nil
}

// prepare writes the node's private files and says what it is to be.
func (c *Cluster) prepare(n *Node, command []string) (*initSpec, error) {
	dir := c.nodeDir(n)
	spec := &initSpec{Hostname: n.Name, Command: command, Notify: c.notifySocket(n)}
	for _, b := range privateDirs {
		b.From = filepath.Join(dir, b.From)
		if err := os.MkdirAll(b.From, 0o755); err != nil {
			return nil, err
		}
		spec.Binds = append(spec.Binds, b)
	}
	content := map[string]string{"hostname": n.Name + "\n", "hosts": c.hosts(n), "resolv.conf": c.resolvConf()}
	for _, f := range privateFiles {
		text := content[f.From]
		f.From = filepath.Join(dir, f.From)
		if err := os.WriteFile(f.From, []byte(text), 0o644); err != nil {
			return nil, err
		}
		spec.Files = append(spec.Files, f)
	}
	return spec, nil
}

func (c *Cluster) notifySocket(n *Node) string { return filepath.Join(c.nodeDir(n), "notify") }

func (c *Cluster) hosts(n *Node) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, other := range c.Nodes {
		fmt.Fprintf(&b, "%s %s\n", other.IP, other.Name)
	}
	return b.String()
}

// resolvConf names the machine's own name servers, but those that only listen
// on its loopback; an isolated node has none.
func (c *Cluster) resolvConf() string {
	var b strings.Builder
	if c.Isolated {
		return ""
	}
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "nameserver" || strings.HasPrefix(f[1], "127.") || f[1] == "::1" {
				continue
			}
			fmt.Fprintf(&b, "nameserver %s\n", f[1])
		}
		if b.Len() > 0 {
			break
		}
	}
	return b.String()
}

// initProcess is a node's process 1 while it is being set up.
type initProcess struct {
	cmd    *exec.Cmd
	spec   io.WriteCloser
	status *os.File
}

func (p *initProcess) kill() error {
	p.status.Close()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	p.cmd.Wait()
	return nil
}

// spawn starts process 1 in new namespaces, where it waits for its spec.
func (c *Cluster) spawn(n *Node, binary string) (*initProcess, error) {
	log, err := os.OpenFile(c.LogFile(n), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	status, statusOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer statusOut.Close()
	cmd := exec.Command(binary, "node-init", n.Name)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{statusOut}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
	}
	spec, err := cmd.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, status.Close())
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, status.Close())
	}
	return &initProcess{cmd: cmd, spec: spec, status: status}, nil
}

// furnish gives process 1 its cgroup, its network and its spec, and returns
// when it has set itself up.
func (c *Cluster) furnish(n *Node, cg *cgroups, init *initProcess, spec *initSpec) error {
	pid := init.cmd.Process.Pid
	if err := c.record(n, pid); err != nil {
		return err
	}
	// A cgroup with others below it may have no processes in version 2, so
	// the node's own are beside its pods'.
	system := c.nodeCgroup(n) + "/system"
	if err := errors.Join(cg.make(system), cg.enter(system, pid)); err != nil {
		return err
	}
	if err := c.connect(n, pid); err != nil {
		return err
	}
	if err := errors.Join(json.NewEncoder(init.spec).Encode(spec), init.spec.Close()); err != nil {
		return fmt.Errorf("telling the node what it is to be: %w", err)
	}
	said, err := io.ReadAll(init.status)
	if err != nil {
		return err
	}
	if text := bytes.TrimSpace(said); len(text) > 0 {
		return errors.New(string(text))
	}
	if err := init.status.Close(); err != nil {
		return err
	}
	go init.cmd.Wait() // reap it when it ends before us
	return nil
}

// process says which process is a node's process 1. The start time tells it
// from a later one with the same number.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

func (c *Cluster) processFile(n *Node) string { return filepath.Join(c.nodeDir(n), "init.json") }

func (c *Cluster) record(n *Node, pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	text, err := json.Marshal(process{PID: pid, Start: start})
	if err != nil {
		return err
	}
	return os.WriteFile(c.processFile(n), text, 0o600)
}

// startTime returns the 22nd field of a process's stat, which is unique
// together with its number.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field is in brackets and may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("process %d has a strange stat: %q", pid, stat)
	}
	return fields[19], nil
}

// InitPID returns the number of the node's process 1 on the machine, or 0 when
// the node is not running.
func (c *Cluster) InitPID(n *Node) int {
	text, err := os.ReadFile(c.processFile(n))
	if err != nil {
		return 0
	}
	var p process
	if err := json.Unmarshal(text, &p); err != nil {
		return 0
	}
	if start, err := startTime(p.PID); err != nil || start != p.Start {
		return 0
	}
	return p.PID
}

// stopNode ends the node: in an orderly way within grace, then by force. All
// its processes and namespaces end with its process 1.
func (c *Cluster) stopNode(ctx context.Context, n *Node, grace time.Duration) error {
	pid := c.InitPID(n)
	if pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("watching process 1 of node %s: %w", n.Name, err)
	}
	defer unix.Close(fd)
	if grace > 0 {
		unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0)
		if ended(ctx, fd, grace) {
			return c.forget(n)
		}
	}
	unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	if !ended(ctx, fd, time.Minute) {
		return fmt.Errorf("process 1 of node %s (%d) does not end", n.Name, pid)
	}
	return c.forget(n)
}

func (c *Cluster) forget(n *Node) error {
	if err := os.Remove(c.processFile(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ended reports whether a pidfd's process ends within the time.
func ended(ctx context.Context, fd int, within time.Duration) bool {
	for deadline := time.Now().Add(within); ctx.Err() == nil; {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(min(left, time.Second)/time.Millisecond)+1)
		if n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
	return false
}
