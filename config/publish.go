package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/loglist"
)

// Publish says where verifiers get the chains and logs of this CA. A new chain must be there before it signs.
type Publish struct {
	// URL is the URL of the CA as clients reach it. Default: http:// and listen.http.
	URL string `yaml:"url"`
	// TrustedRoot is the path of trusted_root.json as verifiers get it. "mayfly ca rotate" writes it. Default:
	// ct.policy.trusted_root, which is only read.
	TrustedRoot string `yaml:"trusted_root" path:"kept"`
	// TUF is the TUF repository that distributes the trusted root.
	TUF *PublishTUF `yaml:"tuf"`
	// Operator is the name of the operator in the trusted root and the signing configuration. Default: mayfly.
	Operator string `yaml:"operator"`
	// Issuer is the OpenID Connect issuer that signers sign in with, in the signing configuration. Default: the first
	// issuer of the type email.
	Issuer string `yaml:"issuer"`
	// Rekor lists the logs of signatures (Rekor v2) that other servers run, for the trusted root and the signing
	// configuration. Signers use the one that began last, in place of the log of this process.
	Rekor []PublishedLog `yaml:"rekor"`
	// TSA lists the timestamp authorities (RFC 3161) that other servers run, likewise.
	TSA []PublishedTSA `yaml:"tsa"`
}

// PublishedLog is a log of signatures of another server.
type PublishedLog struct {
	// URL is where signers send entries, without /api/v2: https, or http on loopback.
	URL string `yaml:"url"`
	// PublicKey is the path of the log's key, PEM SubjectPublicKeyInfo.
	PublicKey string `yaml:"public_key" path:"read"`
	// Origin is the first line of the checkpoints. Clients expect the host name of url. Default: that name.
	Origin string `yaml:"origin"`
	// NotBefore is from when signers use the log and verifiers trust it, RFC 3339 or a date (00:00 UTC). Until then
	// verifiers have the time to fetch its key. Default: at once.
	NotBefore string `yaml:"not_before"`
	// NotAfter is until when. Signatures that were logged before still verify. Default: no end.
	NotAfter string `yaml:"not_after"`
}

// PublishedTSA is a timestamp authority of another server.
type PublishedTSA struct {
	// URL is where signers send requests, with its path: https, or http on loopback.
	URL string `yaml:"url"`
	// Chain is the path of its chain in PEM: signing certificate first, root last.
	Chain string `yaml:"chain" path:"read"`
	// NotBefore is from when signers use the authority, RFC 3339 or a date (00:00 UTC). Until then verifiers have the
	// time to fetch its chain. Default: at once.
	NotBefore string `yaml:"not_before"`
	// NotAfter is until when. Timestamps from before still verify. Default: no end.
	NotAfter string `yaml:"not_after"`
}

// Window returns when signers use the log.
func (l PublishedLog) Window() (loglist.Window, error) {
	return remote.Config{NotBefore: l.NotBefore, NotAfter: l.NotAfter}.Window()
}

// Window returns when signers use the authority.
func (t PublishedTSA) Window() (loglist.Window, error) {
	return remote.Config{NotBefore: t.NotBefore, NotAfter: t.NotAfter}.Window()
}

func (l PublishedLog) check() error {
	_, err := l.Window()
	if l.PublicKey == "" {
		err = errors.Join(err, fault.BadSetting("the key is missing", "write the path of the log's key", "public_key"))
	}
	return errors.Join(checkServiceURL(l.URL), err)
}

func (t PublishedTSA) check() error {
	_, err := t.Window()
	if t.Chain == "" {
		err = errors.Join(err, fault.BadSetting("the chain is missing", "write the path of its chain", "chain"))
	}
	return errors.Join(checkServiceURL(t.URL), err)
}

func checkServiceURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !hostname.IsConfidential(u) || u.RawQuery != "" || u.Fragment != "" {
		return fault.BadSetting(strconv.Quote(text)+" is not the URL of a service",
			"write https://HOST/PATH (http on loopback only)", "url")
	}
	return nil
}

// PublishTUF is a TUF repository: Dir where it is made on this machine, URL and Root where verifiers fetch it.
type PublishTUF struct {
	// Dir is the directory of the repository (mayfly trust tuf init). The CA renews the metadata of timestamp and
	// snapshot if their keys are in it; a changed trusted root is published if the key of targets is, too.
	Dir string `yaml:"dir" path:"optional-dir"`
	// Password decrypts the keys in dir. When omitted: they are not encrypted.
	Password *secret.Source `yaml:"password"`
	// Timestamp is how long renewed metadata of the role timestamp is valid, 1h or more; it is renewed after a seventh
	// of that. Default: 168h.
	Timestamp *time.Duration `yaml:"timestamp"`
	// Snapshot is how long renewed metadata of the role snapshot is valid, not shorter than timestamp. Default: 720h.
	Snapshot *time.Duration `yaml:"snapshot"`
	// Serve serves the repository to clients at /tuf/, below publish.url. The files are served from memory as they were
	// verified, so that a change of the directory by others reaches no client.
	Serve bool `yaml:"serve"`
	// Update publishes the trusted root and the signing configuration whenever a chain, a log or another service of
	// this configuration changes. If dir does not have the key of targets, the CA writes DIR/request.json for the
	// holder of the key (mayfly trust tuf sign), and publishes DIR/signed.json. Default: the value of serve.
	Update *bool `yaml:"update"`
	// URL is where verifiers fetch the repository: https, or http on loopback.
	URL string `yaml:"url"`
	// Root is the path of the 1.root.json that verifiers have, for URL.
	Root string `yaml:"root" path:"read"`
}

