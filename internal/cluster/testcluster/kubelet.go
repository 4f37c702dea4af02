package testcluster

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Meter stands in for a kubelet's resource metrics: what its node's containers
// are said to use.
type Meter struct {
	mu     sync.Mutex
	cores  map[string]float64 // by namespace/pod/container; the node's is ""
	memory map[string]int64
	since  time.Time
	asked  int
}

// Use sets what a container (namespace/pod/container; "" means the node) has
// used all the time, in cores and bytes.
func (m *Meter) Use(container string, cores float64, memory int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cores[container], m.memory[container] = cores, memory
}

// Asked is how often it was read.
func (m *Meter) Asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

func (m *Meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.URL.Path != "/metrics/resource" || len(r.TLS.PeerCertificates) == 0 {
		http.Error(w, "only /metrics/resource, to holders of a certificate", http.StatusForbidden)
		return
	}
	m.asked++
	now := time.Now()
	for name, cores := range m.cores {
		kind, labels := "node", ""
		if p := strings.Split(name, "/"); len(p) == 3 {
			kind, labels = "container", fmt.Sprintf(`{container=%q,namespace=%q,pod=%q}`, p[2], p[0], p[1])
		}
		fmt.Fprintf(w, "%s_cpu_usage_seconds_total%s %g %d\n", kind, labels, cores*now.Sub(m.since).Seconds(), now.UnixMilli())
		fmt.Fprintf(w, "%s_memory_working_set_bytes%s %d %d\n", kind, labels, m.memory[name], now.UnixMilli())
	}
}

// Node makes a Node whose kubelet is a Meter.
func (c *Cluster) Node(t testing.TB, name string, labels map[string]string) *Meter {
	t.Helper()
	m := &Meter{cores: map[string]float64{}, memory: map[string]int64{}, since: time.Now().Add(-time.Hour)}
	_, serving, err := c.PKI.Kubelet(name, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(m)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*serving.Certificate()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.PKI.CA.Pool()}
	server.StartTLS()
	t.Cleanup(server.Close)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if err := c.Client.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(server.Listener.Addr().(*net.TCPAddr).Port)
	if err := c.Client.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	return m
}
