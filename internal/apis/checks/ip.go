package checks

import (
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// EndpointIP refuses addresses that no endpoint outside a single machine can
// have. An address that cannot be parsed is not its business.
func EndpointIP(ip string, path *field.Path) field.ErrorList {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil
	}
	addr = addr.Unmap()
	var errs field.ErrorList
	refuse := func(detail string) { errs = append(errs, field.Invalid(path, ip, detail)) }
	if addr.IsUnspecified() {
		refuse(fmt.Sprintf("may not be unspecified (%v)", ip))
	}
	if addr.IsLoopback() {
		refuse("may not be in the loopback range (127.0.0.0/8, ::1/128)")
	}
	if addr.IsLinkLocalUnicast() {
		refuse("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	}
	if addr.IsLinkLocalMulticast() {
		refuse("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
	return errs
}
