package plugins

import (
	"fmt"
	"os"
	"path/filepath"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// Config changes upstream's choice of plug-ins and configures them.
type Config struct {
	// Enable and Disable name plug-ins; enabling wins.
	Enable, Disable []string
	// File holds an AdmissionConfiguration (apiserver.config.k8s.io/v1); empty
	// means none.
	File string
}

// configuration reads the configuration of a plug-in.
type configuration map[string][]byte

// configurable are the plug-ins that can be configured.
var configurable = []string{"EventRateLimit", "PodSecurity"}

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
		if p.Name != configurable[0] && p.Name != configurable[1] {
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
