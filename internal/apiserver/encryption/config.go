package encryption

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// Config says which resources are encrypted, and how.
type Config struct {
	rules   []rule
	plugins []*plugin
}

type rule struct {
	resources []string
	chain     chain
}

// chain returns the providers of the first rule that names the resource; nil
// if none does.
func (c *Config) chain(r schema.GroupResource) chain {
	for i := range c.rules {
		for _, want := range c.rules[i].resources {
			if want == r.String() || want == "*."+r.Group || want == "*.*" {
				return c.rules[i].chain
			}
		}
	}
	return nil
}

func (c *Config) close() {
	for _, p := range c.plugins {
		// A connection that breaks while it is closed is closed.
		_ = p.conn.Close()
	}
}

// measure makes the plug-ins count in m, before they are used.
func (c *Config) measure(m *Metrics) *Config {
	for _, p := range c.plugins {
		p.metrics = m
	}
	return c
}

// Load reads an EncryptionConfiguration file.
func Load(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("encryption configuration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("encryption configuration %s: %w", file, err)
	}
	return c, nil
}

// Parse reads an EncryptionConfiguration.
func Parse(data []byte) (*Config, error) {
	var in apiserverv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(data, &in); err != nil {
		return nil, err
	}
	if in.APIVersion != apiVersion || in.Kind != "EncryptionConfiguration" {
		return nil, fmt.Errorf("it is a %q %q, it must be of apiVersion %s and kind EncryptionConfiguration", in.APIVersion, in.Kind, apiVersion)
	}
	if errs := validate(&in); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	c := &Config{}
	kms := map[string]*plugin{}
	for _, r := range in.Resources {
		out := rule{resources: r.Resources}
		for i := range r.Providers {
			made, err := c.providers(&r.Providers[i], kms)
			if err != nil {
				c.close()
				return nil, err
			}
			out.chain = append(out.chain, made...)
		}
		c.rules = append(c.rules, out)
	}
	return c, nil
}

// providers makes one provider for each key.
func (c *Config) providers(p *apiserverv1.ProviderConfiguration, kms map[string]*plugin) (out chain, err error) {
	add := func(kind string, keys []apiserverv1.Key, make func(secret []byte) (provider, error)) error {
		for _, k := range keys {
			secret, err := base64.StdEncoding.DecodeString(k.Secret)
			if err != nil {
				return fmt.Errorf("could not obtain secret for named key %s: %w", k.Name, err)
			}
			made, err := make(secret)
			if err != nil {
				return fmt.Errorf("key %s: %w", k.Name, err)
			}
			out = append(out, named{prefix + kind + ":v1:" + k.Name + ":", made})
		}
		return nil
	}
	switch {
	case p.AESGCM != nil:
		err = add("aesgcm", p.AESGCM.Keys, newGCM)
	case p.AESCBC != nil:
		err = add("aescbc", p.AESCBC.Keys, newCBC)
	case p.Secretbox != nil:
		err = add("secretbox", p.Secretbox.Keys, newSecretbox)
	case p.KMS != nil:
		plug := kms[p.KMS.Name]
		if plug == nil {
			timeout := 3 * time.Second
			if p.KMS.Timeout != nil {
				timeout = p.KMS.Timeout.Duration
			}
			if plug, err = newPlugin(p.KMS.Name, p.KMS.Endpoint, timeout); err != nil {
				return nil, err
			}
			kms[p.KMS.Name] = plug
			c.plugins = append(c.plugins, plug)
		}
		out = append(out, named{prefix + "kms:v2:" + p.KMS.Name + ":", plug})
	default:
		out = append(out, named{"", identity{}})
	}
	return out, err
}

