package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// NodeVolumes makes and removes directories on nodes, through their kubelets'
// API.
type NodeVolumes struct{ kubelets *kubelets }

// NodeVolumes returns the way to nodes' local volumes.
func (p *ControlPlane) NodeVolumes() *NodeVolumes { return &NodeVolumes{p.kubelets} }

// MakeVolume makes a directory of that name on the node and returns its path.
func (v *NodeVolumes) MakeVolume(ctx context.Context, node *corev1.Node, name string) (string, error) {
	body, err := v.do(ctx, node, http.MethodPut, name)
	if err != nil {
		return "", err
	}
	var made struct {
		Path string `json:"path"`
	}
	if err := json.Unmarshal(body, &made); err != nil || made.Path == "" {
		return "", fmt.Errorf("node %s gave no path of the volume: %q: is its kubelet Skiff's?", node.Name, body)
	}
	return made.Path, nil
}

// RemoveVolume removes the directory that MakeVolume made.
func (v *NodeVolumes) RemoveVolume(ctx context.Context, node *corev1.Node, at string) error {
	_, err := v.do(ctx, node, http.MethodDelete, path.Base(at))
	return err
}

// maxAnswer is far more than a kubelet answers.
const maxAnswer = 64 << 10

func (v *NodeVolumes) do(ctx context.Context, node *corev1.Node, method, name string) ([]byte, error) {
	u, transport, err := v.kubelets.Kubelet(ctx, node)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, u.JoinPath("localVolumes", name).String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("asking node %s: %w", node.Name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("asking node %s: %w", node.Name, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("node %s: %s: %s", node.Name, response.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}
