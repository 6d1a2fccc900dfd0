// Logcheck reads a whole static-ct log over HTTP and verifies the checkpoint's signature and origin, every tile against
// the entries, the root against the checkpoint, every entry's leaf index against its position, and every issuer against
// its digest. It prints the size of the log, and ends with status 1 and the reason if anything is wrong.
//
// The tree is checked by tessera's fsck library. TesseraCT's own command over the same library is not used: without a
// terminal it ends with status 0 whatever it found.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	tnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	url := flag.String("url", "", "base URL of the log's read path")
	origin := flag.String("origin", "", "origin of the log")
	key := flag.String("key", "", "public key of the log, PEM")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := check(ctx, strings.TrimSuffix(*url, "/"), *origin, *key); err != nil {
		fmt.Fprintln(os.Stderr, "logcheck:", err)
		os.Exit(1)
	}
}

func check(ctx context.Context, url, origin, keyFile string) error {
	verifier, err := loadVerifier(origin, keyFile)
	if err != nil {
		return err
	}
	c := &checker{url: url, client: &http.Client{Timeout: 20 * time.Second}, issuers: map[[32]byte]bool{}}
	checkpoint, err := c.ReadCheckpoint(ctx)
	if err != nil {
		return err
	}
	var size uint64
	if _, err := fmt.Sscanf(strings.TrimPrefix(string(checkpoint), origin+"\n"), "%d\n", &size); err != nil {
		return fmt.Errorf("checkpoint does not start with origin %q and a size", origin)
	}
	if err := fsck.New(origin, verifier, c, c.leafHashes, fsck.Opts{N: 1}).Check(ctx); err != nil {
		return err
	}
	if len(c.bad) > 0 {
		return errors.Join(c.bad...)
	}
	for fingerprint := range c.issuers {
		data, err := c.get(ctx, fmt.Sprintf("/issuer/%x", fingerprint))
		if err != nil {
			return err
		}
		if sha256.Sum256(data) != fingerprint {
			return fmt.Errorf("issuer %x is another certificate", fingerprint)
		}
	}
	if c.entries < size {
		return fmt.Errorf("%d entries read of %d", c.entries, size)
	}
	fmt.Printf("size=%d entries=%d issuers=%d\n", size, c.entries, len(c.issuers))
	return nil
}

func loadVerifier(origin, keyFile string) (note.Verifier, error) {
	data, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", keyFile)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	text, err := tnote.RFC6962VerifierString(origin, key)
	if err != nil {
		return nil, err
	}
	return tnote.NewVerifier(text)
}

// checker fetches the log's resources and reads its entries.
type checker struct {
	url    string
	client *http.Client

	mu      sync.Mutex
	entries uint64
	issuers map[[32]byte]bool
	bad     []error
}

func (c *checker) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 64<<20))
}

// ReadCheckpoint implements fsck.Fetcher.
func (c *checker) ReadCheckpoint(ctx context.Context) ([]byte, error) {
	return c.get(ctx, "/checkpoint")
}

// ReadTile implements fsck.Fetcher.
func (c *checker) ReadTile(ctx context.Context, level, index uint64, partial uint8) ([]byte, error) {
	return c.get(ctx, "/"+layout.TilePath(level, index, partial))
}

// ReadEntryBundle implements fsck.Fetcher.
func (c *checker) ReadEntryBundle(ctx context.Context, index uint64, partial uint8) ([]byte, error) {
	return c.get(ctx, "/tile/data/"+layout.NWithSuffix(0, index, partial))
}

// leafHashes returns the RFC 6962 leaf hashes of the entries in a data tile (c2sp.org/static-ct-api, log entries).
func (c *checker) leafHashes(tile []byte) ([][]byte, error) {
	var hashes [][]byte
	s := cryptobyte.String(tile)
	for !s.Empty() {
		leaf, e, err := readEntry(&s)
		if err != nil {
			return nil, fmt.Errorf("entry %d of a data tile: %w", len(hashes), err)
		}
		c.note(e, uint64(len(hashes)))
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(leaf))
	}
	return hashes, nil
}

// note records the contents of an entry. position is the entry's place in its tile. The number of the tile is not known
// here, and the tree hash determines it, so only the index modulo the width of a tile remains to be compared.
func (c *checker) note(e entry, position uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries++
	for _, f := range e.issuers {
		c.issuers[f] = true
	}
	if e.index%layout.EntryBundleWidth != position {
		c.bad = append(c.bad, fmt.Errorf("an entry at place %d of its tile says leaf index %d", position, e.index))
	}
}

type entry struct {
	index   uint64
	issuers [][32]byte
}

// readEntry reads one TileLeaf and returns its MerkleTreeLeaf (RFC 6962 §3.4) and what else it says.
func readEntry(s *cryptobyte.String) (leaf []byte, e entry, err error) {
	var timestamp, body, extensions, precert, chain []byte
	var kind uint16
	if !s.ReadBytes(&timestamp, 8) || !s.ReadUint16(&kind) {
		return nil, e, errors.New("too short")
	}
	b := cryptobyte.NewBuilder([]byte{0, 0})
	b.AddBytes(timestamp)
	b.AddUint16(kind)
	if kind == 1 {
		var issuerKeyHash []byte
		if !s.ReadBytes(&issuerKeyHash, sha256.Size) {
			return nil, e, errors.New("no issuer key hash")
		}
		b.AddBytes(issuerKeyHash)
	}
	if kind > 1 || !s.ReadUint24LengthPrefixed((*cryptobyte.String)(&body)) ||
		!s.ReadUint16LengthPrefixed((*cryptobyte.String)(&extensions)) {
		return nil, e, errors.New("no certificate or no extensions")
	}
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(body) })
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(extensions) })
	if kind == 1 && !s.ReadUint24LengthPrefixed((*cryptobyte.String)(&precert)) {
		return nil, e, errors.New("no precertificate")
	}
	if !s.ReadUint16LengthPrefixed((*cryptobyte.String)(&chain)) || len(chain)%sha256.Size != 0 {
		return nil, e, errors.New("no chain")
	}
	for ; len(chain) > 0; chain = chain[sha256.Size:] {
		e.issuers = append(e.issuers, [32]byte(chain[:sha256.Size]))
	}
	if len(extensions) != 8 || extensions[0] != 0 || extensions[1] != 0 || extensions[2] != 5 {
		return nil, e, fmt.Errorf("extensions %x are no leaf index", extensions)
	}
	for _, octet := range extensions[3:] {
		e.index = e.index<<8 | uint64(octet)
	}
	leaf, err = b.Bytes()
	return leaf, e, err
}
