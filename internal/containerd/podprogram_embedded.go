//go:build podprogram

package containerd

import _ "embed"

// podProgram is cmd/skiff-pod, compressed with gzip; `make build` puts it here.
//
//go:embed skiff-pod.gz
var podProgram string
