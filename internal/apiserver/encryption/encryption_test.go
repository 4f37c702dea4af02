package encryption_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	kmsv2 "k8s.io/kms/apis/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/apiserver/encryption"
	"skiff/internal/cluster"
	"skiff/internal/cluster/testcluster"
	"skiff/internal/store"
	"skiff/internal/store/pebble"
)

func secret(n int, b byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, n))
}

func config(rules ...string) string {
	return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n" + strings.Join(rules, "")
}

func rule(resources string, providers ...string) string {
	return fmt.Sprintf("- resources: [%s]\n  providers: [%s]\n", resources, strings.Join(providers, ", "))
}

func key(kind, name string, b byte) string {
	return fmt.Sprintf("{%s: {keys: [{name: %s, secret: %q}]}}", kind, name, secret(32, b))
}

// stored reads the bytes in a database whose server has stopped.
func stored(t *testing.T, dir, key string) string {
	t.Helper()
	e, err := pebble.Open(pebble.Options{Dir: filepath.Join(dir, "db"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	kv, err := e.Get(t.Context(), key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return string(kv.Value)
}

// world is a data directory over which servers with different configurations
// run one after the other.
type world struct {
	t         *testing.T
	dir, file string
}

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	return &world{t, dir, filepath.Join(dir, "encryption.yaml")}
}

func (w *world) write(text string) {
	w.t.Helper()
	// As careful writers do: the file is never half there.
	if err := os.WriteFile(w.file+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.file+".new", w.file); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) run(text string, do func(tc *testcluster.Cluster)) {
	w.t.Helper()
	w.write(text)
	tc := testcluster.StartWith(w.t, cluster.ServerConfig{DataDir: w.dir, API: cluster.APIConfig{EncryptionConfigFile: w.file, EncryptionReload: true}})
	do(tc)
	if err := tc.Stop(); err != nil {
		w.t.Fatal(err)
	}
}

func newSecret(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string][]byte{"k": []byte("the content")}}
}

func create(t *testing.T, tc *testcluster.Cluster, obj client.Object) {
	t.Helper()
	if err := tc.Client.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

func readable(t *testing.T, tc *testcluster.Cluster, name string) {
	t.Helper()
	s := newSecret(name)
	if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil || string(s.Data["k"]) != "the content" {
		t.Fatalf("%s: %v %v", name, s.Data, err)
	}
}

func TestProviders(t *testing.T) {
	for _, kind := range []string{"aescbc", "aesgcm", "secretbox"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run(config(rule("secrets", "{identity: {}}")), func(tc *testcluster.Cluster) { create(t, tc, newSecret("plain")) })
			if got := stored(t, w.dir, "/registry/secrets/default/plain"); !strings.HasPrefix(got, "k8s\x00") {
				t.Fatalf("%q", got)
			}
			first := config(rule("secrets", key(kind, "key1", 1), "{identity: {}}"))
			w.run(first, func(tc *testcluster.Cluster) {
				create(t, tc, newSecret("old"))
				readable(t, tc, "old")
				readable(t, tc, "plain")
			})
			if got := stored(t, w.dir, "/registry/secrets/default/old"); !strings.HasPrefix(got, "k8s:enc:"+kind+":v1:key1:") || strings.Contains(got, "content") {
				t.Fatalf("%q", got)
			}
			// The key is rotated while the server runs: what is written from then
			// on has the new one, even if nothing else changes.
			w.run(first, func(tc *testcluster.Cluster) {
				w.write(config(rule("secrets", key(kind, "key2", 2), key(kind, "key1", 1), "{identity: {}}")))
				names := []string{"old", "plain"}
				for _, name := range names {
					s := newSecret(name)
					if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil {
						t.Fatal(err)
					}
					before := s.ResourceVersion
					err := wait.PollUntilContextTimeout(t.Context(), 2*time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
						err := tc.Client.Update(ctx, s)
						return s.ResourceVersion != before, err
					})
					if err != nil {
						t.Fatalf("%s was not encrypted anew: %v", name, err)
					}
					// And once more is once too often.
					after := s.ResourceVersion
					if err := tc.Client.Update(t.Context(), s); err != nil || s.ResourceVersion != after {
						t.Errorf("%s was written without need: %v", name, err)
					}
				}
			})
			for _, name := range []string{"old", "plain"} {
				if got := stored(t, w.dir, "/registry/secrets/default/"+name); !strings.HasPrefix(got, "k8s:enc:"+kind+":v1:key2:") {
					t.Errorf("%s: %.40q", name, got)
				}
			}
			w.run(config(rule("secrets", key(kind, "key2", 2))), func(tc *testcluster.Cluster) {
				readable(t, tc, "old")
				readable(t, tc, "plain")
			})
		})
	}
}

