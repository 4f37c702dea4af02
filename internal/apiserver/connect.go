package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	netutil "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/internal/apiserver/authz"
	"skiff/internal/apiserver/streams"
	"skiff/internal/apiserver/verbs"
)

// NodeDialer tells how to reach a node's kubelet.
type NodeDialer interface {
	// Kubelet returns the base URL of the node's kubelet and a transport with
	// the API server's credentials.
	Kubelet(ctx context.Context, node *corev1.Node) (*url.URL, http.RoundTripper, error)
}

// connect answers for subresources that open a stream to a node, pod or
// service.
func (s *Server) connect(w http.ResponseWriter, r *http.Request, info *requestInfo, req *verbs.Request) error {
	if len(r.URL.Query()["dryRun"]) > 0 {
		return apierrors.NewBadRequest("dryRun is not supported")
	}
	if err := checkStream(r, info, req); err != nil {
		return err
	}
	if s.Nodes == nil {
		return apierrors.NewServiceUnavailable("this API server has no way to reach nodes")
	}
	e, err := s.Verbs.Get(r.Context(), &verbs.Request{Version: req.Version, Namespace: req.Namespace, Name: plainName(req.Name, info.Subresource)}, &metav1.GetOptions{})
	if err != nil {
		return err
	}
	obj, err := e.Object()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	switch parent := obj.(type) {
	case *corev1.Pod:
		switch info.Subresource {
		case "log":
			return s.podLog(w, r, req, parent)
		case "exec", "attach", "portforward":
			return s.podStream(w, r, info, req, parent)
		case "proxy":
			return s.podProxy(w, r, info, req, parent)
		}
	case *corev1.Service:
		if info.Subresource == "proxy" {
			return s.serviceProxy(w, r, info, req, parent)
		}
	case *corev1.Node:
		if info.Subresource == "proxy" {
			return s.nodeProxy(w, r, info, req, parent)
		}
	}
	return notFound()
}

// checkStream looks at what a request says of itself, before there is anything to
// connect to.
func checkStream(r *http.Request, info *requestInfo, req *verbs.Request) error {
	q := r.URL.Query()
	switch info.Subresource {
	case "log":
		return checkLogOptions(info.Name, q)
	case "portforward":
		for _, port := range q["ports"] {
			if _, err := strconv.ParseUint(port, 10, 16); err != nil {
				return apierrors.NewBadRequest("cannot convert to []int32: " + err.Error())
			}
		}
	case "proxy":
		if _, _, _, ok := netutil.SplitSchemeNamePort(info.Name); !ok {
			return apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", req.Resource().Singular, info.Name))
		}
	}
	return nil
}

// plainName takes scheme and port off a name of the form scheme:name:port,
// which proxy requests may use.
func plainName(name, subresource string) string {
	if subresource != "proxy" {
		return name
	}
	_, name, _ = splitProxyName(name)
	return name
}

func splitProxyName(name string) (scheme, plain, port string) {
	switch parts := strings.Split(name, ":"); len(parts) {
	case 2:
		return "", parts[0], parts[1]
	case 3:
		return parts[0], parts[1], parts[2]
	}
	return "", name, ""
}

func (s *Server) kubeletOf(ctx context.Context, pod *corev1.Pod) (*url.URL, http.RoundTripper, error) {
	if pod.Spec.NodeName == "" {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	nodes := s.Verbs.Lookup(schema.GroupResource{Resource: "nodes"})
	e, err := s.Verbs.Get(ctx, &verbs.Request{Version: nodes.Versions[0], Name: pod.Spec.NodeName}, &metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return nil, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, pod.Spec.NodeName) // as upstream says it
	}
	if err != nil {
		return nil, nil, err
	}
	node, err := e.Object()
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	u, rt, err := s.Nodes.Kubelet(ctx, node.(*corev1.Node))
	if err != nil {
		return nil, nil, apierrors.NewServiceUnavailable(err.Error())
	}
	return u, rt, nil
}

