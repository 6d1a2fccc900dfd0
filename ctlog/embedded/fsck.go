package embedded

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/ctlog/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
)

// Finding is one thing that is wrong with a log.
type Finding struct {
	Where   string `json:"where"` // a path of the log, or "entry N"
	Problem string `json:"problem"`
}

// Check verifies a whole log: the checkpoint's signature, every entry and every tile under it, every issuer. All that is wrong is given to
// found; the error is for what ends the check. progress hears of the entries that are done and may be nil.
//
// Every hash is computed from the entries; no tile is believed. Where entries cannot be read, the tile above them stands in for them, so
// that the rest of the tree is checked all the same.
func (r *Reader) Check(ctx context.Context, o CheckOptions) (Head, error) {
	h, err := r.Head(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return h, ctx.Err()
		}
		o.Found(Finding{checkpointFile, err.Error()})
		return h, nil
	}
	c := &check{Reader: r, o: o, head: h, ctx: ctx, issuers: map[[32]byte]*x509.Certificate{}, tiles: map[compact.NodeID][]byte{}}
	return h, c.run()
}

// CheckOptions of [Reader.Check].
type CheckOptions struct {
	Found    func(Finding)
	Progress func(done, all uint64)
	Now      time.Time
	// NotBefore and NotAfter bound the entries' timestamps; zero is unbounded.
	NotBefore, NotAfter time.Time
}

// check is one run of [Reader.Check].
type check struct {
	*Reader
	o       CheckOptions
	head    Head
	ctx     context.Context //nolint:containedctx // of this one run
	tree    *compact.Range
	tiles   map[compact.NodeID][]byte // of which not all hashes are there yet
	issuers map[[32]byte]*x509.Certificate
}

func (c *check) found(where, format string, args ...any) {
	c.o.Found(Finding{where, fmt.Sprintf(format, args...)})
}

