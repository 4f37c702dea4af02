package bootstraptoken

import "testing"

// TestSign compares with a signature made by kubeadm's library.
func TestSign(t *testing.T) {
	const (
		content = "Hello from the other side. I must have called a thousand times."
		want    = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
	)
	if got := sign(content, "joshua", []byte("my voice is my passcode")); got != want {
		t.Errorf("got %s", got)
	}
}
