package lab

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Issued is a certificate and the one that signed it.
type Issued struct{ Leaf, Issuer *x509.Certificate }

// CheckLogged verifies for each certificate that it carries an SCT of g, that g signed the SCT, and that g contains the
// entry that the SCT stands for. It returns the highest leaf index, for a static-ct log.
//
// It is written from RFC 6962 and c2sp.org/static-ct-api, without the code under test.
func (l *Lab) CheckLogged(g *Log, certs ...Issued) (highest uint64) {
	l.Helper()
	key := l.publicKey(g.Key.Public)
	tiles := &tileReader{lab: l, log: g, tiles: map[uint64][]byte{}}
	for _, c := range certs {
		entry, err := verifySCT(key, c)
		if err != nil {
			l.Fatalf("certificate %x: %v", c.Leaf.SerialNumber, err)
		}
		if g.Origin == "" {
			l.checkProof(g, entry)
			continue
		}
		if len(entry.extensions) != 8 || !bytes.HasPrefix(entry.extensions, []byte{0, 0, 5}) {
			l.Fatalf("certificate %x: the SCT's extensions %x hold no leaf index",
				c.Leaf.SerialNumber, entry.extensions)
		}
		var index uint64
		for _, b := range entry.extensions[3:] {
			index = index<<8 | uint64(b)
		}
		if got := tiles.leaf(index); !bytes.Equal(got, entry.leafHash) {
			l.Fatalf("certificate %x: the SCT says leaf %d, the log of %d entries has %x there, not %x",
				c.Leaf.SerialNumber, index, tiles.size, got, entry.leafHash)
		}
		highest = max(highest, index)
	}
	return highest
}

// HasSCT reports whether a certificate carries an SCT of g, whose signature is then verified.
func (l *Lab) HasSCT(g *Log, c Issued) bool {
	l.Helper()
	_, err := verifySCT(l.publicKey(g.Key.Public), c)
	if err != nil && !errors.Is(err, errNoSCT) {
		l.Errorf("certificate %x: %v", c.Leaf.SerialNumber, err)
	}
	return err == nil
}

// errNoSCT reports that a certificate has no SCT of the log.
var errNoSCT = errors.New("no SCT of this log")

func (l *Lab) publicKey(file string) *ecdsa.PublicKey {
	l.Helper()
	block, _ := pem.Decode([]byte(l.Read(file)))
	if block == nil {
		l.Fatalf("%s: no PEM block", file)
	}
	key, ok := must(x509.ParsePKIXPublicKey(block.Bytes))(l).(*ecdsa.PublicKey)
	if !ok {
		l.Fatalf("%s: not an ECDSA key", file)
	}
	return key
}

// checkProof asks an RFC 6962 log for the inclusion proof; the log merges within a second or so.
func (l *Lab) checkProof(g *Log, p expectedEntry) {
	l.Helper()
	l.Eventually("inclusion in "+g.Name, func(ctx context.Context) error {
		body, err := fetch(ctx, g.URL+"/ct/v1/get-sth")
		if err != nil {
			return err
		}
		var sth struct {
			TreeSize uint64 `json:"tree_size"`
		}
		if err := json.Unmarshal(body, &sth); err != nil {
			return err
		}
		if sth.TreeSize == 0 {
			return errors.New("the log is empty")
		}
		hash := url.QueryEscape(base64.StdEncoding.EncodeToString(p.leafHash))
		_, err = fetch(ctx, fmt.Sprintf("%s/ct/v1/get-proof-by-hash?hash=%s&tree_size=%d", g.URL, hash, sth.TreeSize))
		return err
	})
}

// tileReader reads level 0 of a static-ct log.
type tileReader struct {
	lab   *Lab
	log   *Log
	size  uint64
	tiles map[uint64][]byte
}

// leaf returns the leaf hash at index, nil if the log is not that long.
func (r *tileReader) leaf(index uint64) []byte {
	r.lab.Helper()
	for give := time.Now().Add(MaxWait); r.size <= index && time.Now().Before(give); time.Sleep(50 * time.Millisecond) {
		// A checkpoint follows its entries after a second or so.
		checkpoint := string(r.lab.Get(r.log.URL + "/checkpoint"))
		if _, err := fmt.Sscanf(strings.TrimPrefix(checkpoint, r.log.Origin+"\n"), "%d\n", &r.size); err != nil {
			r.lab.Fatalf("checkpoint %q: %v", checkpoint, err)
		}
		clear(r.tiles) // partial tiles have the size in their name
	}
	if index >= r.size {
		return nil
	}
	number := index / 256
	if r.tiles[number] == nil {
		r.tiles[number] = r.lab.Get(r.log.URL + "/tile/0/" + tileName(number, r.size))
	}
	at := int(index%256) * sha256.Size
	if at+sha256.Size > len(r.tiles[number]) {
		r.lab.Fatalf("tile %d is too short for leaf %d: %d bytes", number, index, len(r.tiles[number]))
	}
	return r.tiles[number][at : at+sha256.Size]
}

