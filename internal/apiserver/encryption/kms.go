package encryption

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	kmsv2 "k8s.io/kms/apis/v2"
)

const (
	// seedSize is that of the seeds from which keys are derived, and of the
	// random part that makes each value's key unique.
	seedSize = 32
	// checked is how long the plug-in's word about its key holds.
	checked = time.Minute
	// remembered is how many seeds are kept that the plug-in has decrypted.
	remembered = 1000
	// maxName and maxAnnotations bound what a plug-in may have stored with every
	// object.
	maxName        = 1024
	maxAnnotations = 32 << 10
)

// plugin is a KMS v2 plug-in behind a socket. It encrypts seeds, not objects: a
// seed is made when the plug-in's key changes (and at each start), and each
// object gets a key of its own, derived from the seed.
type plugin struct {
	name    string
	timeout time.Duration
	conn    *grpc.ClientConn
	client  kmsv2.KeyManagementServiceClient
	seeds   *lru.Cache[[sha256.Size]byte, opener]
	metrics *Metrics

	mu struct {
		sync.Mutex
		at    time.Time
		keyID string
		seed  seed
		// sealed is what is stored of the seed.
		sealed sealedSeed
	}
}

// opener decrypts the objects of one seed.
type opener interface {
	decrypt(ctx context.Context, data, associated []byte) ([]byte, bool, error)
}

// sealedSeed is a seed that only the plug-in can open.
type sealedSeed struct {
	keyID       string
	ciphertext  []byte
	annotations map[string][]byte
	// kind is 1 for a seed, and 0 for a key that old servers encrypted objects
	// with directly.
	kind uint64
}

