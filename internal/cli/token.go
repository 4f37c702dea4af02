package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/cluster/jointoken"
)

// access is how a command reaches the API server with the administrator's
// rights.
type access struct{ kubeconfig string }

func (a *access) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster (default: as skiff kubectl finds it)")
}

func (a *access) client() (*kubernetes.Clientset, *rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.kubeconfig
	if a.kubeconfig == "" {
		path, err := findKubeconfig(nil)
		if err != nil {
			return nil, nil, err
		}
		rules.ExplicitPath = path
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	return client, config, err
}

func newToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Let machines join a cluster"}
	cmd.AddCommand(newTokenCreate(), newTokenList(), newTokenDelete())
	return cmd
}

func newTokenCreate() *cobra.Command {
	var (
		a           access
		ttl         time.Duration
		description string
	)
	cmd := &cobra.Command{
		Use:   "create [TOKEN]",
		Short: "Make a bootstrap token and print the command line that joins with it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token := jointoken.New()
			if len(args) == 1 {
				var err error
				if token, err = jointoken.Parse(args[0]); err != nil {
					return err
				}
			}
			var expires time.Time
			switch {
			case ttl < 0:
				return fmt.Errorf("--ttl is %v; it must not be negative", ttl)
			case ttl > 0:
				expires = time.Now().Add(ttl)
			}
			client, config, err := a.client()
			if err != nil {
				return err
			}
			hash, err := authorityHash(config)
			if err != nil {
				return err
			}
			secret := token.Object(description, expires)
			if _, err := client.CoreV1().Secrets(secret.Namespace).Create(cmd.Context(), secret, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("making the token: %w", err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "skiff agent --server %s --token %s --ca-hash %s\n", config.Host, token, hash)
			return err
		},
	}
	a.add(cmd)
	cmd.Flags().DurationVar(&ttl, "ttl", jointoken.DefaultTTL, "how long the token is valid; 0 means for ever")
	cmd.Flags().StringVar(&description, "description", "", "what the token is for")
	return cmd
}

func authorityHash(config *rest.Config) (string, error) {
	if err := rest.LoadTLSFiles(config); err != nil {
		return "", fmt.Errorf("reading the cluster's certificate authority: %w", err)
	}
	return jointoken.CAHash(config.CAData)
}

func newTokenList() *cobra.Command {
	var a access
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the bootstrap tokens",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := a.client()
			if err != nil {
				return err
			}
			list, err := client.CoreV1().Secrets(jointoken.Namespace).List(cmd.Context(), metav1.ListOptions{
				FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken),
			})
			if err != nil {
				return fmt.Errorf("listing the tokens: %w", err)
			}
			return printTokens(cmd.OutOrStdout(), list.Items)
		},
	}
	a.add(cmd)
	return cmd
}

// printTokens shows what is known of each token but its secret.
func printTokens(out io.Writer, secrets []corev1.Secret) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tEXPIRES\tDESCRIPTION")
	for _, s := range secrets {
		expires := string(s.Data["expiration"])
		if expires == "" {
			expires = "never"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Data["token-id"], expires, s.Data["description"])
	}
	return w.Flush()
}

func newTokenDelete() *cobra.Command {
	var a access
	cmd := &cobra.Command{
		Use:   "delete TOKEN...",
		Short: "Make bootstrap tokens invalid, named by their id or in full",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, _, err := a.client()
			if err != nil {
				return err
			}
			var failed []error
			for _, text := range args {
				id, _, _ := strings.Cut(text, ".")
				err := client.CoreV1().Secrets(jointoken.Namespace).Delete(cmd.Context(), jointoken.SecretName(id), metav1.DeleteOptions{})
				if apierrors.IsNotFound(err) {
					err = fmt.Errorf("there is no token %s", id)
				}
				failed = append(failed, err)
			}
			return errors.Join(failed...)
		},
	}
	a.add(cmd)
	return cmd
}
