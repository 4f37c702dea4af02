package plugins

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	webhookclient "skiff/internal/apiserver/webhook"
)

// Config changes upstream's choice of plug-ins and configures them.
type Config struct {
	// Enable and Disable name plug-ins.
	Enable, Disable []string
	// File holds an AdmissionConfiguration (apiserver.config.k8s.io/v1); empty
	// means none.
	File string
}

// check returns an error if a plug-in is named that there is not, or is to be
// both enabled and disabled.
func (c *Config) check(known []string) error {
	var problems []string
	for _, list := range []struct {
		flag  string
		names []string
	}{{"enable-admission-plugins", c.Enable}, {"disable-admission-plugins", c.Disable}} {
		for _, name := range list.names {
			if !slices.Contains(known, name) {
				problems = append(problems, fmt.Sprintf("%s plugin %q is unknown", list.flag, name))
			}
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("%s; there are %s", strings.Join(problems, ", "), strings.Join(known, ", "))
	}
	var both []string
	for _, name := range c.Enable {
		if slices.Contains(c.Disable, name) {
			both = append(both, name)
		}
	}
	if len(both) > 0 {
		return fmt.Errorf("%v in enable-admission-plugins and disable-admission-plugins overlapped", both)
	}
	return nil
}

// configuration reads the configuration of a plug-in.
type configuration map[string][]byte

// configurable are the plug-ins that can be configured.
var configurable = []string{
	"EventRateLimit", "ImagePolicyWebhook", "MutatingAdmissionWebhook", "PodNodeSelector", "PodSecurity", "PodTolerationRestriction", "ResourceQuota", "ValidatingAdmissionWebhook",
}

func (c *Config) read() (configuration, error) {
	out := configuration{}
	if c.File == "" {
		return out, nil
	}
	data, err := os.ReadFile(c.File)
	if err != nil {
		return nil, fmt.Errorf("reading the admission configuration: %w", err)
	}
	var file apiserverv1.AdmissionConfiguration
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("the admission configuration %s: %w", c.File, err)
	}
	if file.Kind != "AdmissionConfiguration" || file.APIVersion != apiserverv1.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("the admission configuration %s is a %q of version %q, it must be an AdmissionConfiguration of version %s", c.File, file.Kind, file.APIVersion, apiserverv1.SchemeGroupVersion)
	}
	for _, p := range file.Plugins {
		if !slices.Contains(configurable, p.Name) {
			return nil, fmt.Errorf("the admission configuration %s: plug-in %q takes no configuration; those that do are %q", c.File, p.Name, configurable)
		}
		if p.Configuration != nil {
			out[p.Name] = p.Configuration.Raw
			continue
		}
		path := p.Path
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(c.File), path)
		}
		if out[p.Name], err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("the configuration of admission plug-in %s: %w", p.Name, err)
		}
	}
	return out, nil
}

// into reads the plug-in's configuration, if there is one.
func (c configuration) into(plugin string, into any) error {
	data, ok := c[plugin]
	if !ok {
		return nil
	}
	return yaml.UnmarshalStrict(data, into)
}

// WebhookConfiguration is upstream's apiserver.config.k8s.io/v1
// WebhookAdmissionConfiguration: how the server proves itself to webhooks.
type WebhookConfiguration struct {
	APIVersion     string `json:"apiVersion,omitempty"`
	Kind           string `json:"kind,omitempty"`
	KubeConfigFile string `json:"kubeConfigFile"`
}

// webhooks returns the client by which the plug-in calls its webhooks.
func (c configuration) webhooks(plugin string, client *webhookclient.Client) (*webhookclient.Client, error) {
	var w WebhookConfiguration
	if err := c.into(plugin, &w); err != nil || w.KubeConfigFile == "" {
		return client, err
	}
	if !filepath.IsAbs(w.KubeConfigFile) {
		return nil, fmt.Errorf("kubeConfigFile: Invalid value: %q: must be an absolute file path", w.KubeConfigFile)
	}
	credentials, err := webhookclient.LoadCredentials(w.KubeConfigFile)
	if err != nil {
		return nil, err
	}
	return client.With(credentials), nil
}
