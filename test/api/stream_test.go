package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	serveforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	servecommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// node is a kubelet's streaming side, with processes that are Go functions.
type node struct{}

// ExecInContainer implements servecommand.Executor.
func (node) ExecInContainer(_ context.Context, _ string, _ string, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser, _ bool, sizes <-chan servecommand.TerminalSize, _ time.Duration) error {
	switch cmd[0] {
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "both":
		fmt.Fprintf(out, "to stdout of %s", container)
		fmt.Fprint(errOut, "to stderr")
		return nil
	case "exit":
		code, _ := strconv.Atoi(cmd[1])
		return &utilexec.CodeExitError{Err: fmt.Errorf("exit %d", code), Code: code}
	case "size":
		size := <-sizes
		fmt.Fprintf(out, "%dx%d", size.Width, size.Height)
		return nil
	}
	return fmt.Errorf("no program %q", cmd[0])
}

// AttachContainer implements servecommand.Attacher.
func (n node) AttachContainer(ctx context.Context, pod string, uid string, container string, in io.Reader, out, errOut io.WriteCloser, tty bool, sizes <-chan servecommand.TerminalSize) error {
	return n.ExecInContainer(ctx, pod, uid, container, []string{"both"}, in, out, errOut, tty, sizes, 0)
}

// PortForward implements serveforward.PortForwarder: it answers lines.
func (node) PortForward(_ context.Context, _ string, _ string, port int32, stream io.ReadWriteCloser) error {
	for lines := bufio.NewScanner(stream); lines.Scan(); {
		if _, err := fmt.Fprintf(stream, "%d says %s\n", port, lines.Text()); err != nil {
			return err
		}
	}
	return nil
}

