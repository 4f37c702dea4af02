package devnet

import (
	"fmt"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// serverPort is where the control plane's node serves the API.
const serverPort = 6443

// ContextName is the name of the cluster's context, cluster and user in the
// user's kubeconfig.
func (c *Cluster) ContextName() string { return "skiff-" + c.Name }

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir(), "kubeconfig") }

// Server is the API server's URL.
func (c *Cluster) Server() string { return fmt.Sprintf("https://%s:%d", c.Nodes[0].IP, serverPort) }

// CAFile is the certificate of the cluster's authority.
func (c *Cluster) CAFile() string { return filepath.Join(c.dir(), "ca.crt") }

// adminKubeconfig returns the kubeconfig that the server wrote, with the names
// and the address that hold on this machine.
func (c *Cluster) adminKubeconfig() (*clientcmdapi.Config, error) {
	path := filepath.Join(c.nodeDir(&c.Nodes[0]), "data", "admin.kubeconfig")
	written, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the administrator's kubeconfig: %w", err)
	}
	if err := clientcmdapi.FlattenConfig(written); err != nil {
		return nil, fmt.Errorf("reading what %s points to: %w", path, err)
	}
	context, ok := written.Contexts[written.CurrentContext]
	if !ok {
		return nil, fmt.Errorf("%s has no current context", path)
	}
	cluster, user := written.Clusters[context.Cluster], written.AuthInfos[context.AuthInfo]
	if cluster == nil || user == nil {
		return nil, fmt.Errorf("%s has a context without cluster or user", path)
	}
	cluster.Server = c.Server()
	// They are to be written into another file than they come from.
	cluster.LocationOfOrigin, user.LocationOfOrigin = "", ""
	name := c.ContextName()
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = cluster
	config.AuthInfos[name] = user
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	return config, nil
}

// addContext merges the cluster's context into the user's kubeconfig and makes
// it the current one.
func (c *Cluster) addContext(admin *clientcmdapi.Config) error {
	access := clientcmd.NewDefaultPathOptions()
	config, err := access.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("reading your kubeconfig: %w", err)
	}
	name := c.ContextName()
	config.Clusters[name] = admin.Clusters[name]
	config.AuthInfos[name] = admin.AuthInfos[name]
	config.Contexts[name] = admin.Contexts[name]
	config.CurrentContext = name
	if err := clientcmd.ModifyConfig(access, *config, true); err != nil {
		return fmt.Errorf("writing your kubeconfig: %w", err)
	}
	return nil
}

// removeContext removes the context from the user's kubeconfig.
func (c *Cluster) removeContext() error {
	access := clientcmd.NewDefaultPathOptions()
	config, err := access.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("reading your kubeconfig: %w", err)
	}
	name := c.ContextName()
	if config.Clusters[name] == nil && config.AuthInfos[name] == nil && config.Contexts[name] == nil {
		return nil
	}
	delete(config.Clusters, name)
	delete(config.AuthInfos, name)
	delete(config.Contexts, name)
	if config.CurrentContext == name {
		config.CurrentContext = ""
	}
	if err := clientcmd.ModifyConfig(access, *config, true); err != nil {
		return fmt.Errorf("writing your kubeconfig: %w", err)
	}
	return nil
}