// container picks the container that a request means.
func container(pod *corev1.Pod, name string) (string, error) {
	var names, inits []string
	for i := range pod.Spec.Containers {
		names = append(names, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.InitContainers {
		inits = append(inits, pod.Spec.InitContainers[i].Name)
	}
	all := append(slices.Clone(names), inits...)
	for i := range pod.Spec.EphemeralContainers {
		all = append(all, pod.Spec.EphemeralContainers[i].Name)
	}
	if name != "" {
		if !slices.Contains(all, name) {
			return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
		}
		return name, nil
	}
	if d := pod.Annotations["kubectl.kubernetes.io/default-container"]; d != "" && slices.Contains(names, d) {
		return d, nil
	}
	if len(names) == 1 {
		return names[0], nil
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, append(inits, names...)))
}

func (s *Server) podLog(w http.ResponseWriter, r *http.Request, req *verbs.Request, pod *corev1.Pod) error {
	if r.Method != http.MethodGet {
		return apierrors.NewMethodNotSupported(schema.GroupResource{Resource: "pods/log"}, strings.ToLower(r.Method))
	}
	q := r.URL.Query()
	name, err := container(pod, q.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		w.WriteHeader(http.StatusNoContent) // there is no log yet
		return nil
	}
	target, rt, err := s.kubeletOf(r.Context(), pod)
	if err != nil {
		return err
	}
	q.Del("container")
	target.Path = "/containerLogs/" + pod.Namespace + "/" + pod.Name + "/" + name
	target.RawQuery = q.Encode()
	if streams.IsLog(r) {
		return streams.Log(w, r, target, rt)
	}
	s.forward(w, r, target, rt, false, false)
	return nil
}

// checkLogOptions looks at the numbers of a request for a log.
func checkLogOptions(pod string, q url.Values) error {
	var errs field.ErrorList
	for name, least := range map[string]int64{"tailLines": 0, "limitBytes": 1, "sinceSeconds": 1} {
		v := q.Get(name)
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		if n < least {
			text := "must be greater than 0"
			if least == 0 {
				text = "must be greater than or equal to 0"
			}
			errs = append(errs, field.Invalid(field.NewPath(name), n, text))
		}
	}
	if v := q.Get("sinceTime"); v != "" {
		if _, err := time.Parse(time.RFC3339, v); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	if _, ok := q["stream"]; ok {
		errs = append(errs, field.Forbidden(field.NewPath("stream"), "may not be specified")) // as by default in v1.36
	}
	if q.Get("sinceSeconds") != "" && q.Get("sinceTime") != "" {
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, pod, errs)
	}
	return nil
}

func (s *Server) podStream(w http.ResponseWriter, r *http.Request, info *requestInfo, req *verbs.Request, pod *corev1.Pod) error {
	if info.Verb == "get" {
		// A WebSocket can only begin with GET; what it does is still a create
		// (KEP-5241).
		if err := s.Verbs.Authorize(r.Context(), &authz.Attributes{
			Verb: "create", Version: "v1", Resource: "pods", Subresource: info.Subresource, Namespace: req.Namespace, Name: req.Name,
		}); err != nil {
			return err
		}
	}
	q := r.URL.Query()
	out := url.Values{}
	path := "/portForward/" + pod.Namespace + "/" + pod.Name
	var options runtime.Object = &corev1.PodPortForwardOptions{}
	if info.Subresource != "portforward" {
		name, err := container(pod, q.Get("container"))
		if err != nil {
			return err
		}
		path = "/" + info.Subresource + "/" + pod.Namespace + "/" + pod.Name + "/" + name
		for from, to := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
			if truthy(q.Get(from)) {
				out.Set(to, "1")
			}
		}
		out["command"] = q["command"]
		if info.Subresource == "exec" {
			options = &corev1.PodExecOptions{Container: name, Command: q["command"], Stdin: truthy(q.Get("stdin")), Stdout: truthy(q.Get("stdout")), Stderr: truthy(q.Get("stderr")), TTY: truthy(q.Get("tty"))}
		} else {
			options = &corev1.PodAttachOptions{Container: name, Stdin: truthy(q.Get("stdin")), Stdout: truthy(q.Get("stdout")), Stderr: truthy(q.Get("stderr")), TTY: truthy(q.Get("tty"))}
		}
	} else if ports := q["ports"]; len(ports) > 0 {
		out["port"] = ports
	}
	if err := s.Verbs.Connect(r.Context(), req, options); err != nil {
		return err
	}
	target, rt, err := s.kubeletOf(r.Context(), pod)
	if err != nil {
		return err
	}
	target.Path, target.RawQuery = path, out.Encode()
	switch {
	case info.Subresource == "portforward" && streams.IsTunnel(r):
		return streams.Tunnel(w, r, target, rt)
	case info.Subresource != "portforward" && streams.IsV5(r):
		streams.Translate(w, r, target, rt, streams.Wanted{
			Stdin: truthy(q.Get("stdin")), Stdout: truthy(q.Get("stdout")), Stderr: truthy(q.Get("stderr")), TTY: truthy(q.Get("tty")),
		})
		return nil
	}
	s.forward(w, r, target, rt, false, true)
	return nil
}

