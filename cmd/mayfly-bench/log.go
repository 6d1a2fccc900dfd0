package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/dev"
	"github.com/mayfly-ca/mayfly/tbs"
)

// startLog starts a simulated log (RFC 6962) that signs SCTs after a delay and stores nothing. It returns the URL of
// the log and its public key in PEM.
func (l *benchLab) startLog(chain []*x509.Certificate, delay time.Duration) (url string, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", nil, err
	}
	at, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		return "", nil, err
	}
	log := &benchLog{
		key: key, delay: delay, id: sha256.Sum256(spki),
		issuer: sha256.Sum256(chain[0].RawSubjectPublicKeyInfo),
	}
	l.log = log
	pages := http.NewServeMux()
	pages.HandleFunc("POST /ct/v1/add-pre-chain", log.add)
	pages.HandleFunc("GET /ct/v1/get-roots", func(w http.ResponseWriter, _ *http.Request) {
		// an error means that the client disconnected
		_ = cli.WriteJSON(w, map[string][][]byte{"certificates": {chain[len(chain)-1].Raw}})
	})
	stop := dev.ServePages(at, pages)
	l.closers = append(l.closers, func() error { stop(); return nil })
	return "http://" + at.Addr().String(), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), nil
}

type benchLog struct {
	key    *ecdsa.PrivateKey
	id     [32]byte
	issuer [32]byte // SHA-256 of the issuing certificate's SPKI
	delay  time.Duration

	answers, nanoseconds atomic.Int64
}

// logUse is the number of responses of a log and their total time, measured by the log.
type logUse struct {
	answers int64
	took    time.Duration
}

func (u logUse) since(before logUse) logUse {
	return logUse{u.answers - before.answers, u.took - before.took}
}

// logged returns the usage of the simulated log so far; zero if there is none.
func (l *benchLab) logged() logUse {
	if l.log == nil {
		return logUse{}
	}
	return logUse{l.log.answers.Load(), time.Duration(l.log.nanoseconds.Load())}
}

func (l *benchLog) add(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	defer func() {
		l.nanoseconds.Add(time.Since(began).Nanoseconds())
		l.answers.Add(1)
	}()
	if l.delay > 0 {
		time.Sleep(l.delay)
	}
	var in struct{ Chain [][]byte }
	if json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in) != nil || len(in.Chain) == 0 {
		http.Error(w, "no chain", http.StatusBadRequest)
		return
	}
	bare, _, err := tbs.WithoutSCTList(in.Chain[0])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	at := uint64(time.Now().UnixMilli()) //nolint:gosec // after 1970
	input, err := tbs.SignatureInput(at, nil, tbs.Entry{IssuerKeyHash: l.issuer, TBS: bare})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	digest := sha256.Sum256(input)
	sig, err := ecdsa.SignASN1(rand.Reader, l.key, digest[:])
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	signed := append([]byte{4, 3, byte(len(sig) >> 8), byte(len(sig))}, sig...) // SHA-256, ECDSA (RFC 5246 §7.4.1.4.1)
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"sct_version":0,"id":%q,"timestamp":%d,"extensions":"","signature":%q}`,
		base64.StdEncoding.EncodeToString(l.id[:]), at, base64.StdEncoding.EncodeToString(signed))
}
