package linux

import (
	"fmt"
	"regexp"
	"strings"
)

// Version is the version of a package in the parts that the formats order.
type Version struct {
	// Base is MAJOR.MINOR.PATCH.
	Base string
	// Pre are the identifiers of a version before Base, such as "rc1". Optional.
	Pre string
	// Post are those of commits after Base, such as "12.g0123abc". Optional.
	Post string
}

var (
	tagged   = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.]+))?$`)
	commits  = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.]+))?-(\d+)-g([0-9a-f]{4,40})(-dirty)?$`)
	changed  = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.]+))?-dirty$`)
	untagged = regexp.MustCompile(`^([0-9a-f]{4,40})(-dirty)?$`)
)

// ParseVersion reads what "git describe --tags --always --dirty" prints: a tag (v1.2.3, v1.2.3-rc1), a tag with the
// commits after it (v1.2.3-12-g0123abc), or a commit, each of which may end in -dirty. A commit without a tag is older
// than each release.
func ParseVersion(text string) (Version, error) {
	dirty := func(suffix string) string { return strings.ReplaceAll(suffix, "-", ".") }
	if m := changed.FindStringSubmatch(text); m != nil {
		return Version{Base: m[1], Pre: m[2], Post: "0.dirty"}, nil
	}
	if m := commits.FindStringSubmatch(text); m != nil {
		return Version{Base: m[1], Pre: m[2], Post: m[3] + ".g" + m[4] + dirty(m[5])}, nil
	}
	if m := untagged.FindStringSubmatch(text); m != nil {
		return Version{Base: "0.0.0", Pre: "g" + m[1] + dirty(m[2])}, nil
	}
	if m := tagged.FindStringSubmatch(text); m != nil {
		return Version{Base: m[1], Pre: m[2]}, nil
	}
	return Version{}, fmt.Errorf("%q is not a version; write for example v1.2.3 or what git describe --tags prints",
		text)
}

// Text returns the version in a format where a version with "~" is older than one without, and after is the mark of a
// version that is newer: "+" in Debian packages, "^" in RPM packages.
func (v Version) Text(after string) string {
	text := v.Base
	if v.Pre != "" {
		text += "~" + v.Pre
	}
	if v.Post != "" {
		text += after + v.Post
	}
	return text
}
