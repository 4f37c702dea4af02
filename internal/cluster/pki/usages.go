package pki

import (
	"crypto/x509"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// keyUsages translates the usages of a CertificateSigningRequest.
func keyUsages(usages []certificatesv1.KeyUsage) (x509.KeyUsage, []x509.ExtKeyUsage, error) {
	var key x509.KeyUsage
	var ext []x509.ExtKeyUsage
	seen := map[x509.ExtKeyUsage]bool{}
	for _, u := range usages {
		k, e, ok := keyUsage(u)
		switch {
		case !ok:
			return 0, nil, fmt.Errorf("unrecognized usage values: [%q]", u)
		case k != 0:
			key |= k
		case !seen[e]:
			seen[e] = true
			ext = append(ext, e)
		}
	}
	return key, ext, nil
}

// keyUsage returns either a key usage or an extended one.
func keyUsage(u certificatesv1.KeyUsage) (x509.KeyUsage, x509.ExtKeyUsage, bool) {
	switch u {
	case certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature:
		return x509.KeyUsageDigitalSignature, 0, true
	case certificatesv1.UsageContentCommitment:
		return x509.KeyUsageContentCommitment, 0, true
	case certificatesv1.UsageKeyEncipherment:
		return x509.KeyUsageKeyEncipherment, 0, true
	case certificatesv1.UsageKeyAgreement:
		return x509.KeyUsageKeyAgreement, 0, true
	case certificatesv1.UsageDataEncipherment:
		return x509.KeyUsageDataEncipherment, 0, true
	case certificatesv1.UsageCertSign:
		return x509.KeyUsageCertSign, 0, true
	case certificatesv1.UsageCRLSign:
		return x509.KeyUsageCRLSign, 0, true
	case certificatesv1.UsageEncipherOnly:
		return x509.KeyUsageEncipherOnly, 0, true
	case certificatesv1.UsageDecipherOnly:
		return x509.KeyUsageDecipherOnly, 0, true
	case certificatesv1.UsageAny:
		return 0, x509.ExtKeyUsageAny, true
	case certificatesv1.UsageServerAuth:
		return 0, x509.ExtKeyUsageServerAuth, true
	case certificatesv1.UsageClientAuth:
		return 0, x509.ExtKeyUsageClientAuth, true
	case certificatesv1.UsageCodeSigning:
		return 0, x509.ExtKeyUsageCodeSigning, true
	case certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME:
		return 0, x509.ExtKeyUsageEmailProtection, true
	case certificatesv1.UsageIPsecEndSystem:
		return 0, x509.ExtKeyUsageIPSECEndSystem, true
	case certificatesv1.UsageIPsecTunnel:
		return 0, x509.ExtKeyUsageIPSECTunnel, true
	case certificatesv1.UsageIPsecUser:
		return 0, x509.ExtKeyUsageIPSECUser, true
	case certificatesv1.UsageTimestamping:
		return 0, x509.ExtKeyUsageTimeStamping, true
	case certificatesv1.UsageOCSPSigning:
		return 0, x509.ExtKeyUsageOCSPSigning, true
	case certificatesv1.UsageMicrosoftSGC:
		return 0, x509.ExtKeyUsageMicrosoftServerGatedCrypto, true
	case certificatesv1.UsageNetscapeSGC:
		return 0, x509.ExtKeyUsageNetscapeServerGatedCrypto, true
	}
	return 0, 0, false
}
