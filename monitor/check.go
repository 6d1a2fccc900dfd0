package monitor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/mayfly-ca/mayfly/tbs"
)

// Finding is one defect of a log.
type Finding struct {
	Where   string `json:"where"` // a path below the log's prefix, or "entry N"
	Problem string `json:"problem"`
}

// CheckOptions are the options of [Log.Check].
type CheckOptions struct {
	// Found is called for each finding.
	Found func(Finding)
	// Progress is called with the number of entries that have been checked. Optional.
	Progress func(done, all uint64)
	Now      time.Time
	// Entry returns the problems of an entry that only the content of the log's entries shows. It is called by several
	// goroutines. Optional.
	Entry func(*Entry) []string
	// NotBefore and NotAfter bound the timestamps of entries; a zero time is no bound.
	NotBefore, NotAfter time.Time
}

// Checked is the result of [Log.Check].
type Checked struct {
	Head
	Cosigners []string // names on the other signature lines, which are not verified
}

// Check checks a whole tiled log: the checkpoint's signature, every entry and every tile under it, and every issuer. A
// [Follower] stops at the first defect; Check reports all of them, and returns an error only if the check cannot
// continue.
//
// Every hash is computed from the entries. Where entries cannot be read, the hashes of the tile above are used instead,
// so that the rest of the tree is checked nevertheless.
func (l *Log) Check(ctx context.Context, o CheckOptions) (out Checked, err error) {
	s, err := l.tiles()
	if err != nil {
		return out, err
	}
	out.Head, out.Cosigners, err = s.signed(ctx)
	if ctx.Err() != nil {
		return Checked{}, context.Cause(ctx)
	}
	c := &check{
		static: s, CheckOptions: o, head: out.Head,
		issuers: map[[32]byte]*x509.Certificate{}, tiles: map[compact.NodeID][]byte{},
	}
	if err != nil {
		c.found(checkpointPath, "%s", strings.TrimPrefix(err.Error(), "checkpoint: "))
		return Checked{}, nil
	}
	return out, c.run(ctx)
}

// findings are the findings in a part of a log.
type findings []Finding

func (f *findings) add(where, format string, args ...any) {
	*f = append(*f, Finding{where, fmt.Sprintf(format, args...)})
}

// check is the state of one [Log.Check].
type check struct {
	*static
	CheckOptions
	head  Head
	tiles map[compact.NodeID][]byte // incomplete tiles above the lowest level, computed from the entries

	mu      sync.Mutex
	issuers map[[32]byte]*x509.Certificate // nil if it cannot be read, which was reported
}

func (c *check) found(where, format string, args ...any) {
	c.Found(Finding{where, fmt.Sprintf(format, args...)})
}

// checked is the result for a bundle and the tile above it.
type checked struct {
	hashes []byte // of its entries; nil if neither the entries nor the tile can be read
	findings
}