func (c *check) run() error {
	c.tree = (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for ri := range layout.Range(0, c.head.Size, c.head.Size) {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if !c.appendBundle(ri) {
			c.found("tile/0", "neither the entries nor the hashes of the entries from %d on can be read: nothing after them was checked", ri.Index*layout.TileWidth)
			return nil
		}
		if c.o.Progress != nil {
			c.o.Progress(c.tree.End(), c.head.Size)
		}
	}
	for id, hashes := range c.tiles { // at the right edge of the tree
		c.compareTile(id, hashes)
	}
	root := rfc6962.DefaultHasher.EmptyRoot()
	if c.head.Size > 0 {
		var err error
		if root, err = c.tree.GetRootHash(nil); err != nil {
			return err
		}
	}
	if !bytes.Equal(root, c.head.Root) {
		c.found(checkpointFile, "the entries have the root %x, the checkpoint has %x", root, c.head.Root)
	}
	return c.ctx.Err()
}

// appendBundle checks the entries of one bundle and puts their hashes into the tree. It reports whether the tree has them.
func (c *check) appendBundle(ri layout.RangeInfo) bool {
	n := width(ri.Partial)
	entries, err := c.bundle(c.ctx, ri.Index, n)
	hashes := make([][]byte, 0, n)
	if err == nil {
		for i := range entries {
			c.entry(&entries[i])
			h := entries[i].LeafHash()
			hashes = append(hashes, h[:])
		}
	} else {
		if c.ctx.Err() != nil {
			return true
		}
		c.found(bundlePath(ri.Index, ri.Partial), "%v", err)
		data, err := c.tile(c.ctx, 0, ri.Index, n)
		if err != nil || len(data) != n*hashSize {
			return false
		}
		for ; len(data) > 0; data = data[hashSize:] {
			hashes = append(hashes, data[:hashSize])
		}
	}
	for _, h := range hashes {
		if err := c.tree.Append(h, c.visit); err != nil {
			c.found(bundlePath(ri.Index, ri.Partial), "%v", err)
			return false
		}
	}
	return true
}

// visit collects the hashes of a tile: those of every eighth level (c2sp.org/tlog-tiles, "Merkle Tree").
func (c *check) visit(id compact.NodeID, hash []byte) {
	if id.Level%layout.TileHeight != 0 {
		return
	}
	tile := compact.NodeID{Level: id.Level / layout.TileHeight, Index: id.Index / layout.TileWidth}
	c.tiles[tile] = append(c.tiles[tile], hash...)
	if len(c.tiles[tile]) == layout.TileWidth*hashSize {
		c.compareTile(tile, c.tiles[tile])
		delete(c.tiles, tile)
	}
}

func (c *check) compareTile(id compact.NodeID, want []byte) {
	n := len(want) / hashSize
	path := layout.TilePath(uint64(id.Level), id.Index, uint8(n%layout.TileWidth)) //nolint:gosec // below 256
	got, err := c.tile(c.ctx, uint64(id.Level), id.Index, n)
	switch {
	case c.ctx.Err() != nil:
	case err != nil:
		c.found(path, "%v", err)
	case !bytes.Equal(got, want):
		c.found(path, "is not what the entries give")
	}
}

// entry checks one entry on its own.
func (c *check) entry(e *monitor.Entry) {
	where := fmt.Sprintf("entry %d", e.Index)
	at := time.UnixMilli(int64(min(e.Timestamp, 1<<62))).UTC() //nolint:gosec // bounded
	latest := c.head.Time
	if latest.After(c.o.Now) {
		latest = c.o.Now
	}
	switch {
	case at.After(latest.Add(time.Minute)):
		c.found(where, "its timestamp %s is later than the checkpoint's", at.Format(time.RFC3339))
	case !c.o.NotBefore.IsZero() && at.Before(c.o.NotBefore.Add(-time.Minute)), !c.o.NotAfter.IsZero() && at.After(c.o.NotAfter.Add(time.Minute)):
		c.found(where, "its timestamp %s is outside of the shard's validity", at.Format(time.RFC3339))
	}
	if !bytes.Equal(e.Extensions, leafIndex(e.Index)) {
		c.found(where, "its extensions %x do not say where it is", e.Extensions)
	}
	issuer := c.chain(where, e.Chain)
	if !e.Precert {
		return
	}
	if issuer != nil && sha256.Sum256(issuer.RawSubjectPublicKeyInfo) != e.IssuerKeyHash {
		c.found(where, "its issuer key hash is not that of the first certificate of its chain")
	}
	bare, _, err := tbs.Unlisted(e.Precertificate)
	switch {
	case err != nil:
		c.found(where, "its precertificate: %v", err)
		return
	case !bytes.Equal(bare, e.Content):
		c.found(where, "its precertificate without the poison is not what was logged")
	}
	cert, err := x509.ParseCertificate(e.Precertificate)
	if err != nil {
		c.found(where, "its precertificate: %v", err)
		return
	}
	if at.Before(cert.NotBefore.Add(-time.Minute)) || at.After(cert.NotAfter) {
		c.found(where, "its timestamp %s is outside of its certificate's validity, %s to %s",
			at.Format(time.RFC3339), cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	if issuer != nil {
		if err := issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
			c.found(where, "its precertificate is not signed by the first certificate of its chain: %v", err)
		}
	}
}

// chain checks the issuers that an entry names and returns the first.
func (c *check) chain(where string, chain [][32]byte) *x509.Certificate {
	if len(chain) == 0 {
		c.found(where, "names no issuer")
		return nil
	}
	for _, sum := range chain {
		if _, known := c.issuers[sum]; known {
			continue
		}
		c.issuers[sum] = nil // each is reported once
		path := "issuer/" + hex.EncodeToString(sum[:])
		der, err := c.Read(c.ctx, path)
		switch {
		case c.ctx.Err() != nil:
		case err != nil:
			c.found(path, "%s is the first that needs it: %v", where, err)
		case sha256.Sum256(der) != sum:
			c.found(path, "its content has another SHA-256 than its name")
		default:
			if c.issuers[sum], err = x509.ParseCertificate(der); err != nil {
				c.found(path, "%v", err)
			}
		}
	}
	return c.issuers[chain[0]]
}