// tileName is the path of a level 0 tile in a log of size entries (c2sp.org/tlog-tiles, Merkle tree).
func tileName(number, size uint64) string {
	name := fmt.Sprintf("%03d", number%1000)
	for n := number / 1000; n > 0; n /= 1000 {
		name = fmt.Sprintf("x%03d/", n%1000) + name
	}
	if (number+1)*256 > size {
		name += fmt.Sprintf(".p/%d", size%256)
	}
	return name
}

// expectedEntry is the entry that the log must contain because it signed an SCT for it.
type expectedEntry struct{ leafHash, extensions []byte }

var errSyntax = errors.New("not the DER that is expected here")

// verifySCT finds the SCT of the log with the given key in a certificate, verifies it, and returns the entry that the
// log must contain.
func verifySCT(key *ecdsa.PublicKey, c Issued) (expectedEntry, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return expectedEntry{}, err
	}
	logID := sha256.Sum256(spki)
	tbs, list, err := splitTBS(c.Leaf.RawTBSCertificate)
	if err != nil {
		return expectedEntry{}, err
	}
	scts := cryptobyte.String(list)
	if !scts.ReadUint16LengthPrefixed(&scts) {
		return expectedEntry{}, errors.New("no SCT list")
	}
	for !scts.Empty() {
		var sct, extensions, signature cryptobyte.String
		var version uint8
		var id, timestamp []byte
		var algorithm uint16
		if !scts.ReadUint16LengthPrefixed(&sct) || !sct.ReadUint8(&version) || !sct.ReadBytes(&id, 32) ||
			!sct.ReadBytes(&timestamp, 8) ||
			!sct.ReadUint16LengthPrefixed(&extensions) || !sct.ReadUint16(&algorithm) ||
			!sct.ReadUint16LengthPrefixed(&signature) || !sct.Empty() {
			return expectedEntry{}, errors.New("malformed SCT")
		}
		if version != 0 || algorithm != 0x0403 || !bytes.Equal(id, logID[:]) {
			continue
		}
		// The signed input (RFC 6962 §3.2) and the Merkle tree leaf (§3.4) are the same bytes: version 0, type 0, then
		// the entry.
		issuer := sha256.Sum256(c.Issuer.RawSubjectPublicKeyInfo)
		b := cryptobyte.NewBuilder([]byte{0, 0})
		b.AddBytes(timestamp)
		b.AddUint16(1) // precert_entry
		b.AddBytes(issuer[:])
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(tbs) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(extensions) })
		leaf, err := b.Bytes()
		if err != nil {
			return expectedEntry{}, err
		}
		digest := sha256.Sum256(leaf)
		if !ecdsa.VerifyASN1(key, digest[:], signature) {
			return expectedEntry{}, errors.New("the SCT's signature is wrong")
		}
		hash := sha256.Sum256(append([]byte{0}, leaf...))
		return expectedEntry{leafHash: hash[:], extensions: extensions}, nil
	}
	return expectedEntry{}, errNoSCT
}

// splitTBS takes the SCT list extension out of a TBSCertificate (RFC 6962 §3.2) and returns the rest, and the list.
func splitTBS(der []byte) (rest, list []byte, err error) {
	sctList := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	in := cryptobyte.String(der)
	if !in.ReadASN1(&in, cbasn1.SEQUENCE) {
		return nil, nil, errSyntax
	}
	var kept []byte // the extensions without the list
	var before []byte
	extensionsTag := cbasn1.Tag(3).ContextSpecific().Constructed()
	for !in.Empty() {
		var element, content cryptobyte.String
		var tag cbasn1.Tag
		if !in.ReadAnyASN1Element(&element, &tag) {
			return nil, nil, errSyntax
		}
		if tag != extensionsTag {
			before = append(before, element...)
			continue
		}
		if !element.ReadASN1(&content, tag) || !content.ReadASN1(&content, cbasn1.SEQUENCE) {
			return nil, nil, errSyntax
		}
		for !content.Empty() {
			var extension, value cryptobyte.String
			if !content.ReadASN1Element(&extension, cbasn1.SEQUENCE) {
				return nil, nil, errSyntax
			}
			var id asn1.ObjectIdentifier
			body := extension
			if !body.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1ObjectIdentifier(&id) {
				return nil, nil, errSyntax
			}
			if !id.Equal(sctList) {
				kept = append(kept, extension...)
				continue
			}
			if !body.ReadASN1(&value, cbasn1.OCTET_STRING) || !value.ReadASN1(&value, cbasn1.OCTET_STRING) {
				return nil, nil, errSyntax
			}
			list = value
		}
	}
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(before)
		b.AddASN1(extensionsTag, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(kept) })
		})
	})
	rest, err = b.Bytes()
	return rest, list, err
}
