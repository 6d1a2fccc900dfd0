package trust

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/loglist"
)

// Former is the trust material of a Sigstore without a trusted root: files in PEM. The keys of logs have been valid
// since the oldest certificate of the CA, without an end.
type Former struct {
	// CA has certificates: chains one after another, each with the issuing certificate first.
	CA []byte
	// URL is that of the CA.
	URL string
	// CT and Rekor have the public keys of the logs of certificates and of signatures.
	CT, Rekor [][]byte
	// RekorURL is the URL of the logs of signatures.
	RekorURL string
	// TSA has the chains of timestamp authorities, like CA.
	TSA    []byte
	TSAURL string
}

// Material returns what verifiers trust.
func (f Former) Material() (Material, error) {
	var m Material
	var err error
	if m.Authorities, err = formerAuthorities(f.CA, f.URL); err != nil {
		return m, fmt.Errorf("the chain of the CA: %w", err)
	}
	if len(f.TSA) > 0 {
		if m.Timestamps, err = formerAuthorities(f.TSA, f.TSAURL); err != nil {
			return m, fmt.Errorf("the chain of the timestamp authority: %w", err)
		}
	}
	begin := m.Authorities[0].From
	for _, a := range m.Authorities {
		if a.From.Before(begin) {
			begin = a.From
		}
	}
	if m.Logs, err = formerLogs(f.CT, "", begin); err != nil {
		return m, fmt.Errorf("the key of the CT log: %w", err)
	}
	if m.Rekor, err = formerLogs(f.Rekor, f.RekorURL, begin); err != nil {
		return m, fmt.Errorf("the key of Rekor: %w", err)
	}
	return m, nil
}

// formerAuthorities divides certificates into chains: a chain ends where the next certificate did not sign the last
// one.
func formerAuthorities(data []byte, url string) ([]Authority, error) {
	certificates, err := pemfile.Certificates(data)
	if err != nil {
		return nil, err
	}
	var out []Authority
	for _, c := range certificates {
		if n := len(out) - 1; n >= 0 {
			last := out[n].Chain[len(out[n].Chain)-1]
			if last.CheckSignatureFrom(c) == nil && !last.Equal(c) {
				out[n].Chain = append(out[n].Chain, c)
				continue
			}
		}
		if known(out, c) {
			continue // the root of several chains, once more
		}
		out = append(out, Authority{URL: url, Chain: []*x509.Certificate{c}, From: c.NotBefore, To: c.NotAfter})
	}
	return out, nil
}

func known(all []Authority, c *x509.Certificate) bool {
	return slices.ContainsFunc(all, func(a Authority) bool { return slices.ContainsFunc(a.Chain, c.Equal) })
}

func formerLogs(keys [][]byte, address string, begin time.Time) ([]Log, error) {
	origin := ""
	if u, err := url.Parse(address); err == nil {
		origin = u.Hostname()
	}
	var out []Log
	for _, data := range keys {
		key, err := pemfile.PublicKey(data)
		if err != nil {
			return nil, err
		}
		out = append(out, Log{Log: loglist.Log{
			URL: address, Origin: origin, Key: key, Window: loglist.Window{NotBefore: begin},
		}})
	}
	return out, nil
}

// ErrNoTrust means that a TUF repository has neither a trusted root nor certificates of a CA.
var ErrNoTrust = errors.New("the repository has neither trusted_root.json nor certificates of Fulcio")

// FetchFormer downloads the trusted root from a TUF repository, as [Fetch] does. If the repository has none, it is made
// of the files with certificates and keys, which older clients find by the member "sigstore" of their custom metadata
// or by name. f has the URLs of the services for that case.
func FetchFormer(ctx context.Context, repository Mirror, f Former) ([]byte, error) {
	s, err := repository.source(ctx)
	if err != nil {
		return nil, err
	}
	wrong := func(err error) error { return fmt.Errorf("TUF repository %s: %w", repository.URL, err) }
	u, err := s.follow()
	if err != nil {
		return nil, wrong(err)
	}
	targets := u.GetTopLevelTargets()
	if targets[rootTarget] != nil {
		_, data, err := u.DownloadTarget(targets[rootTarget], "", "")
		if err != nil {
			return nil, wrong(err)
		}
		return data, nil
	}
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		usage := usageOf(name, targets[name])
		if usage == "" {
			continue
		}
		_, data, err := u.DownloadTarget(targets[name], "", "")
		if err != nil {
			return nil, wrong(err)
		}
		switch usage {
		case "Fulcio":
			f.CA = append(append(f.CA, data...), '\n')
		case "CTFE":
			f.CT = append(f.CT, data)
		case "Rekor":
			f.Rekor = append(f.Rekor, data)
		case "TSA":
			f.TSA = append(append(f.TSA, data...), '\n')
		}
	}
	if len(f.CA) == 0 {
		return nil, wrong(ErrNoTrust)
	}
	m, err := f.Material()
	if err != nil {
		return nil, wrong(err)
	}
	return m.TrustedRoot()
}