func TestWildcards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(config(rule("configmaps", "{identity: {}}"), rule("'*.'", key("aesgcm", "core", 1)), rule("'*.*'", key("secretbox", "rest", 2))), func(tc *testcluster.Cluster) {
		create(t, tc, newSecret("s"))
		create(t, tc, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}})
		create(t, tc, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}})
	})
	for key, want := range map[string]string{
		"/registry/secrets/default/s": "k8s:enc:aesgcm:v1:core:", "/registry/services/specs/default/svc": "k8s:enc:aesgcm:v1:core:",
		"/registry/configmaps/default/c": "k8s\x00", "/registry/clusterroles/admin": "k8s:enc:secretbox:v1:rest:",
	} {
		if got := stored(t, w.dir, key); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %.60q, want %q", key, got, want)
		}
	}
}

// TestUpstreamsForm reads what upstream would have written, made here by the
// bare ciphers.
func TestUpstreamsForm(t *testing.T) {
	t.Parallel()
	const at = "/registry/secrets/default/foreign"
	raw := store.KV{Key: at}
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := bytes.Repeat([]byte{9}, 12)
	// The data is bound to the key in the store.
	raw.Value = aead.Seal(append([]byte("k8s:enc:aesgcm:v1:k:"), nonce...), nonce, []byte("the object"), []byte(at))
	inner, err := pebble.Open(pebble.Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := encryption.Parse([]byte(config(rule("'*.*'", key("aesgcm", "k", 7)))))
	if err != nil {
		t.Fatal(err)
	}
	e := encryption.New(inner, c, nil, nil, slog.New(slog.DiscardHandler))
	defer e.Close()
	for _, at := range []string{at, "/registry/secrets/default/moved"} {
		if _, err := inner.Txn(t.Context(), store.Op{Key: at, Value: raw.Value}); err != nil {
			t.Fatal(err)
		}
	}
	if kv, err := e.Get(t.Context(), at); err != nil || string(kv.Value) != "the object" {
		t.Errorf("%q %v", kv.Value, err)
	}
	if kv, err := e.Get(t.Context(), "/registry/secrets/default/moved"); err != nil || string(kv.Value) == "the object" {
		t.Errorf("a value that was moved to another key is read: %q %v", kv.Value, err)
	}
}

func TestConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		"kind: Secret": "kind EncryptionConfiguration",
		config():       "at least one resource configuration is required",
		config(rule("secrets", "{aescbc: {keys: [{name: k, secret: "+secret(16, 1)+"}]}}")): "secret is not of the expected length, got 16, expected one of [32]",
		config(rule("secrets", "{}")):         "provider does not contain exactly one of",
		config(rule("'*'", "{identity: {}}")): "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
		config(rule("secrets", "{kms: {apiVersion: v1, name: k, endpoint: 'unix:///x'}}")):                     "only v2 is supported",
		config(rule("secrets", "{kms: {apiVersion: v2, name: k, endpoint: 'tcp:///x'}}")):                      "must be of the form unix://",
		config(rule("secrets", "{aesgcm: {keys: [{name: k, secret: 'no base64'}]}}")):                          "secret must be base64 encoded",
		strings.Replace(config(rule("secrets", "{identity: {}}")), "resources:", "nonsense: 1\nresources:", 1): "nonsense",
	} {
		if _, err := encryption.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngives %v, want %s", text, err, want)
		} else if strings.Contains(err.Error(), secret(16, 1)) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

// keyService is a KMS plug-in: it "encrypts" by XOR with its key.
type keyService struct {
	kmsv2.UnimplementedKeyManagementServiceServer
	mu                  sync.Mutex
	current             string
	keys                map[string]byte
	encrypted, decrypts int
}

func (k *keyService) Status(context.Context, *kmsv2.StatusRequest) (*kmsv2.StatusResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &kmsv2.StatusResponse{Version: "v2", Healthz: "ok", KeyId: k.current}, nil
}

