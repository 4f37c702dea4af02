// Package handlers runs the one-shot checks that probes and lifecycle hooks
// ask for: a command in a container, an HTTP request, a TCP connection, a gRPC
// health check.
package handlers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxOutput is how much of an answer is kept, in bytes.
const maxOutput = 10 << 10

// Runner runs checks.
type Runner struct {
	Runtime cri.RuntimeServiceClient
	// UserAgent is sent with HTTP and gRPC checks.
	UserAgent string
}

// Exec runs a command in the container. A command that fails is not an error
// but ok == false.
func (r *Runner) Exec(ctx context.Context, containerID string, command []string, timeout time.Duration) (ok bool, output string, err error) {
	resp, err := r.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{
		ContainerId: containerID, Cmd: command, Timeout: int64(timeout.Round(time.Second) / time.Second),
	})
	if err != nil {
		if status.Code(err) == codes.DeadlineExceeded {
			return false, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout), nil
		}
		return false, "", err
	}
	output = string(resp.Stdout) + string(resp.Stderr)
	if len(output) > maxOutput {
		output = output[:maxOutput]
	}
	return resp.ExitCode == 0, output, nil
}

// Port returns the number of a port given by number or by name of one of the
// container's.
func Port(p intstr.IntOrString, c *v1.Container) (int, error) {
	if p.Type == intstr.Int {
		return p.IntValue(), nil
	}
	for _, port := range c.Ports {
		if port.Name == p.StrVal {
			return int(port.ContainerPort), nil
		}
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil {
		return n, nil
	}
	return 0, fmt.Errorf("couldn't find port: %v in container %s", p.StrVal, c.Name)
}

// HTTPGet asks for what the action names, at podIP unless it names a host.
// Answers from 200 to 399 are ok; a redirect to another host is, too.
func (r *Runner) HTTPGet(ctx context.Context, a *v1.HTTPGetAction, c *v1.Container, podIP string, timeout time.Duration) (ok bool, output string, err error) {
	port, err := Port(a.Port, c)
	if err != nil {
		return false, "", err
	}
	host := a.Host
	if host == "" {
		host = podIP
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path}
	}
	u.Scheme = strings.ToLower(string(a.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false, "", err
	}
	for _, h := range a.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	if _, set := req.Header["User-Agent"]; !set {
		req.Header.Set("User-Agent", r.UserAgent)
	}
	if _, set := req.Header["Accept"]; !set {
		req.Header.Set("Accept", "*/*")
	}
	if h := req.Header.Get("Host"); h != "" {
		req.Host = h
	}
	// One connection each: a kept one would outlive what it checks.
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives:  true,
			DisableCompression: true,
		},
		CheckRedirect: sameHost,
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, err.Error(), nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	if err != nil {
		return false, err.Error(), nil
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusBadRequest {
		return true, string(body), nil
	}
	return false, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode), nil
}

const maxRedirects = 10

func sameHost(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	return nil
}

// TCP opens a connection.
func (r *Runner) TCP(ctx context.Context, a *v1.TCPSocketAction, c *v1.Container, podIP string, timeout time.Duration) (ok bool, output string, err error) {
	port, err := Port(a.Port, c)
	if err != nil {
		return false, "", err
	}
	host := a.Host
	if host == "" {
		host = podIP
	}
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false, err.Error(), nil
	}
	return true, "", conn.Close()
}

// GRPC asks for the service's health by gRPC's health checking protocol.
func (r *Runner) GRPC(ctx context.Context, a *v1.GRPCAction, podIP string, timeout time.Duration) (ok bool, output string, err error) {
	addr := net.JoinHostPort(podIP, strconv.Itoa(int(a.Port)))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(r.UserAgent))
	if err != nil {
		return false, "", err
	}
	defer conn.Close()
	service := ""
	if a.Service != nil {
		service = *a.Service
	}
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(metadata.NewOutgoingContext(ctx, metadata.MD{}),
		&grpc_health_v1.HealthCheckRequest{Service: service})
	switch status.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return false, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message()), nil
	case codes.DeadlineExceeded:
		return false, fmt.Sprintf("timeout: health rpc did not complete within %v", timeout), nil
	default:
		return false, "error: health rpc probe failed: " + err.Error(), nil
	}
	if resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return false, fmt.Sprintf("service unhealthy (responded with %q)", resp.Status), nil
	}
	return true, "service healthy", nil
}

// Hook runs a lifecycle hook to its end or until ctx ends.
func (r *Runner) Hook(ctx context.Context, h *v1.LifecycleHandler, containerID string, c *v1.Container, podIP string) error {
	switch {
	case h.Exec != nil:
		ok, output, err := r.Exec(ctx, containerID, h.Exec.Command, 0)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("command '%s' failed: %q", strings.Join(h.Exec.Command, " "), output)
		}
		return nil
	case h.HTTPGet != nil:
		ok, output, err := r.HTTPGet(ctx, h.HTTPGet, c, podIP, hookTimeout)
		if err != nil {
			return err
		}
		if !ok {
			return errors.New(output)
		}
		return nil
	case h.Sleep != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
			return nil
		}
	}
	return errors.New("invalid handler: it names no exec, httpGet or sleep action")
}

// hookTimeout bounds an HTTP hook; the pod's grace period bounds it, too.
const hookTimeout = 2 * time.Minute