// The default lives of renewed metadata.
const (
	defaultTimestamp = 7 * 24 * time.Hour
	defaultSnapshot  = 30 * 24 * time.Hour
)

// Lives returns how long renewed metadata of timestamp and snapshot is valid.
func (p *PublishTUF) Lives() (timestamp, snapshot time.Duration) {
	timestamp, snapshot = defaultTimestamp, defaultSnapshot
	if p.Timestamp != nil {
		timestamp = *p.Timestamp
	}
	if p.Snapshot != nil {
		snapshot = *p.Snapshot
	}
	return timestamp, snapshot
}

// Updates reports whether the CA publishes the trusted root and the signing configuration in dir.
func (p *PublishTUF) Updates() bool {
	if p == nil || p.Dir == "" {
		return false
	}
	if p.Update != nil {
		return *p.Update
	}
	return p.Serve
}

// Serves reports whether the CA serves the repository in dir.
func (p *PublishTUF) Serves() bool { return p != nil && p.Dir != "" && p.Serve }

func (p Publish) check() error {
	var errs []error
	if p.URL != "" {
		if !strings.HasPrefix(p.URL, "https://") && !strings.HasPrefix(p.URL, "http://") {
			errs = append(errs, fault.BadSetting(strconv.Quote(p.URL)+" is not a URL",
				"write https://HOST", "url"))
		}
	}
	for i, l := range p.Rekor {
		errs = append(errs, fault.Under(l.check(), "rekor", strconv.Itoa(i)))
	}
	for i, t := range p.TSA {
		errs = append(errs, fault.Under(t.check(), "tsa", strconv.Itoa(i)))
	}
	if p.TUF == nil {
		return errors.Join(errs...)
	}
	t := p.TUF
	if t.Dir == "" && t.URL == "" {
		errs = append(errs, fault.BadSetting("no repository", "write dir, or url and root", "tuf"))
	}
	if (t.URL == "") != (t.Root == "") {
		errs = append(errs, fault.BadSetting("url and root belong together",
			"write both, or only dir", "tuf"))
	}
	if t.Dir == "" && (t.Serve || t.Update != nil) {
		errs = append(errs, fault.BadSetting("serve and update apply only to dir", "write dir, or remove them", "tuf"))
	}
	if t.Dir == "" && (t.Password != nil || t.Timestamp != nil || t.Snapshot != nil) {
		errs = append(errs, fault.BadSetting("password, timestamp and snapshot apply only to dir",
			"write dir, or remove them", "tuf"))
	}
	timestamp, snapshot := t.Lives()
	if timestamp < time.Hour || timestamp > 365*24*time.Hour {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("timestamp %s is out of range", timestamp),
			"write 1h to 8760h", "tuf", "timestamp"))
	} else if snapshot < timestamp || snapshot > 10*365*24*time.Hour {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("snapshot %s is out of range", snapshot),
			"write a duration from the value of timestamp to 87600h", "tuf", "snapshot"))
	}
	errs = append(errs, fault.Under(t.Password.Check(), "tuf", "password"))
	return errors.Join(errs...)
}

// PublishedRoot is the path of the trusted root as verifiers get it; "" where none is configured.
func (c *Config) PublishedRoot() string {
	if c.Publish.TrustedRoot != "" {
		return c.Publish.TrustedRoot
	}
	return c.CT.Policy.TrustedRoot
}

// PublicURL is the URL of the CA as clients reach it.
func (c *Config) PublicURL() string {
	if c.Publish.URL != "" {
		return strings.TrimSuffix(c.Publish.URL, "/")
	}
	return "http://" + c.Listen.HTTP
}

// OperatorOrDefault returns the name of the operator.
func (p Publish) OperatorOrDefault() string { return cmp.Or(p.Operator, "mayfly") }

// SignInIssuer is the OpenID Connect issuer that signers sign in with; "" where no issuer has the type email.
func (c *Config) SignInIssuer() string {
	first := c.Publish.Issuer
	for url, i := range c.Issuers.Issuers {
		if c.Publish.Issuer == "" && i.Type == "email" && (first == "" || url < first) {
			first = url
		}
	}
	return first
}
