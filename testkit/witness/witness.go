// Package witness implements a witness for tests (c2sp.org/tlog-witness over HTTP, with Ed25519 cosignatures of
// c2sp.org/tlog-cosignature), which can be told to misbehave. It verifies the log's signature and every consistency
// proof, and shares no code with the product.
package witness

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Fault is a kind of misbehaviour.
type Fault string

// The faults.
const (
	None         Fault = ""
	Error500     Fault = "error 500"
	Hang         Fault = "hang"
	Garbage      Fault = "garbage"
	Endless      Fault = "a response without end"
	BadSignature Fault = "bad signature"
	Redirect     Fault = "redirect"
	Old          Fault = "a cosignature from yesterday"
	WrongSize    Fault = "a different size in each response"
	Larger       Fault = "a size beyond the tree"
)

// Witness is a running witness.
type Witness struct {
	name    string
	key     ed25519.PrivateKey
	server  *httptest.Server
	release chan struct{}

	mu       sync.Mutex
	logs     map[string]*ecdsa.PublicKey
	sizes    map[string]uint64
	roots    map[string][]byte
	fault    Fault
	requests int
	proofs   int // requests with a valid consistency proof
}

// New starts a witness without a log. It stops at the end of the test.
func New(t testing.TB, name string) *Witness {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &Witness{
		name: name, key: key, release: make(chan struct{}),
		logs: map[string]*ecdsa.PublicKey{}, sizes: map[string]uint64{}, roots: map[string][]byte{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", w.addCheckpoint)
	w.server = httptest.NewServer(mux)
	t.Cleanup(func() {
		close(w.release)
		w.server.Close()
	})
	return w
}

// URL returns the submission prefix.
func (w *Witness) URL() string { return w.server.URL }

// Key returns the verifier key of the witness (c2sp.org/signed-note).
func (w *Witness) Key() string {
	public := append([]byte{4}, w.public()...)
	return fmt.Sprintf("%s+%08x+%s", w.name, w.keyID(), base64.StdEncoding.EncodeToString(public))
}

func (w *Witness) public() ed25519.PublicKey {
	return w.key.Public().(ed25519.PublicKey) //nolint:forcetypeassert // the public key of an ed25519.PrivateKey
}

func (w *Witness) keyID() uint32 {
	sum := sha256.Sum256(append([]byte(w.name+"\n\x04"), w.public()...))
	return binary.BigEndian.Uint32(sum[:])
}

// AddLog makes the witness cosign the checkpoints of a log.
func (w *Witness) AddLog(origin string, key crypto.PublicKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logs[origin] = key.(*ecdsa.PublicKey) //nolint:forcetypeassert // a panic fails the test
}

// Fail sets the fault of the following responses.
func (w *Witness) Fail(f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

// Size returns the size of the last checkpoint of a log that the witness cosigned.
func (w *Witness) Size(origin string) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sizes[origin]
}

// Requests returns the number of requests, and of those with a valid consistency proof.
func (w *Witness) Requests() (all, proofs int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests, w.proofs
}

// Cosigned reports whether a checkpoint has a cosignature of this witness, and the time of the cosignature.
func (w *Witness) Cosigned(checkpoint string) (at time.Time, ok bool) {
	body, signatures, _ := strings.Cut(checkpoint, "\n\n")
	for line := range strings.Lines(signatures) {
		rest, found := strings.CutPrefix(line, "— "+w.name+" ")
		blob, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
		if !found || err != nil || len(blob) != 4+8+ed25519.SignatureSize ||
			binary.BigEndian.Uint32(blob) != w.keyID() {
			continue
		}
		seconds := binary.BigEndian.Uint64(blob[4:])
		if ed25519.Verify(w.public(), message(seconds, body+"\n"), blob[12:]) {
			return time.Unix(int64(seconds), 0), true //nolint:gosec // a time of this century
		}
	}
	return time.Time{}, false
}

// message returns the signed message of a cosignature (c2sp.org/tlog-cosignature, "Format").
func message(seconds uint64, body string) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", seconds, body)
}

func (w *Witness) addCheckpoint(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.requests++
	fault := w.fault
	w.mu.Unlock()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		return
	}
	switch fault {
	case Error500:
		http.Error(rw, "internal error", http.StatusInternalServerError)
		return
	case Hang:
		select {
		case <-w.release:
		case <-r.Context().Done():
		}
		return
	case Garbage:
		fmt.Fprint(rw, "<html>welcome</html>")
		return
	case Endless:
		for r.Context().Err() == nil {
			if _, err := rw.Write(bytes.Repeat([]byte("— x AAAA\n"), 1000)); err != nil {
				return
			}
		}
		return
	case Redirect:
		http.Redirect(rw, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		return
	case WrongSize, Larger:
		size := "1\n"
		if all, _ := w.Requests(); fault == WrongSize && all%2 == 0 {
			size = "2\n"
		}
		if fault == Larger {
			size = "1000000\n"
		}
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprint(rw, size)
		return
	}
	w.cosign(rw, string(body), fault)
}

// parse splits the body of a request into the old size, the consistency proof and the checkpoint.
func parse(body string) (old uint64, hashes [][]byte, checkpoint string, err error) {
	head, checkpoint, ok := strings.Cut(body, "\n\n")
	lines := strings.Split(head, "\n")
	oldText, isOld := strings.CutPrefix(lines[0], "old ")
	old, err = strconv.ParseUint(oldText, 10, 64)
	if !ok || !isOld || err != nil || strconv.FormatUint(old, 10) != oldText || len(lines) > 64 {
		return 0, nil, "", errors.New("no old size")
	}
	for _, line := range lines[1:] {
		hash, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(hash) != sha256.Size {
			return 0, nil, "", errors.New("no proof")
		}
		hashes = append(hashes, hash)
	}
	return old, hashes, checkpoint, nil
}

// cosign follows the procedure of c2sp.org/tlog-witness, "add-checkpoint", step by step.
func (w *Witness) cosign(rw http.ResponseWriter, body string, fault Fault) {
	old, hashes, checkpoint, err := parse(body)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	text, signatures, _ := strings.Cut(checkpoint, "\n\n")
	parts := strings.Split(text, "\n")
	w.mu.Lock()
	defer w.mu.Unlock()
	key, known := w.logs[parts[0]]
	if !known {
		http.Error(rw, "unknown log", http.StatusNotFound)
		return
	}
	size, root, err := verify(key, parts, signatures)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusForbidden)
		return
	}
	if old > size {
		http.Error(rw, "old size is larger", http.StatusBadRequest)
		return
	}
	origin := parts[0]
	if have := w.sizes[origin]; old != have {
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", have)
		return
	}
	if old == size && old > 0 && !bytes.Equal(root, w.roots[origin]) {
		http.Error(rw, "two roots", http.StatusConflict)
		return
	}
	if old > 0 && old < size {
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old, size, hashes, w.roots[origin], root); err != nil {
			http.Error(rw, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.proofs++
	} else if len(hashes) > 0 {
		http.Error(rw, "a proof without need", http.StatusUnprocessableEntity)
		return
	}
	w.sizes[origin], w.roots[origin] = size, root
	seconds := uint64(time.Now().Unix()) //nolint:gosec // after 1970
	if fault == Old {
		seconds -= 24 * 60 * 60
	}
	signature := ed25519.Sign(w.key, message(seconds, text+"\n"))
	if fault == BadSignature {
		signature[3] ^= 1
	}
	blob := binary.BigEndian.AppendUint32(nil, w.keyID())
	blob = append(binary.BigEndian.AppendUint64(blob, seconds), signature...)
	fmt.Fprintf(rw, "— %s %s\n", w.name, base64.StdEncoding.EncodeToString(blob))
}

// verify checks a checkpoint whose signature is that of an RFC 6962 tree head (c2sp.org/static-ct-api, "Checkpoints").
func verify(key *ecdsa.PublicKey, parts []string, signatures string) (size uint64, root []byte, err error) {
	if len(parts) < 3 {
		return 0, nil, errors.New("no checkpoint")
	}
	if size, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return 0, nil, err
	}
	if root, err = base64.StdEncoding.DecodeString(parts[2]); err != nil {
		return 0, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return 0, nil, err
	}
	id := sha256.Sum256(spki)
	hint := sha256.Sum256(append([]byte(parts[0]+"\n\x05"), id[:]...))
	for line := range strings.Lines(signatures) {
		rest, ok := strings.CutPrefix(line, "— "+parts[0]+" ")
		blob, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest))
		if !ok || err != nil || len(blob) < 20 || !bytes.Equal(blob[:4], hint[:4]) {
			continue
		}
		head := append([]byte{0, 1}, blob[4:12]...)
		head = append(binary.BigEndian.AppendUint64(head, size), root...)
		sum := sha256.Sum256(head)
		if ecdsa.VerifyASN1(key, sum[:], blob[16:]) {
			return size, root, nil
		}
	}
	return 0, nil, errors.New("no signature of the log")
}
