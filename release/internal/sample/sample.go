// Package sample makes the input of packages for tests: a program that does nothing, one manual page, and completions.
package sample

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/release/linux"
)

// Page is the text of the manual page.
const Page = ".TH MAYFLY 1 2026-11-30\n.SH NAME\nmayfly \\- sample\n.SH DESCRIPTION\nIt is a sample.\n"

// Time is the time of the packages.
var Time = time.Date(2026, 11, 30, 23, 0, 1, 0, time.UTC)

// Package returns a package for amd64 from files in a new directory of the test and from this repository, whose root is
// two directories above that of the test.
func Package(t *testing.T, version string) linux.Package {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, name := range []string{"mayfly.bash", "mayfly.zsh", "mayfly.fish"} {
		write("completions/"+name, []byte("# "+name+"\n"))
	}
	return linux.Package{
		Version: version, Arch: "amd64", Time: Time, Binary: write("mayfly", program(t)),
		Manuals: filepath.Dir(write("man/mayfly.1", []byte(Page))), Completions: filepath.Join(dir, "completions"),
		Repository: filepath.Join("..", ".."),
	}
}

// program returns a program for Linux on amd64 that ends at once: a header, one segment, and exit(0).
func program(t *testing.T) []byte {
	t.Helper()
	const base, header, segment = 0x400000, 64, 56
	code := []byte{0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // mov eax, 60; xor edi, edi; syscall
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: base + header + segment, Phoff: header, Ehsize: header, Phentsize: segment, Phnum: 1, Shentsize: 64,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	size := uint64(header + segment + len(code))
	p := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size,
		Memsz: size, Align: 0x1000,
	}
	var out bytes.Buffer
	for _, part := range []any{h, p, code} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}