// usageOf returns Fulcio, CTFE, Rekor or TSA for a file with certificates or a key; "" for others.
func usageOf(name string, t *metadata.TargetFiles) string {
	var custom struct {
		Sigstore struct {
			Usage string `json:"usage"`
		} `json:"sigstore"`
	}
	if t.Custom != nil && json.Unmarshal(*t.Custom, &custom) == nil && custom.Sigstore.Usage != "" {
		return custom.Sigstore.Usage
	}
	base := path.Base(name)
	switch {
	case strings.HasPrefix(base, "fulcio") && strings.HasSuffix(base, ".pem"):
		return "Fulcio"
	case strings.HasPrefix(base, "ctfe") && strings.HasSuffix(base, ".pub"):
		return "CTFE"
	case strings.HasPrefix(base, "rekor") && strings.HasSuffix(base, ".pub"):
		return "Rekor"
	case base == "tsa.certchain.pem":
		return "TSA"
	}
	return ""
}

// Keeps returns an error if next lacks something that verifiers have from root, or trusts it for a shorter time: a
// signature that verified would no longer verify.
func Keeps(root, next []byte) error {
	before, err := ParseTrustedRoot(root)
	if err != nil {
		return err
	}
	after, err := ParseTrustedRoot(next)
	if err != nil {
		return err
	}
	shorter := func(a, b time.Time) bool { return !b.IsZero() && (a.IsZero() || b.Before(a)) }
	chains := func(kind string, was, is []Authority) error {
		for _, a := range was {
			i := slices.IndexFunc(is, func(b Authority) bool { return b.Chain[0].Equal(a.Chain[0]) })
			name := a.Chain[0].Subject.String()
			if i < 0 {
				return fmt.Errorf("the %s %q is missing", kind, name)
			}
			wasFrom, wasTo := a.effective()
			from, to := is[i].effective()
			if from.After(wasFrom) || to.Before(wasTo) {
				return fmt.Errorf("the %s %q would be trusted for a shorter time", kind, name)
			}
		}
		return nil
	}
	keys := func(kind string, was, is []Log) error {
		for _, a := range was {
			i := slices.IndexFunc(is, func(b Log) bool { return slices.Equal(b.RootID, a.RootID) })
			switch {
			case i < 0:
				return fmt.Errorf("the %s with the ID %x is missing", kind, a.RootID)
			case is[i].NotBefore.After(a.NotBefore) || shorter(a.NotAfter, is[i].NotAfter):
				return fmt.Errorf("the %s with the ID %x would be trusted for a shorter time", kind, a.RootID)
			}
		}
		return nil
	}
	return errors.Join(chains("CA", before.Authorities, after.Authorities),
		chains("timestamp authority", before.Timestamps, after.Timestamps),
		keys("CT log", before.Logs, after.Logs), keys("log of signatures", before.Rekor, after.Rekor))
}

// effective returns the time in which certificates of a verify: its validity, within that of its first certificate.
func (a Authority) effective() (from, to time.Time) {
	from, to = a.From, a.To
	if c := a.Chain[0]; from.Before(c.NotBefore) {
		from = c.NotBefore
	}
	if c := a.Chain[0]; to.IsZero() || to.After(c.NotAfter) {
		to = c.NotAfter
	}
	return from, to
}

// Succeed returns the trusted root for the time in which a CA takes over from another one: root, which is that of the
// former Sigstore, with the material of m besides its own. What verifiers trust by root, they trust by the result for
// at least as long.
func Succeed(root []byte, m Material) ([]byte, error) {
	next, err := Merge(root, m)
	if err != nil {
		return nil, err
	}
	if err := Keeps(root, next); err != nil {
		return nil, fmt.Errorf("earlier signatures would no longer verify: %w", err)
	}
	return next, nil
}