func (n node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	foreign := slices.ContainsFunc(slices.Collect(maps.Keys(r.Header)), func(name string) bool {
		return name == "Authorization" || strings.HasPrefix(name, "Impersonate-")
	})
	if len(r.TLS.PeerCertificates) == 0 || foreign {
		http.Error(w, "the API server shows its certificate and nothing of its client's", http.StatusUnauthorized)
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	protocols := []string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"}
	switch parts[0] {
	case "exec", "attach":
		o, err := servecommand.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if parts[0] == "exec" {
			servecommand.ServeExec(w, r, n, parts[2], "", parts[3], r.URL.Query()["command"], o, patience, patience, protocols)
		} else {
			servecommand.ServeAttach(w, r, n, parts[2], "", parts[3], o, patience, patience, protocols)
		}
	case "portForward":
		o, err := serveforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		serveforward.ServePortForward(w, r, n, parts[2], "", o, patience, patience, serveforward.SupportedProtocols)
	case "containerLogs":
		fmt.Fprintf(w, "log of %s %s", strings.Join(parts[1:], "/"), r.URL.RawQuery)
	case "page":
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<a href="/target">link</a>`)
	default:
		fmt.Fprintf(w, "%s %s", r.Method, r.URL)
	}
}

// pod makes a pod on a node whose kubelet is a node of this file.
func (s *server) streamingPod(t *testing.T) {
	_, serving, err := s.PKI.Kubelet("streams", s.Address.Addr())
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(s.PKI.CA.PEM)
	k := httptest.NewUnstartedServer(node{})
	k.TLS = &tls.Config{Certificates: []tls.Certificate{*serving.Certificate()}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: clients}
	k.StartTLS()
	t.Cleanup(k.Close)
	port := k.Listener.Addr().(*net.TCPAddr).Port
	s.ok(201, call{Method: "POST", Path: "/api/v1/nodes", Body: `{"metadata":{"name":"streams"}}`})
	s.ok(200, call{Method: "PATCH", Path: "/api/v1/nodes/streams/status", Type: mergePatch,
		Body: fmt.Sprintf(`{"status":{"addresses":[{"type":"InternalIP","address":"127.0.0.1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":%d}}}}`, port)})
	s.namespace("streams")
	s.serviceAccount("streams")
	s.ok(201, call{Method: "POST", Path: "/api/v1/namespaces/streams/pods", Body: `{"metadata":{"name":"p"},"spec":{"nodeName":"streams","containers":[{"name":"main","image":"i"},{"name":"side","image":"i"}]}}`})
	s.ok(200, call{Method: "PATCH", Path: "/api/v1/namespaces/streams/pods/p/status", Type: mergePatch, Body: `{"status":{"phase":"Running","podIP":"127.0.0.1"}}`})
}

func TestStreams(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.streamingPod(t)
	request := func(sub string, o any) string {
		r := s.kube.CoreV1().RESTClient().Post().Namespace("streams").Resource("pods").Name("p").SubResource(sub)
		switch o := o.(type) {
		case *corev1.PodExecOptions:
			r.VersionedParams(o, scheme.ParameterCodec)
		case *corev1.PodAttachOptions:
			r.VersionedParams(o, scheme.ParameterCodec)
		}
		return r.URL().String()
	}
	for name, executor := range map[string]func(url string) (remotecommand.Executor, error){
		"SPDY": func(u string) (remotecommand.Executor, error) {
			target := s.kube.CoreV1().RESTClient().Post().AbsPath(u).URL()
			if i := strings.Index(u, "?"); i >= 0 {
				target.Path, target.RawQuery = strings.TrimPrefix(u[:i], s.URL()), u[i+1:]
			}
			return remotecommand.NewSPDYExecutor(s.Config, "POST", target)
		},
		"WebSocket v5": func(u string) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(s.Config, "GET", u)
		},
		"WebSocket v4": func(u string) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutorForProtocols(s.Config, "GET", u, "v4.channel.k8s.io")
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			run := func(sub string, o any, in io.Reader, sizes remotecommand.TerminalSizeQueue) (string, string, error) {
				t.Helper()
				e, err := executor(request(sub, o))
				if err != nil {
					t.Fatal(err)
				}
				var out, errOut bytes.Buffer
				so := remotecommand.StreamOptions{Stdin: in, Stdout: &out, Stderr: &errOut}
				if sizes != nil {
					so.Tty, so.TerminalSizeQueue, so.Stderr = true, sizes, nil
				}
				err = e.StreamWithContext(ctx, so)
				return out.String(), errOut.String(), err
			}
			out, errOut, err := run("exec", &corev1.PodExecOptions{Container: "side", Command: []string{"both"}, Stdout: true, Stderr: true}, nil, nil)
			if out != "to stdout of side" || errOut != "to stderr" || err != nil {
				t.Errorf("both: %q %q %v", out, errOut, err)
			}
			long := strings.Repeat("0123456789", 50_000)
			if name != "WebSocket v4" { // where stdin cannot be closed
				out, _, err = run("exec", &corev1.PodExecOptions{Container: "main", Command: []string{"cat"}, Stdin: true, Stdout: true, Stderr: true}, strings.NewReader(long), nil)
				if out != long || err != nil {
					t.Errorf("cat: %d bytes, %v", len(out), err)
				}
			}
			_, _, err = run("exec", &corev1.PodExecOptions{Container: "main", Command: []string{"exit", "7"}, Stdout: true, Stderr: true}, nil, nil)
			if code, ok := err.(exec.CodeExitError); !ok || code.ExitStatus() != 7 {
				t.Errorf("exit: %v", err)
			}
			if _, _, err = run("exec", &corev1.PodExecOptions{Container: "main", Command: []string{"nothing"}, Stdout: true, Stderr: true}, nil, nil); err == nil || !strings.Contains(err.Error(), `no program "nothing"`) {
				t.Errorf("no program: %v", err)
			}
			out, _, err = run("exec", &corev1.PodExecOptions{Container: "main", Command: []string{"size"}, Stdout: true, TTY: true}, nil, &sizes{{Width: 80, Height: 25}})
			if out != "80x25" || err != nil {
				t.Errorf("size: %q %v", out, err)
			}
			out, errOut, err = run("attach", &corev1.PodAttachOptions{Container: "main", Stdout: true, Stderr: true}, nil, nil)
			if out != "to stdout of main" || errOut != "to stderr" || err != nil {
				t.Errorf("attach: %q %q %v", out, errOut, err)
			}
		})
	}
	t.Run("port-forward", s.portForward)
	t.Run("plain", s.streamRefusals)
	t.Run("proxy", s.streamProxy)
}

// sizes are the sizes that a terminal takes, one after the other.
type sizes []remotecommand.TerminalSize

func (q *sizes) Next() *remotecommand.TerminalSize {
	if len(*q) == 0 {
		return nil
	}
	next := (*q)[0]
	*q = (*q)[1:]
	return &next
}

func (s *server) portForward(t *testing.T) {
	target := s.kube.CoreV1().RESTClient().Post().Namespace("streams").Resource("pods").Name("p").SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(target, s.Config)
	if err != nil {
		t.Fatal(err)
	}
	for name, dial := range map[string]func() (*portforward.PortForwarder, chan struct{}, chan struct{}, error){
		"SPDY": func() (*portforward.PortForwarder, chan struct{}, chan struct{}, error) {
			stop, ready := make(chan struct{}), make(chan struct{})
			f, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", target), []string{":8080"}, stop, ready, io.Discard, io.Discard)
			return f, stop, ready, err
		},
		"WebSocket": func() (*portforward.PortForwarder, chan struct{}, chan struct{}, error) {
			stop, ready := make(chan struct{}), make(chan struct{})
			f, err := portforward.New(tunnel, []string{":8080"}, stop, ready, io.Discard, io.Discard)
			return f, stop, ready, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, stop, ready, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- f.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-ended:
				t.Fatal(err)
			case <-time.After(patience):
				t.Fatal("not ready")
			}
			ports, err := f.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", ports[0].Local))
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(conn, "hello %d\n", i)
				line, err := bufio.NewReader(conn).ReadString('\n')
				if line != fmt.Sprintf("8080 says hello %d\n", i) || err != nil {
					t.Errorf("%q %v", line, err)
				}
				conn.Close()
			}
			close(stop)
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

func (s *server) streamRefusals(t *testing.T) {
	s = s.in(t)
	pod := "/api/v1/namespaces/streams/pods/p"
	for path, want := range map[string]string{
		pod + "/log":                                  "400 a container name must be specified for pod p, choose one of: [main side]",
		pod + "/log?container=other":                  "400 container other is not valid for pod p",
		pod + "/log?container=main&tailLines=x":       "400 ",
		pod + "/log?container=main&tailLines=-1":      "422 ",
		pod + "/exec?container=main":                  "400 Upgrade request required",
		pod + "/exec?container=main&command=both":     "400 Upgrade request required",
		pod + "x/exec?container=main&command=x":       "404 pods \"px\" not found",
		"/api/v1/nodes/absent/proxy/metrics":          "404 nodes \"absent\" not found",
		"/api/v1/namespaces/streams/services/x/proxy": "404 services \"x\" not found",
	} {
		a := s.do(call{Method: "GET", Path: path})
		if st := a.status(t); !strings.HasPrefix(fmt.Sprint(a.Code, " ", st.Message), want) {
			t.Errorf("%s: %d %s, not %s", path, a.Code, st.Message, want)
		}
	}
	logs := s.ok(200, call{Method: "GET", Path: pod + "/log?container=main&follow=true&tailLines=5&timestamps=true"})
	if got := string(logs.Body); got != "log of streams/p/main follow=true&tailLines=5&timestamps=true" {
		t.Errorf("log: %s", got)
	}
	conn := s.socket(pod+"/log?container=side", "binary.k8s.io")
	if _, data, err := conn.ReadMessage(); err != nil || len(data) != 0 {
		t.Errorf("the first message says that the connection is there: %q %v", data, err)
	}
	if kind, data, err := conn.ReadMessage(); err != nil || kind != websocket.BinaryMessage || string(data) != "log of streams/p/side " {
		t.Errorf("log as messages: %d %q %v", kind, data, err)
	}
	if a := s.do(call{Method: "POST", Path: pod + "/exec?container=main&command=both&stdout=1", User: "nobody"}); a.Code != 403 || a.status(t).Reason != metav1.StatusReasonForbidden {
		t.Errorf("forbidden: %d %s", a.Code, a.Body)
	}
}

// streamProxy looks at a node's web pages.
func (s *server) streamProxy(t *testing.T) {
	s = s.in(t)
	const root = "/api/v1/nodes/streams/proxy"
	for path, want := range map[string]string{
		"/some/path?a=b": "GET /some/path?a=b",
		"/":              "GET /",
		"/page":          `<a href="` + root + `/target">link</a>`,
	} {
		a := s.ok(200, call{Method: "GET", Path: root + path, User: "someone", Header: map[string]string{"Impersonate-Group": "system:masters", "Impersonate-Extra-Scopes": "all"}})
		if got := string(a.Body); got != want {
			t.Errorf("%s: %s, not %s", path, got, want)
		}
	}
	if got := string(s.ok(200, call{Method: "POST", Path: root + "?a=b"}).Body); got != "POST /?a=b" {
		t.Errorf("the root takes %s", got)
	}
	// Relative links would lead elsewhere without the last slash.
	still := *s.http
	still.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, method := range []string{"GET", "HEAD"} {
		a := s.ok(301, call{Method: method, Path: root + "?a=b", Client: &still})
		if got := a.Header.Get("Location"); got != root+"/?a=b" {
			t.Errorf("%s is redirected to %s", method, got)
		}
	}
}
