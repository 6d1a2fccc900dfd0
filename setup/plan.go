// Package setup writes the files of a new instance. A [Plan] goes in, a directory with mayfly.yaml, the issuer file and
// the directories that both name comes out. For a private Sigstore, keys, chains, logs and the first TUF repository are
// made, too.
//
// The configuration that is written MUST be one that [config.Load] accepts: the texts are decoded and checked before
// the first file is written. Nothing is replaced: the directory MUST be new or empty. After an error, nothing that was
// written is left.
//
// The private keys of the roots, and those of the TUF roles root and targets, are written to the directory for offline
// keys and to no other place. No key or password may be in an error.
package setup

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// The files and directories of an instance, relative to its directory.
const (
	ConfigFile  = "mayfly.yaml"
	IssuersFile = "identity.yaml"
	CADir       = "ca"      // the chain, and the key if it is in a file; "mayfly ca init" makes them
	JournalDir  = "journal" // the journal, alone in its directory
	StateDir    = "state"   // what survives a restart, such as keys of identity providers
	LogDir      = "ct"      // the log of certificates; the first start makes it
	TSADir      = "tsa"     // the chain of the timestamp authority, and its key if that is in a file
	TUFDir      = "tuf"     // the TUF repository, and the keys of snapshot and timestamp
	TrustDir    = "trust"   // what clients need: trusted root, signing configuration, root of the TUF repository
	OfflineDir  = "offline" // the keys to move to another medium

	TUFRoot = "1.root.json" // the root of the TUF repository, which clients are given
)

// Plan describes an instance.
type Plan struct {
	// Dir is the directory of the instance. It is made, and must be empty if it exists.
	Dir string
	// State is the directory for what the server writes: journal, logs, index, TUF repository, certificates of an ACME
	// CA, and what survives a restart. "": Dir. It is made, and must be empty if it exists.
	State string
	// URL is the URL of the server as clients reach it: https, or http on loopback.
	URL string
	// Organization is the name of the operator, which certificates of the CA and signing configurations have.
	Organization string
	// Listen is the address of the listener for clients, HOST:PORT. "": see [Plan.Listener].
	Listen string
	// Admin is the address of the listener for operators, HOST:PORT. "": the default of the configuration.
	Admin string
	// TLS says where the certificate of the server is from.
	TLS TLS
	// Issuers are the identity providers whose tokens are accepted; one or more.
	Issuers []Issuer
	// CAKey is the URI of the key of the CA in a key management service. "": it is in a file.
	CAKey string
	// Password is the source of the password of the keys that the server reads from files, for the configuration. Nil:
	// these keys are not encrypted.
	Password *secret.Source
	// Private says to make a private Sigstore. Nil: the configuration of a CA, whose key is made afterwards.
	Private *Private
}

// Private describes the other parts of a private Sigstore.
type Private struct {
	// TSAKey is the URI of the key of the timestamp authority in a key management service. "": it is made in a file.
	TSAKey string
	// RekorKey is likewise the URI of the key of the log of signatures. "": the log makes its key.
	RekorKey string
	// TimeServers are the URLs of time servers (ntp: or nts:), with which the timestamp authority compares its clock.
	TimeServers []string
	// Offline is the directory for the keys that the server does not need. "": [OfflineDir] in the instance. It is
	// made, and must be empty if it exists.
	Offline string
	// RootPassword is the source of the password of the keys in Offline. Nil: they are not encrypted.
	RootPassword *secret.Source
	// Iterations is the number of iterations of the key derivation for new keys. Zero: the default of package ceremony.
	// Only tests use fewer.
	Iterations int
	// Tool is the name and the version of the program, for the transcripts.
	Tool string
}

// TLS says where the certificate of the server is from: two files, an ACME CA, or a proxy in front. For a URL with
// http, all are unset.
type TLS struct {
	Certificate, Key string // paths
	// ACME says that an ACME CA issues the certificate: that at the URL Directory, or Let's Encrypt.
	ACME             bool
	Directory, Email string
	// CABundle is the path of the CA certificates that the TLS of Directory is verified with. Optional.
	CABundle string
	// Proxy says that a proxy on this machine has the certificate, and connects to the server without TLS.
	Proxy bool
}

// Ports of the listeners behind a proxy.
const (
	proxyHTTP = "127.0.0.1:5555"
	proxyGRPC = "127.0.0.1:5554"
)

// Listener returns the addresses of the listeners for clients: one address for REST and gRPC, which is [Plan.Listen] or
// every address of this machine with the port of the URL; behind a proxy, two on loopback.
func (p *Plan) Listener() (http, grpc string) {
	switch u, err := url.Parse(p.URL); {
	case p.Listen != "":
		return p.Listen, p.Listen
	case p.TLS.Proxy:
		return proxyHTTP, proxyGRPC
	case err != nil:
		return "", ""
	case u.Scheme == "http":
		return u.Host, u.Host
	case u.Port() != "":
		return "0.0.0.0:" + u.Port(), "0.0.0.0:" + u.Port()
	}
	return "0.0.0.0:443", "0.0.0.0:443"
}

