// Package history generates the log and the journal of a CA that has issued many certificates: a static-ct log in a
// directory, and a journal with an intent and an outcome for each of its entries.
package history

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/testkit/ct"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// Options for [Write].
type Options struct {
	PKI     *pki.PKI
	Log     string // directory of the log, in the layout of an embedded log
	Origin  string
	Journal string // path of the journal
	Entries int
	End     time.Time // when the last certificate was issued; they are a millisecond apart
}

// unsynced is a file that is never synced.
type unsynced struct{ *os.File }

func (unsynced) Sync() error { return nil }

// Write generates the log and the journal. Each outcome has the SCT of its entry.
func Write(o Options) (*ct.Static, error) {
	if err := os.MkdirAll(o.Log, 0o755); err != nil {
		return nil, err
	}
	log, err := ct.NewStatic(o.Log, o.Origin)
	if err != nil {
		return nil, err
	}
	log.Now = func() time.Time { return o.End.Add(time.Second) }
	der, err := x509.MarshalPKIXPublicKey(log.Key.Public())
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(log.Key)
	if err != nil {
		return nil, err
	}
	for name, data := range map[string][]byte{
		"log.pub.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"log.key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"origin":      []byte(o.Origin + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(o.Log, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	t, err := newTemplate(o.PKI)
	if err != nil {
		return nil, err
	}
	return log, write(o, log, t)
}

// template is a certificate whose serial number is replaced for each entry.
type template struct {
	tbs, der  []byte
	tbsSerial int // offset of the serial number in tbs
	derSerial int // offset of the serial number in der
	keyHash   [32]byte
}

func newTemplate(p *pki.PKI) (*template, error) {
	serial := new(big.Int).SetBytes(append([]byte{0x5a}, make([]byte, 19)...))
	c := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now(), NotAfter: time.Now().Add(10 * time.Minute),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, EmailAddresses: []string{"release@example.com"},
	}
	for i := range 16 { // as many as in the certificate of a CI job
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{
			Id:    asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8 + i},
			Value: []byte("\x0c\x28https://ci.example.com/group/project/-/1"),
		})
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, c, p.Intermediate, key.Public(), p.Key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	t := &template{
		tbs: leaf.RawTBSCertificate, der: der,
		keyHash: sha256.Sum256(p.Intermediate.RawSubjectPublicKeyInfo),
	}
	t.tbsSerial = indexOf(t.tbs, serial.Bytes())
	t.derSerial = indexOf(t.der, serial.Bytes())
	return t, nil
}

func indexOf(data, what []byte) int {
	for i := range data {
		if string(data[i:i+len(what)]) == string(what) {
			return i
		}
	}
	panic("the certificate has no serial number")
}

// certificate is one certificate of the history.
type certificate struct {
	serial    [20]byte
	tbsSum    [32]byte
	timestamp uint64 // of its SCT
	index     uint64 // in the log
}

func write(o Options, log *ct.Static, t *template) error {
	now, mu := o.End.Add(-time.Duration(o.Entries)*time.Millisecond-time.Minute), sync.Mutex{}
	j, err := journal.Open(journal.Config{File: o.Journal, MaxSize: "1GiB"}, journal.Options{
		Disk: func(f *os.File) journal.Disk { return unsynced{f} },
		Now: func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		},
	})
	if err != nil {
		return err
	}
	const callers = 512
	queues := make([]chan certificate, callers)
	var writing sync.WaitGroup
	id := sha256.Sum256(mustSPKI(log.Key))
	errs := make(chan error, callers)
	for i := range queues {
		queues[i] = make(chan certificate, 4)
		writing.Go(func() {
			for c := range queues[i] {
				r := c.record(t, journal.Intent)
				err := j.Append(context.Background(), &r)
				r = c.record(t, journal.Outcome)
				r.Result, r.Signatures, r.Micros, r.Certificate = journal.Issued, 2, 12345, r.TBS
				r.SCTs = []journal.SCT{{
					Log: hex.EncodeToString(id[:]), Timestamp: c.timestamp,
					Extensions: hex.EncodeToString(ct.Extensions(c.index)),
				}}
				if err == nil {
					err = j.Append(context.Background(), &r)
				}
				if err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for i := range o.Entries {
		at := o.End.Add(-time.Duration(o.Entries-i) * time.Millisecond)
		c := t.next(i, at)
		if c.index, err = log.Add(ct.StaticEntry{
			Timestamp: c.timestamp, IssuerKeyHash: t.keyHash, TBS: t.tbs,
			Certificate: t.der, Chain: [][32]byte{t.keyHash, t.keyHash},
		}); err != nil {
			break
		}
		mu.Lock()
		now = at
		mu.Unlock()
		queues[i%callers] <- c
	}
	for _, q := range queues {
		close(q)
	}
	writing.Wait()
	close(errs)
	for e := range errs {
		err = e
	}
	if err != nil {
		return err
	}
	if err := log.Publish(); err != nil {
		return err
	}
	return j.Close(context.Background(), 2*o.Entries)
}

// next replaces the serial number in the template.
func (t *template) next(i int, at time.Time) (c certificate) {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	copy(c.serial[:], sum[:20])
	c.serial[0] = c.serial[0]&0x3f | 0x40
	copy(t.tbs[t.tbsSerial:], c.serial[:])
	copy(t.der[t.derSerial:], c.serial[:])
	c.tbsSum, c.timestamp = sha256.Sum256(t.tbs), uint64(at.UnixMilli())
	return c
}

func (c certificate) record(t *template, k journal.Kind) journal.Record {
	return journal.Record{
		Kind: k, RequestID: hex.EncodeToString(c.tbsSum[:8]), Transport: "grpc", Source: "192.0.2.17",
		Issuer:  "https://token.actions.example.com",
		Subject: "repo:example/project:ref:refs/heads/main",
		SAN:     "https://ci.example.com/example/project/.ci/release.yml@refs/heads/main",
		Entry:   "https://token.actions.example.com", Config: hex.EncodeToString(c.tbsSum[:]),
		ProviderKey: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
		Key:         hex.EncodeToString(c.tbsSum[:]), KeyType: "ecdsa-sha2-256-nistp256",
		IssuerKey: hex.EncodeToString(t.keyHash[:]),
		Serial:    hex.EncodeToString(c.serial[:]), TBS: hex.EncodeToString(c.tbsSum[:]),
	}
}

func mustSPKI(key *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err) // the key was generated by this program
	}
	return der
}
