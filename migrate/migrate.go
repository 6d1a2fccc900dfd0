// Package migrate translates the configuration of a Fulcio into one of mayfly.
//
// A [Process] goes in: the command line of "fulcio serve", its environment, and the files that it sees. [Parse] finds
// it in a Docker Compose file, in Kubernetes manifests, in values of Sigstore's Helm chart, in a Securesign resource
// of Red Hat Trusted Artifact Signer, or in a settings file. [Translate] returns a [Plan]: mayfly.yaml, the files that
// belong beside it, and a [Report] of what differs, what is left to do and what cannot be carried over. [Plan.Write]
// writes the files.
//
// Translate MUST see each setting as Fulcio does: the precedence of flag, environment, settings file and default, and
// the names under which each of them is read. A setting MUST NOT be lost in silence: each one that is set is a row of
// the report. Write MUST NOT replace a file. Secrets MUST NOT be in the report, in an error or in mayfly.yaml; they are
// written to files that only their owner can read, or stay where they are. Nothing is fetched and no program is run.
package migrate

import (
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Process describes one process "fulcio serve".
type Process struct {
	// Name says where the process is described, for messages.
	Name string
	// Args is the command line; the program and "serve" may be in it.
	Args []string
	// Env has the environment variables.
	Env map[string]Variable
	// Dir is the directory on this machine to which the paths are relative. If Container is set, it is not used.
	Dir string
	// Container says that paths are those of a container, whose files are in Mounts.
	Container bool
	Mounts    []Mount
	// LogKey is the public key of the CT log, if Fulcio's own settings do not have it. It may be nil.
	LogKey *File
}

// Variable is the value of an environment variable.
type Variable struct {
	Text string
	// Secret is where the value is if it is not known. Text is then empty.
	Secret *File
}

// File is a file that Fulcio reads, or the value of a secret.
type File struct {
	// Path is where the file is on this machine; empty if it is not on this machine.
	Path string
	// Data is the content, if a manifest has it.
	Data []byte
	// From says in words where the file is, if it is neither.
	From string
	// Get is a shell command that prints the content. It may be empty.
	Get string
}

// Mount is a directory or a file of a container.
type Mount struct {
	// At is the path in the container.
	At string
	// Host is the directory or file on this machine that is mounted there.
	Host string
	// Files has the files below At, if Host is empty, by their relative paths; "" is At itself.
	Files map[string]File
	// Unknown returns a file that is not in Files: of an object that the manifests do not have. It may be nil.
	Unknown func(name string) File
}

// lookup returns the file at a path that Fulcio's configuration names.
func (p *Process) lookup(name string) File {
	if !p.Container {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Dir, name)
		}
		return File{Path: filepath.Clean(name)}
	}
	clean := path.Join("/", name)
	var best *Mount
	rest := ""
	for i, m := range p.Mounts {
		at := path.Join("/", m.At)
		below, ok := strings.CutPrefix(clean, strings.TrimSuffix(at, "/")+"/")
		if clean == at {
			below, ok = "", true
		}
		if ok && (best == nil || len(at) > len(best.At)) {
			best, rest = &p.Mounts[i], below
		}
	}
	if best == nil {
		return File{From: clean + " in the image of the container"}
	}
	if best.Host != "" {
		return File{Path: filepath.Join(best.Host, filepath.FromSlash(rest))}
	}
	if f, ok := best.Files[rest]; ok {
		return f
	}
	if best.Unknown != nil {
		return best.Unknown(rest)
	}
	return File{From: clean + ", which is not in what is mounted at " + best.At}
}

// logKey returns the public key of the CT log.
func (p *Process) logKey() File {
	if p.LogKey != nil {
		return *p.LogKey
	}
	return File{From: "the public key of the CT log, in PEM (ctfe.pub of the TUF repository of this Sigstore)"}
}

// forward lists the environment variables that mayfly reads as Fulcio does, because the libraries of keys do: by the
// beginnings of their names.
var forward = []string{"AWS_", "AZURE_", "BAO_", "GOOGLE_", "SOFTHSM2_CONF", "TRANSIT_SECRET_ENGINE_PATH", "VAULT_"}

// forwarded returns the names of the variables that mayfly needs, too.
func (p *Process) forwarded(authority string) []string {
	prefixes := forward
	if authority == "fileca" || authority == "ephemeralca" {
		prefixes = nil
	}
	if p.Container {
		prefixes = append([]string{"SSL_CERT_"}, prefixes...)
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		if slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			out = append(out, name)
		}
	}
	return out
}