// writable returns the path of a directory for what the server writes.
func (p *Plan) writable(name string) string {
	if p.State != "" {
		return filepath.Join(p.State, name)
	}
	return filepath.Join(p.Dir, name)
}

// Host returns the host name of the URL.
func (p *Plan) Host() string {
	u, err := url.Parse(p.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// keySchemes are the schemes of URIs of keys in key management services.
var keySchemes = regexp.MustCompile(`^(awskms|gcpkms|azurekms|hashivault|openbao)://.`)

// organization matches the names that are also safe in a comment and in a distinguished name.
var organization = regexp.MustCompile(`^[^\x00-\x1f\x7f]{1,64}$`)

// Check finds what is wrong with the plan. Its errors are [fault.Setting] values whose path is the name of a field, in
// lower case with hyphens.
func (p *Plan) Check() error {
	var errs []error
	bad := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	if p.Dir == "" {
		bad("is missing", "write the directory of the new instance", "dir")
	}
	if !organization.MatchString(p.Organization) {
		bad("is missing, longer than 64 bytes, or has control characters", "write the name of the operator",
			"organization")
	}
	errs = append(errs, p.checkURL(), p.TLS.check(p.URL))
	for _, one := range []struct{ name, address string }{{"listen", p.Listen}, {"admin", p.Admin}} {
		if _, _, err := net.SplitHostPort(one.address); one.address != "" && err != nil {
			bad(fmt.Sprintf("%q is not HOST:PORT", one.address), "write for example 0.0.0.0:443", one.name)
		}
	}
	if p.CAKey != "" && !keySchemes.MatchString(p.CAKey) {
		bad(fmt.Sprintf("%q is not the URI of a key", p.CAKey), "write for example awskms:///alias/NAME or "+
			"hashivault://NAME; for a key in an HSM see docs/keys-hsm.md", "ca-key")
	}
	if p.Private != nil {
		for _, one := range []struct{ flag, key string }{
			{"tsa-key", p.Private.TSAKey},
			{"rekor-key", p.Private.RekorKey},
		} {
			if one.key != "" && !keySchemes.MatchString(one.key) {
				bad(fmt.Sprintf("%q is not the URI of a key", one.key),
					"write for example awskms:///alias/NAME", one.flag)
			}
		}
		errs = append(errs, fault.Under(p.Private.RootPassword.Check(), "root-password"))
	}
	errs = append(errs, fault.Under(p.Password.Check(), "password"))
	if len(p.Issuers) == 0 {
		bad("is missing", "write the URL of the identity provider whose users or jobs get certificates", "issuer")
	}
	for i, one := range p.Issuers {
		errs = append(errs, one.Check())
		if slices.ContainsFunc(p.Issuers[:i], func(o Issuer) bool { return o.URL == one.URL }) {
			bad(one.URL+" is given twice", "remove one of them", "issuer")
		}
	}
	return errors.Join(errs...)
}

func (p *Plan) checkURL() error {
	u, err := url.Parse(p.URL)
	switch {
	case p.URL == "":
		return fault.BadSetting("is missing", "write the URL at which clients reach the server, "+
			"for example https://sigstore.example.com", "url")
	case err != nil, u.Hostname() == "", u.Scheme != "https" && u.Scheme != "http", u.User != nil, u.RawQuery != "",
		u.Fragment != "", u.Path != "" && u.Path != "/":
		return fault.BadSetting(fmt.Sprintf("%q is not the URL of a server", p.URL),
			"write a scheme and a host, and a port if necessary: https://sigstore.example.com", "url")
	case u.Scheme == "http" && !hostname.IsLoopback(u.Hostname()):
		return fault.BadSetting("tokens would be sent over a network without encryption", "write https", "url")
	case u.Scheme == "http" && u.Port() == "":
		return fault.BadSetting("the port is missing", "write for example http://127.0.0.1:5555", "url")
	}
	return nil
}

func (t TLS) check(address string) error {
	files := t.Certificate != "" || t.Key != ""
	ways := 0
	for _, set := range []bool{files, t.ACME, t.Proxy} {
		if set {
			ways++
		}
	}
	const fix = "write one of --tls-certificate with --tls-key, --acme and --proxy"
	switch {
	case strings.HasPrefix(address, "http://") && ways > 0:
		return fault.BadSetting("a URL with http has no certificate", "write a URL with https, or remove the setting",
			"tls")
	case strings.HasPrefix(address, "https://") && ways == 0:
		return fault.BadSetting("the source of the server's TLS certificate is missing", fix, "tls")
	case ways > 1:
		return fault.BadSetting("the server's TLS certificate has more than one source", fix, "tls")
	case files && (t.Certificate == "" || t.Key == ""):
		return fault.BadSetting("one of the TLS certificate and its key is missing", "write both paths", "tls")
	case !t.ACME && (t.Directory != "" || t.Email != "" || t.CABundle != ""):
		return fault.BadSetting("settings of ACME are set, but ACME is not used", "write --acme, or remove them", "tls")
	}
	return nil
}

// absolute returns a path for the configuration: paths that the operator writes are relative to the working directory,
// and paths in the configuration to its directory.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}
