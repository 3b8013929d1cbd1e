package image

import (
	"debug/elf"
	"fmt"
)

// machines that an image can be of, as Go names them.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkProgram sees that a file can run where there is nothing but itself.
func checkProgram(path, architecture string) error {
	want, ok := machines[architecture]
	if !ok {
		return fmt.Errorf("architecture %q: it is amd64 or arm64", architecture)
	}
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is not a Linux program: %w", path, err)
	}
	defer f.Close()
	if f.Machine != want {
		return fmt.Errorf("%s is for %s and not for %s: build it with GOARCH=%s", path, f.Machine, architecture, architecture)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs libraries that the image does not have: build it with CGO_ENABLED=0", path)
		}
	}
	return nil
}
