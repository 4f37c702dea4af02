package checks

import (
	"fmt"

	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
)

// PodPrefixWarnings warns of a name that is no host name, since pods' names and
// host names are made from it.
func PodPrefixWarnings(name string) []string {
	msgs := utilvalidation.IsDNS1123Label(name)
	if len(msgs) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs)}
}