func newPlugin(name, endpoint string, timeout time.Duration) (*plugin, error) {
	// Nothing is sent before something is encrypted.
	conn, err := grpc.NewClient("unix://"+strings.TrimPrefix(endpoint, "unix://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("KMS plug-in %s: %w", name, err)
	}
	seeds, err := lru.New[[sha256.Size]byte, opener](remembered)
	if err != nil {
		return nil, err
	}
	return &plugin{name: name, timeout: timeout, conn: conn, client: kmsv2.NewKeyManagementServiceClient(conn), seeds: seeds}, nil
}

func (p *plugin) encrypt(ctx context.Context, data, associated []byte) ([]byte, error) {
	s, sealed, err := p.current(ctx)
	if err != nil {
		return nil, fmt.Errorf("KMS plug-in %s: %w", p.name, err)
	}
	body, err := s.encrypt(ctx, data, associated)
	if err != nil {
		return nil, err
	}
	return sealed.envelope(body), nil
}

// current returns the seed to use; a new one if the plug-in has a new key.
func (p *plugin) current(ctx context.Context) (seed, *sealedSeed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.mu.at) < checked {
		return p.mu.seed, &p.mu.sealed, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	began := time.Now()
	status, err := p.client.Status(ctx, &kmsv2.StatusRequest{})
	p.metrics.asked(p.name, "/v2.KeyManagementService/Status", began, err)
	if err != nil {
		return nil, nil, err
	}
	if status.Healthz != "ok" || (status.Version != "v2" && status.Version != "v2beta1") {
		return nil, nil, fmt.Errorf("its state is %q and its version %q, they must be \"ok\" and \"v2\"", status.Healthz, status.Version)
	}
	if p.mu.seed == nil || status.KeyId != p.mu.keyID {
		began := time.Now()
		fresh := make(seed, seedSize)
		_, _ = rand.Read(fresh) // as for the ciphers
		out, err := p.client.Encrypt(ctx, &kmsv2.EncryptRequest{Plaintext: fresh, Uid: uuid.NewString()})
		p.metrics.asked(p.name, "/v2.KeyManagementService/Encrypt", began, err)
		p.metrics.madeKey(began, err)
		if err != nil {
			return nil, nil, err
		}
		sealed := sealedSeed{out.KeyId, out.Ciphertext, out.Annotations, 1}
		if err := sealed.check(); err != nil {
			return nil, nil, err
		}
		p.mu.seed, p.mu.sealed, p.mu.keyID = fresh, sealed, status.KeyId
		p.seeds.Add(sealed.sum(), fresh)
		p.metrics.remember(p.seeds.Len(), false)
	}
	p.mu.at = time.Now()
	return p.mu.seed, &p.mu.sealed, nil
}

func (p *plugin) decrypt(ctx context.Context, data, associated []byte) ([]byte, bool, error) {
	sealed, body, err := parseEnvelope(data)
	if err != nil {
		return nil, false, err
	}
	sum := sealed.sum()
	open, ok := p.seeds.Get(sum)
	if !ok {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
		defer cancel()
		began := time.Now()
		out, err := p.client.Decrypt(ctx, &kmsv2.DecryptRequest{
			Ciphertext: sealed.ciphertext, Uid: uuid.NewString(), KeyId: sealed.keyID, Annotations: sealed.annotations,
		})
		p.metrics.asked(p.name, "/v2.KeyManagementService/Decrypt", began, err)
		if err != nil {
			return nil, false, fmt.Errorf("failed to decrypt DEK, error: %w", err)
		}
		if open, err = sealed.opener(out.Plaintext); err != nil {
			return nil, false, err
		}
		p.seeds.Add(sum, open)
		p.metrics.remember(p.seeds.Len(), true)
	}
	plain, _, err := open.decrypt(ctx, body, associated)
	p.mu.Lock()
	defer p.mu.Unlock()
	return plain, p.mu.seed != nil && (sealed.keyID != p.mu.sealed.keyID || sealed.kind != 1), err
}

// seed makes each object's own AES-GCM key: HKDF of the seed and 32 random
// bytes, which stand before the nonce.
type seed []byte

func (s seed) key(info []byte) (gcm, error) {
	key, err := hkdf.Expand(sha256.New, s, string(info), 32)
	if err != nil {
		return gcm{}, err
	}
	made, err := newGCM(key)
	if err != nil {
		return gcm{}, err
	}
	return made.(gcm), nil
}

func (s seed) encrypt(_ context.Context, data, associated []byte) ([]byte, error) {
	info := make([]byte, seedSize)
	_, _ = rand.Read(info) // as for the ciphers
	g, err := s.key(info)
	if err != nil {
		return nil, err
	}
	return g.sealed(info, data, associated), nil
}

func (s seed) decrypt(ctx context.Context, data, associated []byte) ([]byte, bool, error) {
	if len(data) < seedSize {
		return nil, false, errShort
	}
	g, err := s.key(data[:seedSize])
	if err != nil {
		return nil, false, err
	}
	return g.decrypt(ctx, data[seedSize:], associated)
}

func (s *sealedSeed) opener(plain []byte) (opener, error) {
	if s.kind == 1 {
		if len(plain) < seedSize {
			return nil, fmt.Errorf("invalid seed length %d used for key generation", len(plain))
		}
		return seed(plain), nil
	}
	return newGCM(plain)
}

// check holds what a plug-in answers to what may be stored.
func (s *sealedSeed) check() error {
	size := 0
	for key, value := range s.annotations {
		size += len(key) + len(value)
	}
	switch {
	case s.keyID == "" || len(s.keyID) > maxName:
		return fmt.Errorf("its key has a name of %d bytes, it must have 1 to %d", len(s.keyID), maxName)
	case len(s.ciphertext) == 0 || len(s.ciphertext) > maxName:
		return fmt.Errorf("it made %d bytes of a seed, it must make 1 to %d", len(s.ciphertext), maxName)
	case size > maxAnnotations:
		return fmt.Errorf("its annotations have %d bytes, at most %d are stored", size, maxAnnotations)
	}
	return nil
}

// sum identifies the seed.
func (s *sealedSeed) sum() [sha256.Size]byte { return sha256.Sum256(s.envelope(nil)) }

// The fields of upstream's EncryptedObject message.
const (
	fieldData, fieldKeyID, fieldSeed, fieldAnnotations, fieldKind = 1, 2, 3, 4, 5
)

// envelope is what is stored: upstream's EncryptedObject.
func (s *sealedSeed) envelope(body []byte) []byte {
	var out []byte
	add := func(b []byte, field protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), value)
	}
	out = add(out, fieldData, body)
	out = add(out, fieldKeyID, []byte(s.keyID))
	out = add(out, fieldSeed, s.ciphertext)
	for _, key := range slices.Sorted(maps.Keys(s.annotations)) {
		entry := add(add(nil, 1, []byte(key)), 2, s.annotations[key])
		out = add(out, fieldAnnotations, entry)
	}
	if s.kind != 0 {
		out = protowire.AppendVarint(protowire.AppendTag(out, fieldKind, protowire.VarintType), s.kind)
	}
	return out
}

var errEnvelope = errors.New("the stored data is not an encrypted object")

func parseEnvelope(data []byte) (s *sealedSeed, body []byte, err error) {
	s = &sealedSeed{}
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil, nil, errEnvelope
		}
		data = data[n:]
		if kind == protowire.VarintType && field == fieldKind {
			if s.kind, n = protowire.ConsumeVarint(data); n < 0 {
				return nil, nil, errEnvelope
			}
			data = data[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(data)
		if kind != protowire.BytesType || n < 0 {
			return nil, nil, errEnvelope
		}
		data = data[n:]
		switch field {
		case fieldData:
			body = value
		case fieldKeyID:
			s.keyID = string(value)
		case fieldSeed:
			s.ciphertext = value
		case fieldAnnotations:
			key, entry, err := parseEntry(value)
			if err != nil {
				return nil, nil, err
			}
			if s.annotations == nil {
				s.annotations = map[string][]byte{}
			}
			s.annotations[key] = entry
		}
	}
	if s.kind > 1 {
		return nil, nil, fmt.Errorf("the stored data was encrypted in a way (%d) that this server does not know", s.kind)
	}
	return s, body, s.check()
}

func parseEntry(data []byte) (key string, value []byte, err error) {
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 || kind != protowire.BytesType {
			return "", nil, errEnvelope
		}
		data = data[n:]
		part, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return "", nil, errEnvelope
		}
		data = data[n:]
		switch field {
		case 1:
			key = string(part)
		case 2:
			value = part
		}
	}
	return key, value, nil
}
