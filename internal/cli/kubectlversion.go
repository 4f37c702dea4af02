package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/kubectl/pkg/cmd/util"
	kubectlversion "k8s.io/kubectl/pkg/cmd/version"
	"sigs.k8s.io/yaml"
)

// tellVersion lets `kubectl version` say which release it is of. Upstream's
// linker tells it so; without that it fails.
func tellVersion(kubectl *cobra.Command, flags *genericclioptions.ConfigFlags, s Streams) {
	for _, c := range kubectl.Commands() {
		if c.Name() == "version" {
			c.Args = cobra.NoArgs
			c.Run = func(c *cobra.Command, _ []string) { util.CheckErr(printVersion(c, flags, s)) }
		}
	}
}

func printVersion(c *cobra.Command, flags *genericclioptions.ConfigFlags, s Streams) error {
	clientOnly, err := c.Flags().GetBool("client")
	if err != nil {
		return err
	}
	format, err := c.Flags().GetString("output")
	if err != nil {
		return err
	}
	release := utilversion.MustParseSemantic(kubernetesVersion)
	v := kubectlversion.Version{ClientVersion: &apiversion.Info{
		Major: fmt.Sprint(release.Major()), Minor: fmt.Sprint(release.Minor()), GitVersion: kubernetesVersion, GitCommit: revision(),
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}}
	v.KustomizeVersion, _ = kubectlversion.GetKustomizeModVersion()
	// What is known is printed even if the server does not answer.
	var unanswered error
	if !clientOnly {
		v.ServerVersion, unanswered = askVersion(flags)
	}
	if err := writeVersion(s.Out, format, &v); err != nil {
		return err
	}
	if v.ServerVersion == nil {
		return unanswered
	}
	return warnOfSkew(s.Err, release, v.ServerVersion.GitVersion)
}

func askVersion(flags *genericclioptions.ConfigFlags) (*apiversion.Info, error) {
	client, err := flags.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	client.Invalidate()
	return client.ServerVersion()
}

func writeVersion(w io.Writer, format string, v *kubectlversion.Version) error {
	var text []byte
	var err error
	switch format {
	case "":
		text = fmt.Appendf(nil, "Client Version: %s\nKustomize Version: %s\n", v.ClientVersion.GitVersion, v.KustomizeVersion)
		if v.ServerVersion != nil {
			text = fmt.Appendf(text, "Server Version: %s\n", v.ServerVersion.GitVersion)
		}
	case "json":
		text, err = json.MarshalIndent(v, "", "  ")
		text = append(text, '\n')
	case "yaml":
		text, err = yaml.Marshal(v)
	default:
		err = fmt.Errorf("--output must be 'yaml' or 'json', not %q", format)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// warnOfSkew warns of servers that are more than one minor version away.
func warnOfSkew(w io.Writer, client *utilversion.Version, server string) error {
	s, err := utilversion.ParseSemantic(server)
	if err != nil {
		return fmt.Errorf("the server's version: %w", err)
	}
	c := int(client.Minor())
	if away := int(s.Minor()) - c; s.Major() != client.Major() || away < -1 || away > 1 {
		_, err = fmt.Fprintf(w, "Warning: version difference between client (%d.%d) and server (%d.%d) exceeds the supported minor version skew of +/-1\n", client.Major(), c, s.Major(), s.Minor())
	}
	return err
}
