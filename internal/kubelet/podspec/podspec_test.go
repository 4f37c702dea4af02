package podspec

import (
	"context"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExpand(t *testing.T) {
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}[name]
		return v, ok
	}
	for in, want := range map[string]string{
		"":                "",
		"plain":           "plain",
		"$(A)":            "1",
		"x$(A)y$(A)":      "x1y1",
		"$(B)":            "$(A)", // what is put in is not expanded again
		"$(EMPTY)":        "",
		"$(UNKNOWN)":      "$(UNKNOWN)",
		"$$(A)":           "$(A)",
		"$$$(A)":          "$1",
		"$A":              "$A",
		"$":               "$",
		"$(":              "$(",
		"$(A":             "$(A",
		"$()":             "$()",
		"$$":              "$",
		"a$(A)$$(A)$(A)$": "a1$(A)1$",
	} {
		if got := expand(in, lookup); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A)$$($(")
	f.Fuzz(func(t *testing.T, s string) {
		kept := expand(s, func(string) (string, bool) { return "", false })
		if !strings.Contains(s, "$$") && kept != s {
			t.Errorf("without variables %q became %q", s, kept)
		}
	})
}

type objects struct {
	maps    map[string]map[string]string
	secrets map[string]map[string][]byte
	files   map[string]string
}

func (o objects) File(volume, path string) ([]byte, error) {
	if data, ok := o.files[volume+"/"+path]; ok {
		return []byte(data), nil
	}
	return nil, fmt.Errorf("opening: %w", fs.ErrNotExist)
}

func (o objects) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if data, ok := o.maps[name]; ok {
		return &v1.ConfigMap{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (o objects) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if data, ok := o.secrets[name]; ok {
		return &v1.Secret{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func TestEnv(t *testing.T) {
	yes, no := true, false
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", Labels: map[string]string{"l": "v"}},
		Spec: v1.PodSpec{ServiceAccountName: "sa", EnableServiceLinks: &no}}
	place := Place{NodeName: "node", HostIPs: []string{"192.0.2.1"}, PodIPs: []string{"10.0.0.1", "fd00::1"},
		Allocatable: v1.ResourceList{v1.ResourceMemory: resource.MustParse("2Gi")}}
	store := objects{
		maps:    map[string]map[string]string{"m": {"k": "from-map", "A": "map-a"}},
		secrets: map[string]map[string][]byte{"s": {"k": []byte("from-secret")}},
		files:   map[string]string{"v/dir/env": "K='from-file'\n", "v/bad": "K=bad"},
	}
	field := func(path string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}
	}
	mapKey := func(name, key string, optional *bool) *v1.EnvVarSource {
		return &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: name}, Key: key, Optional: optional}}
	}
	secretKey := func(name, key string) *v1.EnvVarSource {
		return &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: name}, Key: key}}
	}
	fileKey := func(path, key string, optional *bool) *v1.EnvVarSource {
		return &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{VolumeName: "v", Path: path, Key: key, Optional: optional}}
	}
	amount := func(what, divisor string) *v1.EnvVarSource {
		s := &v1.ResourceFieldSelector{Resource: what}
		if divisor != "" {
			s.Divisor = resource.MustParse(divisor)
		}
		return &v1.EnvVarSource{ResourceFieldRef: s}
	}
	tests := []struct {
		name string
		env  []v1.EnvVar
		from []v1.EnvFromSource
		want map[string]string
		err  string
	}{
		{name: "references to those before", env: []v1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)$(C)"}, {Name: "C", Value: "3"}},
			want: map[string]string{"A": "1", "B": "1$(C)", "C": "3"}},
		{name: "fields", env: []v1.EnvVar{
			{Name: "N", ValueFrom: field("metadata.name")}, {Name: "L", ValueFrom: field("metadata.labels['l']")},
			{Name: "IPS", ValueFrom: field("status.podIPs")}, {Name: "IP", ValueFrom: field("status.podIP")},
			{Name: "HOST", ValueFrom: field("status.hostIP")}, {Name: "NODE", ValueFrom: field("spec.nodeName")},
			{Name: "SA", ValueFrom: field("spec.serviceAccountName")},
		}, want: map[string]string{"N": "p", "L": "v", "IPS": "10.0.0.1,fd00::1", "IP": "10.0.0.1", "HOST": "192.0.2.1", "NODE": "node", "SA": "sa"}},
		{name: "unknown field", env: []v1.EnvVar{{Name: "X", ValueFrom: field("spec.nope")}}, err: "unsupported fieldPath: spec.nope"},
		{name: "resources", env: []v1.EnvVar{
			{Name: "CPU", ValueFrom: amount("requests.cpu", "")}, {Name: "MILLI", ValueFrom: amount("requests.cpu", "1m")},
			{Name: "MEM", ValueFrom: amount("limits.memory", "1Mi")},
		}, want: map[string]string{"CPU": "1", "MILLI": "250", "MEM": "2048"}},
		{name: "keys", env: []v1.EnvVar{{Name: "M", ValueFrom: mapKey("m", "k", nil)}, {Name: "S", ValueFrom: secretKey("s", "k")}},
			want: map[string]string{"M": "from-map", "S": "from-secret"}},
		{name: "optional key", env: []v1.EnvVar{{Name: "M", ValueFrom: mapKey("m", "nope", &yes)}, {Name: "O", ValueFrom: mapKey("nope", "k", &yes)}},
			want: map[string]string{}},
		{name: "missing key", env: []v1.EnvVar{{Name: "M", ValueFrom: mapKey("m", "nope", nil)}}, err: "couldn't find key nope in ConfigMap ns/m"},
		{name: "missing secret key", env: []v1.EnvVar{{Name: "M", ValueFrom: secretKey("s", "nope")}}, err: "couldn't find key nope in Secret ns/s"},
		{name: "missing map", env: []v1.EnvVar{{Name: "M", ValueFrom: mapKey("nope", "k", nil)}}, err: `configmaps "nope" not found`},
		{name: "file key", env: []v1.EnvVar{{Name: "F", ValueFrom: fileKey("dir/env", "K", nil)}}, want: map[string]string{"F": "from-file"}},
		{name: "optional file key", env: []v1.EnvVar{{Name: "F", ValueFrom: fileKey("dir/env", "nope", &yes)}, {Name: "G", ValueFrom: fileKey("nope", "K", &yes)}},
			want: map[string]string{}},
		{name: "missing file key", env: []v1.EnvVar{{Name: "F", ValueFrom: fileKey("dir/env", "nope", nil)}},
			err: `environment variable key "nope" not found in file "dir/env" of volume "v"`},
		{name: "missing file", env: []v1.EnvVar{{Name: "F", ValueFrom: fileKey("nope", "K", nil)}}, err: "couldn't read env file nope of volume v: opening: file does not exist"},
		{name: "bad file", env: []v1.EnvVar{{Name: "F", ValueFrom: fileKey("bad", "K", &yes)}},
			err: "couldn't parse env file bad of volume v: line 1: the value is not in single quotes"},
		{name: "envFrom with prefix, overridden by env",
			from: []v1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "m"}}}},
			env:  []v1.EnvVar{{Name: "P_A", Value: "own"}},
			want: map[string]string{"P_k": "from-map", "P_A": "own"}},
	}
	c := v1.Container{Name: "c", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")}}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.Env, c.EnvFrom = test.env, test.from
			got, err := Env(t.Context(), pod, &c, place, nil, store)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("error %v, want %s", err, test.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestServiceVariables(t *testing.T) {
	service := func(ns, name, ip string, ports ...v1.ServicePort) v1.Service {
		return v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	services := []v1.Service{
		service("default", "kubernetes", "10.96.0.1", v1.ServicePort{Name: "https", Port: 443, Protocol: v1.ProtocolTCP}),
		service("ns", "my-db", "fd00::9", v1.ServicePort{Port: 5432, Protocol: v1.ProtocolTCP}),
		service("ns", "headless", "None", v1.ServicePort{Port: 1}),
		service("other", "far", "10.96.0.7", v1.ServicePort{Port: 1}),
	}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}
	got := serviceEnv(pod, services)
	for name, want := range map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
		"KUBERNETES_PORT_443_TCP_PROTO": "tcp", "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
		"MY_DB_SERVICE_HOST": "fd00::9", "MY_DB_PORT": "tcp://[fd00::9]:5432",
	} {
		if got[name] != want {
			t.Errorf("%s=%q, want %q", name, got[name], want)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "HEADLESS") || strings.HasPrefix(name, "FAR") {
			t.Errorf("%s should not be there", name)
		}
	}
	no := false
	pod.Spec.EnableServiceLinks = &no
	if got = serviceEnv(pod, services); got["KUBERNETES_SERVICE_HOST"] == "" || got["MY_DB_SERVICE_HOST"] != "" {
		t.Errorf("without service links: %v", got)
	}
}

func TestDNS(t *testing.T) {
	two := "2"
	cluster := Cluster{DNS: []string{"10.96.0.10"}, Domain: "cluster.local", Host: &cri.DNSConfig{
		Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"timeout:1"},
	}}
	clusterSearches := []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"}
	tests := []struct {
		name string
		spec v1.PodSpec
		want *cri.DNSConfig
	}{
		{"cluster first", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst},
			&cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: clusterSearches, Options: []string{"ndots:5"}}},
		{"cluster first in the host's network", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, HostNetwork: true}, cluster.Host},
		{"cluster first with host net", v1.PodSpec{DNSPolicy: v1.DNSClusterFirstWithHostNet, HostNetwork: true},
			&cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: clusterSearches, Options: []string{"ndots:5"}}},
		{"default", v1.PodSpec{DNSPolicy: v1.DNSDefault}, cluster.Host},
		{"none", v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a"}}},
			&cri.DNSConfig{Servers: []string{"1.1.1.1"}, Searches: []string{"a"}}},
		{"merged", v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, DNSConfig: &v1.PodDNSConfig{
			Nameservers: []string{"1.1.1.1", "10.96.0.10"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}},
		}}, &cri.DNSConfig{Servers: []string{"10.96.0.10", "1.1.1.1"}, Searches: clusterSearches, Options: []string{"ndots:2", "edns0"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := DNS(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: test.spec}, cluster)
			if !slices.Equal(got.Servers, test.want.Servers) || !slices.Equal(got.Searches, test.want.Searches) || !slices.Equal(got.Options, test.want.Options) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestParseResolvConf(t *testing.T) {
	got, err := ParseResolvConf(strings.NewReader("# comment\nnameserver 192.0.2.1\nsearch a. b\nnameserver fd00::1 # last\noptions ndots:1 rotate\nnonsense\nsearch c.\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Servers, []string{"192.0.2.1", "fd00::1"}) || !slices.Equal(got.Searches, []string{"c"}) || !slices.Equal(got.Options, []string{"ndots:1", "rotate"}) {
		t.Errorf("got %v", got)
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 1\nsearch .\noptions\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseResolvConf(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, server := range c.Servers {
			if strings.ContainsAny(server, " \t\n") {
				t.Errorf("server %q from %q", server, s)
			}
		}
	})
}

func TestHostsFile(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-0"}, Spec: v1.PodSpec{
		Subdomain: "web", HostAliases: []v1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"x", "y"}}},
	}}
	got := HostsFile(pod, []string{"10.0.0.1"}, "cluster.local", "")
	for _, line := range []string{"# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "10.0.0.1\tweb-0.web.ns.svc.cluster.local\tweb-0", "1.2.3.4\tx\ty"} {
		if !slices.Contains(strings.Split(got, "\n"), line) {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	pod.Spec.HostNetwork = true
	if got := HostsFile(pod, nil, "cluster.local", "9.9.9.9 host\n"); !strings.Contains(got, "9.9.9.9 host\n") || !strings.Contains(got, "1.2.3.4\tx\ty") {
		t.Errorf("in the host's network:\n%s", got)
	}
}

func TestContainer(t *testing.T) {
	yes, no := true, false
	user, root := int64(1000), int64(0)
	group := int64(2000)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: v1.PodSpec{
		SecurityContext: &v1.PodSecurityContext{RunAsUser: &user, FSGroup: &group, SupplementalGroups: []int64{3000}},
	}}
	options := ContainerOptions{
		Attempt: 2, Env: map[string]string{"A": "1", "DIR": "sub"}, ImageRef: "sha256:1", HostsFile: "/hosts", TerminationLog: "/log",
		VolumePath: func(v string) (string, error) { return "/volumes/" + v, nil },
		SubPath:    func(v, p string, i int) (string, error) { return "/bound/" + v + "/" + p, nil },
	}
	c := &v1.Container{
		Name: "c", Image: "image", Command: []string{"run", "$(A)"}, Args: []string{"$(B)"}, TerminationMessagePath: "/dev/termination-log",
		VolumeMounts: []v1.VolumeMount{{Name: "v", MountPath: "/data", ReadOnly: true}, {Name: "v", MountPath: "/sub", SubPathExpr: "$(DIR)/x"}},
		SecurityContext: &v1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}}, SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}},
	}
	got, err := Container(pod, c, options)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Command, []string{"run", "1"}) || !slices.Equal(got.Args, []string{"$(B)"}) || got.LogPath != "c/2.log" {
		t.Errorf("command %v %v, log %s", got.Command, got.Args, got.LogPath)
	}
	var mounts []string
	for _, m := range got.Mounts {
		mounts = append(mounts, m.HostPath+":"+m.ContainerPath)
	}
	if want := "/volumes/v:/data /bound/v/sub/x:/sub /hosts:/etc/hosts /log:/dev/termination-log"; strings.Join(mounts, " ") != want {
		t.Errorf("mounts %v, want %s", mounts, want)
	}
	sc := got.Linux.SecurityContext
	if sc.RunAsUser.GetValue() != 1000 || !sc.NoNewPrivs || !sc.ReadonlyRootfs || !slices.Equal(sc.SupplementalGroups, []int64{3000, 2000}) ||
		sc.Seccomp.ProfileType != cri.SecurityProfile_RuntimeDefault || len(sc.MaskedPaths) == 0 || !slices.Equal(sc.Capabilities.DropCapabilities, []string{"ALL"}) {
		t.Errorf("security context %v", sc)
	}

	for name, test := range map[string]struct {
		edit func(*v1.Container, *ContainerOptions)
		err  string
	}{
		"root user":          {func(c *v1.Container, o *ContainerOptions) { c.SecurityContext.RunAsUser = &root }, "breaks non-root policy"},
		"image runs as root": {func(c *v1.Container, o *ContainerOptions) { o.User.UID = &root }, ""},
		"subPath goes out":   {func(c *v1.Container, o *ContainerOptions) { c.VolumeMounts[1].SubPathExpr = "../x" }, "must be a relative path"},
		"unknown variable":   {func(c *v1.Container, o *ContainerOptions) { c.VolumeMounts[1].SubPathExpr = "$(NOPE)" }, "not set"},
	} {
		t.Run(name, func(t *testing.T) {
			c, o := c.DeepCopy(), options
			c.SecurityContext.RunAsNonRoot = &yes
			test.edit(c, &o)
			_, err := Container(pod, c, o)
			if (test.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
	pod.Spec.SecurityContext.RunAsUser = nil
	c.SecurityContext.RunAsNonRoot = &yes
	for name, u := range map[string]ImageUser{"root": {UID: &root}, "non-numeric user (app)": {Name: "app"}} {
		o := options
		o.User = u
		if _, err := Container(pod, c, o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("image user %v: %v", u, err)
		}
	}
}