// forward hands the request on, upgrades (SPDY, WebSocket) included. Pages may
// be meant for browsers: then their links lead through here, and their root is
// redirected to where relative links do.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, target *url.URL, rt http.RoundTripper, pages, upgrade bool) {
	r = r.Clone(r.Context())
	r.URL.RawQuery = target.RawQuery
	// The requester's credentials are for this server alone.
	maps.DeleteFunc(r.Header, func(name string, _ []string) bool {
		return name == "Authorization" || strings.HasPrefix(name, "Impersonate-")
	})
	h := proxy.NewUpgradeAwareHandler(target, rt, pages, upgrade, responder{r})
	h.UseLocationHost = true
	h.UseRequestLocation = false
	h.ServeHTTP(w, r)
}

// responder answers when the other side cannot be reached.
type responder struct{ r *http.Request }

func (p responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	if _, ok := err.(apierrors.APIStatus); ok {
		writeError(w, p.r, err)
		return
	}
	writeError(w, p.r, apierrors.NewServiceUnavailable("error trying to reach the other side: "+err.Error()))
}

func (s *Server) nodeProxy(w http.ResponseWriter, r *http.Request, info *requestInfo, req *verbs.Request, node *corev1.Node) error {
	if err := s.Verbs.Connect(r.Context(), req, &corev1.NodeProxyOptions{Path: info.Rest}); err != nil {
		return err
	}
	target, rt, err := s.Nodes.Kubelet(r.Context(), node)
	if err != nil {
		return apierrors.NewServiceUnavailable(err.Error())
	}
	if _, _, port := splitProxyName(req.Name); port != "" && port != target.Port() {
		target.Host = target.Hostname() + ":" + port
		target.Scheme, rt = "http", s.toPods
	}
	return s.proxyTo(w, r, info, target, rt)
}

func (s *Server) podProxy(w http.ResponseWriter, r *http.Request, info *requestInfo, req *verbs.Request, pod *corev1.Pod) error {
	if err := s.Verbs.Connect(r.Context(), req, &corev1.PodProxyOptions{Path: info.Rest}); err != nil {
		return err
	}
	scheme, _, port := splitProxyName(req.Name)
	if port == "" {
		for i := range pod.Spec.Containers {
			if p := pod.Spec.Containers[i].Ports; len(p) > 0 && port == "" {
				port = strconv.Itoa(int(p[0].ContainerPort))
			}
		}
	}
	if pod.Status.PodIP == "" {
		return apierrors.NewBadRequest("address not allowed")
	}
	target := &url.URL{Scheme: orHTTP(scheme), Host: joinPort(pod.Status.PodIP, port)}
	return s.proxyTo(w, r, info, target, s.toPods)
}

func orHTTP(scheme string) string {
	if scheme == "" {
		return "http"
	}
	return scheme
}

func joinPort(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == "" {
		return host
	}
	return host + ":" + port
}

// serviceProxy asks one of the service's ready endpoints.
func (s *Server) serviceProxy(w http.ResponseWriter, r *http.Request, info *requestInfo, req *verbs.Request, service *corev1.Service) error {
	if err := s.Verbs.Connect(r.Context(), req, &corev1.ServiceProxyOptions{Path: info.Rest}); err != nil {
		return err
	}
	scheme, _, port := splitProxyName(req.Name)
	host, err := s.endpoints.Of(r.Context(), service, port)
	if err != nil {
		return err
	}
	return s.proxyTo(w, r, info, &url.URL{Scheme: orHTTP(scheme), Host: host}, s.toPods)
}

func (s *Server) proxyTo(w http.ResponseWriter, r *http.Request, info *requestInfo, target *url.URL, rt http.RoundTripper) error {
	target.Path, target.RawQuery = info.Rest, r.URL.RawQuery
	s.forward(w, r, target, rt, true, false)
	return nil
}