func xor(b []byte, by byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= by
	}
	return out
}

func (k *keyService) Encrypt(_ context.Context, r *kmsv2.EncryptRequest) (*kmsv2.EncryptResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.encrypted++
	return &kmsv2.EncryptResponse{KeyId: k.current, Ciphertext: xor(r.Plaintext, k.keys[k.current]), Annotations: map[string][]byte{"local.example.com": []byte("x")}}, nil
}

func (k *keyService) Decrypt(_ context.Context, r *kmsv2.DecryptRequest) (*kmsv2.DecryptResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.decrypts++
	by, ok := k.keys[r.KeyId]
	if !ok || string(r.Annotations["local.example.com"]) != "x" {
		return nil, errors.New("no such key")
	}
	return &kmsv2.DecryptResponse{Plaintext: xor(r.Ciphertext, by)}, nil
}

func TestKMS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	socket := filepath.Join(w.dir, "kms.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	service := &keyService{current: "first", keys: map[string]byte{"first": 0x55, "second": 0x66}}
	server := grpc.NewServer()
	kmsv2.RegisterKeyManagementServiceServer(server, service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() { server.Stop(); <-served }()

	kms := config(rule("secrets", "{kms: {apiVersion: v2, name: vault, endpoint: 'unix://"+socket+"'}}", "{identity: {}}"))
	const many = 20
	w.run(kms, func(tc *testcluster.Cluster) {
		for i := range many {
			create(t, tc, newSecret(fmt.Sprint("s", i)))
		}
		readable(t, tc, "s0")
	})
	got := stored(t, w.dir, "/registry/secrets/default/s0")
	if !strings.HasPrefix(got, "k8s:enc:kms:v2:vault:\x0a") || !strings.Contains(got, "first") || strings.Contains(got, "content") {
		t.Errorf("%q", got)
	}
	if service.encrypted != 1 {
		t.Errorf("the plug-in was asked %d times to encrypt", service.encrypted)
	}
	service.current = "second"
	w.run(kms, func(tc *testcluster.Cluster) {
		for i := range many {
			readable(t, tc, fmt.Sprint("s", i))
		}
		create(t, tc, newSecret("new"))
		s := newSecret("s1")
		if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil {
			t.Fatal(err)
		}
		before := s.ResourceVersion
		if err := tc.Client.Update(t.Context(), s); err != nil || s.ResourceVersion == before {
			t.Errorf("not encrypted anew: %v", err)
		}
	})
	if service.decrypts != 1 {
		t.Errorf("the plug-in was asked %d times to decrypt one seed", service.decrypts)
	}
	for name, want := range map[string]string{"new": "second", "s1": "second", "s2": "first"} {
		if got := stored(t, w.dir, "/registry/secrets/default/"+name); !strings.Contains(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	// Without the plug-in the rest of the API works.
	server.Stop()
	w.run(kms, func(tc *testcluster.Cluster) {
		create(t, tc, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}})
		s := newSecret("s2")
		if err := tc.Client.Get(t.Context(), client.ObjectKeyFromObject(s), s); err == nil {
			t.Error("a secret was read without its key")
		}
	})
}

// TestCustomResources has keys that no declaration knows.
func TestCustomResources(t *testing.T) {
	t.Parallel()
	inner, err := pebble.Open(pebble.Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := encryption.Parse([]byte(config(rule("things.example.com", key("aesgcm", "k", 7)))))
	if err != nil {
		t.Fatal(err)
	}
	e := encryption.New(inner, c, nil, nil, slog.New(slog.DiscardHandler))
	defer e.Close()
	for at, want := range map[string]string{
		"/registry/example.com/things/default/t": "k8s:enc:aesgcm:v1:k:",
		"/registry/example.com/others/default/t": "{}",
		"/registry/other.com/things/default/t":   "{}",
	} {
		if _, err := e.Txn(t.Context(), store.Op{Key: at, Value: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
		if kv, err := inner.Get(t.Context(), at); err != nil || !strings.HasPrefix(string(kv.Value), want) {
			t.Errorf("%s: %q %v", at, kv.Value, err)
		}
		if kv, err := e.Get(t.Context(), at); err != nil || string(kv.Value) != "{}" {
			t.Errorf("%s: %q %v", at, kv.Value, err)
		}
	}
}
