//go:build !podprogram

package containerd

// podProgram is absent from builds without the tag: this program itself is then
// started for every pod, which costs more time and memory.
const podProgram = ""
