// Package config reads mayfly.yaml and the issuer file that it names, and turns them into the configurations of the domain
// packages. It is the one place that knows YAML.
//
// [Load] MUST refuse what it does not understand completely: an unknown key, a key set twice, a value of another type, an
// empty value, a contradiction. It MUST NOT fall back to a default because a file is missing or broken. Whatever is wrong is
// a [Problem] with the file, the line and the column where it stands, in the file where it stands, and all problems are
// returned at once. It MUST NOT open a socket or write a file, and MUST NOT print the value of a secret.
//
// The domain packages say what a setting means: each Config type has a Check that returns [fault.Setting] errors, whose
// paths are mapped to positions here. What the files behind the paths hold (keys, certificates) is not looked at.
package config

import (
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Config is a loaded configuration. All paths in it are absolute; a relative one in the file is relative to the folder of
// that file, as the path given to [Load] names it (a symbolic link to the file is not followed for that).
type Config struct {
	Listen   Listen    `yaml:"listen"`
	Identity Identity  `yaml:"identity"`
	CA       ca.Config `yaml:"ca"`
	// ClientAlgorithms are the algorithms of the keys that may be certified; empty is the default list of package pop.
	ClientAlgorithms []string     `yaml:"client_algorithms"`
	CT               CT           `yaml:"ct"`
	Audit            *AuditConfig `yaml:"audit"`
	// StateDir is a directory for what is worth keeping over a restart; empty is none.
	StateDir string `yaml:"state_dir"`
	// Production refuses ephemeral keys, ct.none and every insecure.
	Production bool `yaml:"production"`

	// Issuers is the content of the issuer file.
	Issuers oidc.Config `yaml:"-"`
	// Digest is the SHA-256 over the SHA-256 of mayfly.yaml and that of the issuer file, in hexadecimal.
	Digest string `yaml:"-"`
}

// Off is the address of a listener that is not wanted.
const Off = "off"

// The addresses of listeners that the file does not name.
const (
	DefaultHTTP  = "127.0.0.1:5555"
	DefaultGRPC  = "127.0.0.1:5554"
	DefaultAdmin = "127.0.0.1:2112"
)

// Listen has the addresses of the listeners, HOST:PORT or [Off]. The same text for HTTP and GRPC means one port for both.
type Listen struct {
	HTTP  string `yaml:"http"`
	GRPC  string `yaml:"grpc"`
	Admin string `yaml:"admin"`
}

// Identity says who may get certificates.
type Identity struct {
	// File is the path of the issuer file.
	File string `yaml:"file"`
}

// CT says which transparency logs precertificates go to: Logs and Embedded, one of them or both, or None.
type CT struct {
	Logs     []ctlog.LogConfig  `yaml:"logs"`
	Embedded *embedded.Config   `yaml:"embedded"`
	None     *NoneConfig        `yaml:"none"`
	Policy   ctlog.PolicyConfig `yaml:"policy"`
}

// NoneConfig is the decision to issue certificates that no log knows.
type NoneConfig struct {
	// Reason is why, for those who read the configuration, the log and the readiness page. It is never empty.
	Reason string `yaml:"reason"`
}

// AuditConfig is the audit journal, which this version does not have: a configuration with it is refused.
type AuditConfig struct {
	File string `yaml:"file"`
}
