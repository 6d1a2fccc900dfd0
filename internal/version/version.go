// Package version says what a binary was built from.
package version

import (
	"cmp"
	"crypto/fips140"
	"runtime"
	"runtime/debug"
)

// release is set by the linker (-X MODULE/internal/version.release=v1.2.3) in builds from a working tree. "go install"
// leaves it empty, and the version of the module is used.
var release string

// Info says what this binary was built from.
type Info struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"`
	Modified  bool   `json:"modified"`
	Date      string `json:"date"`
	GoVersion string `json:"go_version"`
	Platform  string `json:"platform"`
	FIPS140   FIPS   `json:"fips140"`
	// CGO is whether C code may be linked into the binary.
	CGO bool `json:"cgo"`
	// Tags are the build tags of the build, separated by commas.
	Tags string `json:"tags,omitempty"`
	// KeyBackends are the key backends of the CA that this build includes; nil for a program without the CA.
	KeyBackends []KeyBackend `json:"key_backends,omitempty"`
	// State has the formats of files that the program reads and writes; nil for a program without the CA.
	State []Format `json:"state,omitempty"`
}

// KeyBackend is a place where the key of a CA may be.
type KeyBackend struct {
	Name string `json:"name"` // in the configuration
	// Services are the key management services of the backend; nil if the backend is not about services.
	Services []string `json:"services,omitempty"`
}

// Format says which versions of a kind of file the program understands.
type Format struct {
	Name   string `json:"name"`
	Reads  int    `json:"reads_from"` // the oldest version that the program reads
	Writes int    `json:"writes"`     // the version that the program writes, the newest that it reads
}

// FIPS says how this process uses the FIPS 140-3 module of Go.
type FIPS struct {
	// State is "off", "on" (approved algorithms come from the module) or "only" (others are refused, too). The build
	// (GOFIPS140) and the environment (GODEBUG=fips140=…) decide.
	State string `json:"state"`
	// Module is the version of the module, such as "v1.26.0"; "latest" if the build did not choose one.
	Module string `json:"module"`
}

// FIPS140 returns the state of this process.
func FIPS140() FIPS {
	f := FIPS{State: "off", Module: fips140.Version()}
	switch {
	case fips140.Enforced():
		f.State = "only"
	case fips140.Enabled():
		f.State = "on"
	}
	return f
}

// Read returns the build information of this binary.
func Read() Info {
	build, _ := debug.ReadBuildInfo() // nil in a binary without modules
	return infoOf(release, build)
}

// infoOf returns the information of a binary with the release that the linker set, "" if it set none. build may be nil.
func infoOf(release string, build *debug.BuildInfo) Info {
	out := Info{
		Version: release, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		FIPS140: FIPS140(),
	}
	if build != nil {
		out.Version = cmp.Or(release, build.Main.Version)
		for _, s := range build.Settings {
			switch s.Key {
			case "vcs.revision":
				out.Commit = s.Value
			case "vcs.time":
				out.Date = s.Value
			case "vcs.modified":
				out.Modified = s.Value == "true"
			case "CGO_ENABLED":
				out.CGO = s.Value == "1"
			case "-tags":
				out.Tags = s.Value
			}
		}
	}
	out.Version = cmp.Or(out.Version, "(devel)")
	return out
}

// UserAgent returns the User-Agent of outbound requests.
func UserAgent() string { return "mayfly/" + Read().Version }
