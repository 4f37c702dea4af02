package images

import (
	"encoding/binary"
	"fmt"
	"syscall"
)

// The pause program holds a pod's namespaces open. It ignores SIGCHLD, by which
// the kernel reaps whatever is left to process 1 of a shared PID namespace,
// ends with status 0 on SIGTERM and SIGINT, and sleeps. It has no stack frame,
// no data and no library: a few machine instructions and two tables that
// sigaction reads.

const (
	loadAddress = 0x400000
	// segmentAlign suits every page size of the architectures below.
	segmentAlign = 0x10000

	sigIgn      = 1
	saRestorer  = 0x04000000
	sigsetBytes = 8
)

// headerSize is the size in bytes of an ELF64 header and one program header;
// the code follows.
const headerSize = 64 + 56

// machine is how one architecture spells the program.
type machine struct {
	elf  uint16
	code func(ignore, handle uint64) (code []byte, exit uint64)
}

var machines = map[string]machine{
	"amd64": {elf: 62, code: pauseAMD64},
	"arm64": {elf: 183, code: pauseARM64},
}

// pauseProgram returns the static ELF executable for a GOARCH.
func pauseProgram(arch string) ([]byte, error) {
	m, ok := machines[arch]
	if !ok {
		return nil, fmt.Errorf("there is no pause program for the architecture %q", arch)
	}
	// The code's length does not depend on the addresses in it, so a first
	// pass finds where the tables behind it lie.
	draft, _ := m.code(0, 0)
	ignore := uint64(loadAddress+headerSize+len(draft)+7) &^ 7
	handle := ignore + 32
	code, exit := m.code(ignore, handle)

	le := binary.LittleEndian
	size := handle + 32 - loadAddress
	b := make([]byte, 0, size)
	// ELF header: 64 bit, little-endian, executable.
	b = append(b, 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, m.elf)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, loadAddress+headerSize) // entry
	b = le.AppendUint64(b, 64)                     // program headers' offset
	b = le.AppendUint64(b, 0)                      // no section headers
	b = le.AppendUint32(b, 0)                      // flags
	b = le.AppendUint16(b, 64)
	b = le.AppendUint16(b, 56)
	b = le.AppendUint16(b, 1)
	b = le.AppendUint16(b, 64)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint16(b, 0)
	// One loadable segment, readable and executable.
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, 5)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint64(b, loadAddress)
	b = le.AppendUint64(b, loadAddress)
	b = le.AppendUint64(b, size)
	b = le.AppendUint64(b, size)
	b = le.AppendUint64(b, segmentAlign)

	b = append(b, code...)
	for uint64(len(b)) < ignore-loadAddress {
		b = append(b, 0)
	}
	b = appendSigaction(b, sigIgn, 0)
	return appendSigaction(b, exit, saRestorer), nil
}

// appendSigaction appends the kernel's struct sigaction: handler, flags,
// restorer, mask. amd64 refuses to deliver to a handler without a restorer;
// ours never returns, so that any address will do.
func appendSigaction(b []byte, handler, flags uint64) []byte {
	for _, word := range []uint64{handler, flags, handler, 0} {
		b = binary.LittleEndian.AppendUint64(b, word)
	}
	return b
}

func pauseAMD64(ignore, handle uint64) (code []byte, exit uint64) {
	imm := func(op byte, v uint64) { code = binary.LittleEndian.AppendUint32(append(code, op), uint32(v)) }
	sigaction := func(signal syscall.Signal, table uint64) {
		imm(0xb8, 13)                   // mov eax, rt_sigaction
		imm(0xbf, uint64(signal))       // mov edi, signal
		imm(0xbe, table)                // mov esi, table
		code = append(code, 0x31, 0xd2) // xor edx, edx
		code = append(code, 0x41)       // mov r10d, size of the mask
		imm(0xba, sigsetBytes)
		code = append(code, 0x0f, 0x05) // syscall
	}
	sigaction(syscall.SIGCHLD, ignore)
	sigaction(syscall.SIGTERM, handle)
	sigaction(syscall.SIGINT, handle)
	imm(0xb8, 34)                               // mov eax, pause
	code = append(code, 0x0f, 0x05, 0xeb, 0xf7) // syscall; jmp to the mov
	exit = loadAddress + headerSize + uint64(len(code))
	imm(0xb8, 60)                               // mov eax, exit
	code = append(code, 0x31, 0xff, 0x0f, 0x05) // xor edi, edi; syscall
	return code, exit
}

func pauseARM64(ignore, handle uint64) (code []byte, exit uint64) {
	word := func(w uint32) { code = binary.LittleEndian.AppendUint32(code, w) }
	mov := func(register uint32, v uint64) { // movz, movk
		word(0xd2800000 | uint32(v&0xffff)<<5 | register)
		word(0xf2a00000 | uint32(v>>16&0xffff)<<5 | register)
	}
	const svc, number = 0xd4000001, 8
	sigaction := func(signal syscall.Signal, table uint64) {
		mov(0, uint64(signal))
		mov(1, table)
		mov(2, 0)
		mov(3, sigsetBytes)
		mov(number, 134)
		word(svc)
	}
	sigaction(syscall.SIGCHLD, ignore)
	sigaction(syscall.SIGTERM, handle)
	sigaction(syscall.SIGINT, handle)
	for register := range uint32(5) { // ppoll of nothing, without a time limit
		mov(register, 0)
	}
	mov(number, 73)
	word(svc)
	word(0x17ffffff - 12) // b to the first of the 13 instructions before
	exit = loadAddress + headerSize + uint64(len(code))
	mov(0, 0)
	mov(number, 93)
	word(svc)
	return code, exit
}