// validate checks the configuration as upstream does, with all problems at
// once.
func validate(c *apiserverv1.EncryptionConfiguration) field.ErrorList {
	var errs field.ErrorList
	root := field.NewPath("resources")
	if len(c.Resources) == 0 {
		return field.ErrorList{field.Required(root, "at least one resource configuration is required")}
	}
	endpoints := map[string]string{}
	for i := range c.Resources {
		r, path := &c.Resources[i], root.Index(i)
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(path.Child("resources"), "at least one resource is required"))
		}
		for k, name := range r.Resources {
			at := path.Child("resources").Index(k)
			switch {
			case name != strings.ToLower(name):
				errs = append(errs, field.Invalid(at, name, "resource name should not have capital letters"))
			case name == "*":
				errs = append(errs, field.Invalid(at, name, "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"))
			case strings.Contains(name, "/"):
				errs = append(errs, field.Invalid(at, name, "may not specify a subresource"))
			case strings.HasPrefix(name, "*.") && slices.Contains(r.Resources[:k], "*.*"), slices.Contains(r.Resources[:k], name):
				errs = append(errs, field.Invalid(at, name, "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"))
			}
		}
		if len(r.Providers) == 0 {
			errs = append(errs, field.Required(path.Child("providers"), "at least one provider is required"))
		}
		for k := range r.Providers {
			errs = append(errs, validateProvider(&r.Providers[k], path.Child("providers").Index(k), endpoints)...)
		}
	}
	return errs
}

func validateProvider(p *apiserverv1.ProviderConfiguration, path *field.Path, endpoints map[string]string) field.ErrorList {
	var errs field.ErrorList
	set := 0
	keys := func(kind string, keys []apiserverv1.Key, sizes ...int) {
		set++
		at := path.Child(kind, "keys")
		if len(keys) == 0 {
			errs = append(errs, field.Required(at, "at least one key is required"))
		}
		for i, k := range keys {
			if k.Name == "" {
				errs = append(errs, field.Required(at.Index(i).Child("name"), "a key's name is part of what is stored"))
			}
			secret, err := base64.StdEncoding.DecodeString(k.Secret)
			if err != nil {
				errs = append(errs, field.Invalid(at.Index(i).Child("secret"), "REDACTED", "secret must be base64 encoded"))
			} else if !slices.Contains(sizes, len(secret)) {
				errs = append(errs, field.Invalid(at.Index(i).Child("secret"), "REDACTED", fmt.Sprintf("secret is not of the expected length, got %d, expected one of %v", len(secret), sizes)))
			}
		}
	}
	if p.AESGCM != nil {
		keys("aesgcm", p.AESGCM.Keys, 16, 24, 32)
	}
	if p.AESCBC != nil {
		keys("aescbc", p.AESCBC.Keys, 32)
	}
	if p.Secretbox != nil {
		keys("secretbox", p.Secretbox.Keys, 32)
	}
	if p.Identity != nil {
		set++
	}
	if k := p.KMS; k != nil {
		set++
		at := path.Child("kms")
		if k.Name == "" || strings.Contains(k.Name, ":") {
			errs = append(errs, field.Invalid(at.Child("name"), k.Name, "a name without ':' is required"))
		}
		if k.APIVersion != "v2" {
			errs = append(errs, field.Invalid(at.Child("apiVersion"), k.APIVersion, "only v2 is supported: KMS v1 is deprecated and turned off by default upstream"))
		}
		if !strings.HasPrefix(k.Endpoint, "unix://") {
			errs = append(errs, field.Invalid(at.Child("endpoint"), k.Endpoint, "must be of the form unix:///path/to/socket"))
		}
		if other, ok := endpoints[k.Name]; ok && other != k.Endpoint {
			errs = append(errs, field.Invalid(at.Child("name"), k.Name, "a name stands for one plug-in"))
		}
		endpoints[k.Name] = k.Endpoint
		if k.Timeout != nil && k.Timeout.Duration <= 0 {
			errs = append(errs, field.Invalid(at.Child("timeout"), k.Timeout.String(), "should be a positive value"))
		}
	}
	if set != 1 {
		errs = append(errs, field.Invalid(path, set, "provider does not contain exactly one of: aesgcm, aescbc, secretbox, kms, identity"))
	}
	return errs
}

var errShort = errors.New("the stored data was shorter than the required size")

const apiVersion = apiserverv1.GroupName + "/v1"
