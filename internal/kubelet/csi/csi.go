// Package csi uses the CSI drivers of the node: it knows those that are
// registered, tells the cluster of them, and stages, publishes and expands
// volumes through them.
//
// What was published is noted beside the pod's volume before the driver is
// asked, in upstream's format, so that after a restart, or after another
// kubelet, it can be taken back.
package csi

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"skiff/internal/kubelet/plugins"
)

// PluginType is how CSI drivers register.
const PluginType = "CSIPlugin"

// Drivers are the CSI drivers of a node. It implements plugins.Handler.
type Drivers struct {
	NodeName string
	// Root is the kubelet's directory.
	Root   string
	Client ctrl.Client
	Log    *slog.Logger
	// Secret reads a secret that a volume refers to.
	Secret func(ctx context.Context, namespace, name string) (*v1.Secret, error)
	// Tokens fills the status of a token request for a service account.
	Tokens func(ctx context.Context, namespace, serviceAccount string, request *authv1.TokenRequest) error
	// Changed is called when a driver has come, which pods may wait for.
	Changed func()
	// InUseChanged is called when InUse has changed.
	InUseChanged func()

	mu      sync.Mutex
	drivers map[string]*driver
	inUse   []v1.UniqueVolumeName
	// counted is true if inUse is what the notes say.
	counted bool
	// published are the volumes' directories that need no more from the driver.
	published map[string]bool
	locks     locks
}

// driver is a registered driver.
type driver struct {
	name     string
	endpoint string
	conn     *grpc.ClientConn
	node     csi.NodeClient
	can      map[csi.NodeServiceCapability_RPC_Type]bool
}

// Register implements plugins.Handler.
func (d *Drivers) Register(ctx context.Context, p plugins.Plugin) error {
	supported := false
	for _, v := range p.Versions {
		supported = supported || strings.HasPrefix(strings.TrimPrefix(v, "v"), "1.")
	}
	if !supported {
		return fmt.Errorf("validation of CSI driver %s at %s failed: it speaks versions %v, and 1.x is needed", p.Name, p.Endpoint, p.Versions)
	}
	conn, err := plugins.Dial(p.Endpoint)
	if err != nil {
		return err
	}
	new := &driver{name: p.Name, endpoint: p.Endpoint, conn: conn, node: csi.NewNodeClient(conn)}
	info, err := new.start(ctx)
	if err == nil {
		err = d.announce(ctx, p.Name, info)
	}
	if err != nil {
		conn.Close()
		return fmt.Errorf("registering CSI driver %s: %w", p.Name, err)
	}
	d.mu.Lock()
	if d.drivers == nil {
		d.drivers = map[string]*driver{}
	}
	old := d.drivers[p.Name]
	d.drivers[p.Name] = new
	// A driver that was started anew may have to be told of everything again.
	clear(d.published)
	d.mu.Unlock()
	if old != nil {
		old.conn.Close()
	}
	d.Changed()
	return nil
}

// start asks the driver what the node is to it, and what it can do.
func (d *driver) start(ctx context.Context) (*csi.NodeGetInfoResponse, error) {
	info, err := d.node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return nil, err
	}
	if info.NodeId == "" {
		return nil, fmt.Errorf("NodeGetInfo gave no node_id")
	}
	answer, err := d.node.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	d.can = map[csi.NodeServiceCapability_RPC_Type]bool{}
	for _, c := range answer.Capabilities {
		if rpc := c.GetRpc(); rpc != nil {
			d.can[rpc.Type] = true
		}
	}
	return info, nil
}

// Deregister implements plugins.Handler.
func (d *Drivers) Deregister(ctx context.Context, p plugins.Plugin) {
	d.mu.Lock()
	old := d.drivers[p.Name]
	if old == nil || old.endpoint != p.Endpoint {
		d.mu.Unlock()
		return
	}
	delete(d.drivers, p.Name)
	d.mu.Unlock()
	old.conn.Close()
	if err := d.announce(ctx, p.Name, nil); err != nil {
		d.Log.Warn("a CSI driver that is gone could not be taken from the node", "driver", p.Name, "err", err)
	}
}

func (d *Drivers) driver(name string) (*driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.drivers[name]; known != nil {
		return known, nil
	}
	return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}

// locks lets one at a time work on a volume.
type locks struct {
	mu   sync.Mutex
	held map[string]*heldLock
}

type heldLock struct {
	sync.Mutex
	users int
}

func (l *locks) lock(key string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*heldLock{}
	}
	h := l.held[key]
	if h == nil {
		h = &heldLock{}
		l.held[key] = h
	}
	h.users++
	l.mu.Unlock()
	h.Lock()
	return func() {
		h.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(l.held, key)
		}
	}
}
