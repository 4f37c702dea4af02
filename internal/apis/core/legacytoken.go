package core

// What is noted about tokens in Secrets, which have no end of their own
// (KEP-2799): labels of the Secrets, each a date in LegacyTokenDate's form.
const (
	LegacyTokenLastUsed     = "kubernetes.io/legacy-token-last-used"
	LegacyTokenInvalidSince = "kubernetes.io/legacy-token-invalid-since"
	LegacyTokenDate         = "2006-01-02"
)