func (c *check) run(ctx context.Context) error {
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	visit := func(id compact.NodeID, hash []byte) { c.visit(ctx, id, hash) }
	for p := range units(ctx, stretch{source: c.static, to: c.head.Size}, c.fetch) {
		if ctx.Err() != nil {
			break // the last findings were caused by the end of ctx
		}
		for _, f := range p.findings {
			c.Found(f)
		}
		if p.hashes == nil {
			c.found("tile/0",
				"neither the entries from %d on nor their hashes can be read: nothing after them was checked",
				tree.End())
			return nil
		}
		for hash := range slices.Chunk(p.hashes, sha256.Size) {
			if err := tree.Append(hash, visit); err != nil {
				return err
			}
		}
		if c.Progress != nil {
			c.Progress(tree.End(), c.head.Size)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for id, hashes := range c.tiles { // the partial tiles at the right edge of the tree
		c.compare(ctx, id, hashes)
	}
	root, err := rootOf(tree)
	if err == nil && root != c.head.Root {
		c.found(checkpointPath, "the entries give the root %x, but the checkpoint has %x", root, c.head.Root)
	}
	return errors.Join(err, context.Cause(ctx))
}

// fetch reads a bundle, checks each of its entries, and compares the tile above with them.
func (c *check) fetch(ctx context.Context, from, _ uint64) (p checked) {
	above, below := tile{0, from / tileWidth, c.head.Size}, c.bundle(from/tileWidth, c.head.Size)
	var entries []Entry
	data, err := c.tile(ctx, below)
	if err == nil {
		entries, err = below.entries(data)
	}
	if err != nil {
		p.add(below.String(), "%v", err)
	}
	for i := range entries {
		if c.Entry != nil {
			for _, problem := range c.Entry(&entries[i]) {
				p.add(fmt.Sprintf("entry %d", entries[i].Index), "%s", problem)
			}
		}
		if c.format == Certificates {
			c.entry(ctx, &entries[i], &p.findings)
		}
		sum := entries[i].LeafHash()
		p.hashes = append(p.hashes, sum[:]...)
	}
	hashes, err := c.hashes(ctx, above)
	switch {
	case err != nil:
		p.add(above.String(), "%v", err)
	case p.hashes == nil:
		p.hashes = hashes
	case !bytes.Equal(hashes, p.hashes):
		p.add(above.String(), "does not match the entries")
	}
	return p
}

// visit collects the hashes of the tiles above the lowest level: those of every eighth level of the tree
// (c2sp.org/tlog-tiles, "Merkle Tree").
func (c *check) visit(ctx context.Context, id compact.NodeID, hash []byte) {
	if id.Level == 0 || id.Level%tileHeight != 0 {
		return
	}
	at := compact.NodeID{Level: id.Level / tileHeight, Index: id.Index / tileWidth}
	c.tiles[at] = append(c.tiles[at], hash...)
	if len(c.tiles[at]) == maxHashes {
		c.compare(ctx, at, c.tiles[at])
		delete(c.tiles, at)
	}
}

func (c *check) compare(ctx context.Context, id compact.NodeID, want []byte) {
	t := tile{int(id.Level), id.Index, c.head.Size}
	switch got, err := c.hashes(ctx, t); {
	case ctx.Err() != nil:
	case err != nil:
		c.found(t.String(), "%v", err)
	case !bytes.Equal(got, want):
		c.found(t.String(), "does not match the entries")
	}
}

// entry checks a single entry.
func (c *check) entry(ctx context.Context, e *Entry, f *findings) {
	where := fmt.Sprintf("entry %d", e.Index)
	at, latest := e.Time(), c.head.Time()
	if latest.After(c.Now) {
		latest = c.Now
	}
	switch {
	case at.After(latest.Add(time.Minute)):
		f.add(where, "the timestamp %s is later than the checkpoint's", at.Format(time.RFC3339))
	case !c.NotBefore.IsZero() && at.Before(c.NotBefore.Add(-time.Minute)),
		!c.NotAfter.IsZero() && at.After(c.NotAfter.Add(time.Minute)):
		f.add(where, "the timestamp %s is outside the shard's window", at.Format(time.RFC3339))
	}
	if !bytes.Equal(e.Extensions, LeafIndex(e.Index)) {
		f.add(where, "the extensions %x do not contain its index", e.Extensions)
	}
	by := c.above(ctx, e, f)
	if e.Precert {
		precertificate(e, by, func(format string, args ...any) { f.add(where, format, args...) })
	}
}

// precertificate checks that a precertificate is the one that was logged, and that the first certificate of its chain
// signed it. above has the first two certificates of the chain; they are nil if they could not be read.
func precertificate(e *Entry, above [2]*x509.Certificate, found func(format string, args ...any)) {
	by := above[0]
	issuer, which := by, "first"
	through := by != nil && isPrecertIssuer(by)
	if through { // RFC 6962 §3.2: the entry names the issuer of the certificate
		issuer, which = above[1], "second"
	}
	if issuer != nil && sha256.Sum256(issuer.RawSubjectPublicKeyInfo) != e.IssuerKeyHash {
		found("the issuer key hash is not that of the %s certificate of the chain", which)
	}
	content, _, err := tbs.WithoutSCTList(e.Precertificate)
	if through {
		content, err = tbs.ForIssuer(e.Precertificate,
			tbs.Issuer{Name: by.RawIssuer, AuthorityKey: extension(by, "2.5.29.35")})
	}
	switch {
	case err != nil:
		found("the precertificate: %v", err)
		return
	case !bytes.Equal(content, e.Content):
		found("the precertificate without the poison is not what was logged")
	}
	cert, err := x509.ParseCertificate(e.Precertificate)
	if err != nil {
		found("the precertificate: %v", err)
		return
	}
	if at := e.Time(); at.Before(cert.NotBefore.Add(-time.Minute)) || at.After(cert.NotAfter) {
		found("the timestamp %s is outside the certificate's validity, %s to %s",
			at.Format(time.RFC3339), cert.NotBefore.UTC().Format(time.RFC3339),
			cert.NotAfter.UTC().Format(time.RFC3339))
	}
	if by != nil {
		if err := by.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
			found("the precertificate is not signed by the first certificate of the chain: %v", err)
		}
	}
}

// isPrecertIssuer reports whether c is a precertificate signing certificate (RFC 6962 §3.1).
func isPrecertIssuer(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.UnknownExtKeyUsage,
		func(id asn1.ObjectIdentifier) bool { return id.String() == "1.3.6.1.4.1.11129.2.4.4" })
}

// extension returns the value of an extension, nil if c does not have it.
func extension(c *x509.Certificate, id string) []byte {
	for _, ext := range c.Extensions {
		if ext.Id.String() == id {
			return ext.Value
		}
	}
	return nil
}

// above reads the certificates of the chain of e, each once, and returns the first two.
func (c *check) above(ctx context.Context, e *Entry, f *findings) (two [2]*x509.Certificate) {
	if len(e.Chain) == 0 {
		f.add(fmt.Sprintf("entry %d", e.Index), "the chain has no issuer")
		return two
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, sum := range e.Chain {
		if _, known := c.issuers[sum]; known {
			continue
		}
		path := "issuer/" + hex.EncodeToString(sum[:])
		der, err := c.from.get(ctx, path, maxIssuer)
		if err == nil && sha256.Sum256(der) != sum {
			err = errors.New("the content does not have the SHA-256 in the name")
		}
		if c.issuers[sum] = nil; err == nil {
			c.issuers[sum], err = x509.ParseCertificate(der)
		}
		if err != nil {
			f.add(path, "%v (needed by entry %d)", err, e.Index)
		}
	}
	for i := range min(2, len(e.Chain)) {
		two[i] = c.issuers[e.Chain[i]]
	}
	return two
}
