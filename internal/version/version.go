// Package version says what a binary was built from.
package version

import (
	"runtime"
	"runtime/debug"
)

// release is set by the linker (-X MODULE/internal/version.release=v1.2.3) in builds from a working tree. "go install"
// leaves it empty, and the version of the module counts.
var release string

// Info says what this binary was built from.
type Info struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"`
	Modified  bool   `json:"modified"`
	Date      string `json:"date"`
	GoVersion string `json:"go_version"`
	Platform  string `json:"platform"`
}

// Read returns the build information of this binary.
func Read() Info {
	b := Info{Version: release, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Date = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	return b
}

// UserAgent returns the User-Agent of outbound requests.
func UserAgent() string { return "mayfly/" + Read().Version }
