package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
	mediaJSON     = "application/json"
	mediaTable    = "application/json;as=Table;g=meta.k8s.io;v=v1"
)

// api is how the load reaches an API server: plain requests with bodies made
// here, so that little of the machine goes into the client.
type api struct {
	base string
	tls  *tls.Config
	// token, if there is one, tells who the client is.
	token string
}

// anyServer trusts every server: the load's own child on the loopback address,
// before its certificates are known.
func anyServer() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
}

func fromKubeconfig(path string) (*api, error) {
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	t, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	return &api{base: config.Host, tls: t}, nil
}

// client returns a client with a connection of its own.
func (a *api) client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: a.tls.Clone(), ForceAttemptHTTP2: true, DisableCompression: true, HTTP2: &http.HTTP2Config{MaxReadFrameSize: 1 << 20, MaxReceiveBufferPerStream: 16 << 20, MaxReceiveBufferPerConnection: 64 << 20}}}
}

type request struct {
	method, path, accept string
	// body is sent as protobuf, unless patch is set: then it is a merge patch.
	body  []byte
	patch bool
}

// open sends a request and returns the good answer's body.
func (a *api) open(ctx context.Context, c *http.Client, r request) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, a.base+r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	if r.accept == "" {
		r.accept = mediaProtobuf
	}
	req.Header.Set("Accept", r.accept)
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	switch {
	case r.patch:
		req.Header.Set("Content-Type", "application/merge-patch+json")
	case r.body != nil:
		req.Header.Set("Content-Type", mediaProtobuf)
	}
	answer, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return nil, fmt.Errorf("%s %s: %s: %q", r.method, r.path, answer.Status, text)
	}
	return answer.Body, nil
}

// do sends a request and reads the answer to its end, decoding it into obj
// unless that is nil.
func (a *api) do(ctx context.Context, c *http.Client, r request, obj runtime.Object) error {
	body, err := a.open(ctx, c, r)
	if err != nil {
		return err
	}
	defer body.Close()
	if obj == nil {
		_, err = io.Copy(io.Discard, body)
		return err
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	return runtime.DecodeInto(scheme.Codecs.UniversalDeserializer(), data, obj)
}

// create posts an object to a collection's path.
func (a *api) create(ctx context.Context, c *http.Client, path string, obj runtime.Object) error {
	body, err := encode(obj)
	if err != nil {
		return err
	}
	return a.do(ctx, c, request{method: http.MethodPost, path: path, body: body}, nil)
}

// encode returns the protobuf form of a built-in object.
func encode(obj runtime.Object) ([]byte, error) {
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), mediaProtobuf)
	kinds, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		return nil, err
	}
	return runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, kinds[0].GroupVersion()), obj)
}

// namespace makes a namespace and waits for its service account, without which
// no pod can be made.
func (a *api) namespace(ctx context.Context, name string) error {
	c := a.client()
	defer c.CloseIdleConnections()
	if err := a.create(ctx, c, "/api/v1/namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := a.do(ctx, c, request{method: http.MethodGet, path: "/api/v1/namespaces/" + name + "/serviceaccounts/default"}, nil)
		if err == nil {
			return nil
		}
		if wait(ctx, 5*time.Millisecond) != nil {
			return fmt.Errorf("namespace %s has no service account: %w", name, err)
		}
	}
}

// each calls f for 0 to n-1, from so many clients with connections of their
// own, until one fails, and returns how long all of it took. Connections are
// made before.
func (a *api) each(ctx context.Context, clients, n int, f func(ctx context.Context, c *http.Client, i int) error) (time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var connected, done sync.WaitGroup
	begin := make(chan struct{})
	for range clients {
		connected.Add(1)
		done.Go(func() {
			c := a.client()
			defer c.CloseIdleConnections()
			err := a.do(ctx, c, request{method: http.MethodGet, path: "/readyz"}, nil)
			connected.Done()
			<-begin
			for err == nil {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				err = f(ctx, c, i)
			}
			cancel(err)
		})
	}
	connected.Wait()
	began := time.Now()
	close(begin)
	done.Wait()
	return time.Since(began), context.Cause(ctx)
}
