package ct

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"

	cttypes "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
)

// tree is the log's Merkle tree and the entries that get-entries serves.
type tree struct {
	leaves, extras [][]byte
	frozen         any               // the tree head at the time of the last SetFault
	corrupt        map[uint64][]byte // bytes that are served in place of a leaf
}

func (t *tree) add(leaf *cttypes.MerkleTreeLeaf, chain [][]byte) error {
	data, err := tls.Marshal(*leaf)
	if err != nil {
		return err
	}
	var certs []cttypes.ASN1Cert
	for _, der := range chain[1:] {
		certs = append(certs, cttypes.ASN1Cert{Data: der})
	}
	var extra []byte
	if leaf.TimestampedEntry.EntryType == cttypes.PrecertLogEntryType {
		extra, err = tls.Marshal(cttypes.PrecertChainEntry{
			PreCertificate:   cttypes.ASN1Cert{Data: chain[0]},
			CertificateChain: certs,
		})
	} else {
		extra, err = tls.Marshal(cttypes.CertificateChain{Entries: certs})
	}
	t.leaves, t.extras = append(t.leaves, data), append(t.extras, extra)
	return err
}

func (t *tree) merkle() *testonly.Tree {
	m := testonly.New(rfc6962.DefaultHasher)
	m.AppendData(t.leaves...)
	return m
}

// sth returns the current signed tree head as a value for encoding/json.
func (t *tree) sth(l *Log) any {
	m := t.merkle()
	key := l.key
	if l.fault == ForgedHead {
		key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader) //nolint:errcheck // a machine without randomness runs no tests
	}
	head := cttypes.SignedTreeHead{
		TreeSize: m.Size(), Timestamp: uint64(l.clock().UnixMilli()),
		SHA256RootHash: cttypes.SHA256Hash(m.Hash()),
	}
	input, err := cttypes.SerializeSTHSignatureInput(head)
	if err != nil {
		panic(err) // the only supported version cannot fail
	}
	signature, err := tls.CreateSignature(*key, tls.SHA256, input)
	if err != nil {
		panic(err)
	}
	encoded, err := tls.Marshal(signature)
	if err != nil {
		panic(err)
	}
	return cttypes.GetSTHResponse{
		TreeSize: head.TreeSize, Timestamp: head.Timestamp, SHA256RootHash: m.Hash(), TreeHeadSignature: encoded,
	}
}

// Size returns the number of entries.
func (l *Log) Size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.tree.leaves)
}

// Truncate removes all entries but the first n: the log shrinks.
func (l *Log) Truncate(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tree.leaves, l.tree.extras = l.tree.leaves[:n:n], l.tree.extras[:n:n]
}

// Rewrite changes the timestamp of entry n, so that the log has a different history.
func (l *Log) Rewrite(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	leaf := append([]byte(nil), l.tree.leaves[n]...)
	leaf[9] ^= 1 // the last byte of the timestamp (RFC 6962 §3.4)
	l.tree.leaves = append([][]byte(nil), l.tree.leaves...)
	l.tree.leaves[n] = leaf
}

// Add puts a chain into the tree without the checks of a submission, as an attacker with the CA's key could achieve.
func (l *Log) Add(chain [][]byte, precert bool) error {
	kind := cttypes.X509LogEntryType
	if precert {
		kind = cttypes.PrecertLogEntryType
	}
	leaf, err := leafOf(chain, kind, l.now())
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tree.add(leaf, chain)
}

func (l *Log) addChain(w http.ResponseWriter, r *http.Request) {
	var in cttypes.AddChainRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Chain) < 2 {
		http.Error(w, "not a chain", http.StatusBadRequest)
		return
	}
	if err := l.Add(in.Chain, false); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// serveTree serves the read path (RFC 6962 §4.3 to §4.6).
func (l *Log) serveTree(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := false
	answer := func(path string, body func(number func(string) uint64, r *http.Request) (any, bool)) {
		if r.Method != http.MethodGet || r.URL.Path != "/ct/v1/"+path {
			return
		}
		known = true
		good := true
		number := func(key string) uint64 {
			n, err := strconv.ParseUint(r.URL.Query().Get(key), 10, 32)
			good = good && err == nil
			return n
		}
		out, ok := body(number, r)
		if !good || !ok {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(out)
	}
	defer func() {
		if !known {
			http.NotFound(w, r)
		}
	}()
	answer("get-sth", func(func(string) uint64, *http.Request) (any, bool) {
		if l.fault == StaleHead {
			return l.tree.frozen, true
		}
		return l.tree.sth(l), true
	})
	answer("get-entries", func(number func(string) uint64, _ *http.Request) (any, bool) {
		start, end := number("start"), number("end")
		if start > end || start >= uint64(len(l.tree.leaves)) {
			return nil, false
		}
		end = min(end+1, uint64(len(l.tree.leaves)), start+uint64(l.o.MostEntries))
		var out cttypes.GetEntriesResponse
		for i := start; i < end; i++ {
			leaf := l.tree.leaves[i]
			if other, ok := l.tree.corrupt[i]; ok {
				leaf = other
			}
			out.Entries = append(out.Entries, cttypes.LeafEntry{LeafInput: leaf, ExtraData: l.tree.extras[i]})
		}
		return out, true
	})
	answer("get-sth-consistency", func(number func(string) uint64, _ *http.Request) (any, bool) {
		first, second := number("first"), number("second")
		if first == 0 || first > second || second > uint64(len(l.tree.leaves)) {
			return nil, false
		}
		proof, err := l.tree.merkle().ConsistencyProof(first, second)
		return cttypes.GetSTHConsistencyResponse{Consistency: proof}, err == nil
	})
	answer("get-proof-by-hash", func(number func(string) uint64, r *http.Request) (any, bool) {
		size := number("tree_size")
		m := l.tree.merkle()
		for i := range min(size, m.Size()) {
			if want := r.URL.Query().Get("hash"); want == base64Of(m.LeafHash(i)) {
				proof, err := m.InclusionProof(i, size)
				return cttypes.GetProofByHashResponse{LeafIndex: int64(i), AuditPath: proof}, err == nil
			}
		}
		return nil, false
	})
}

// Corrupt changes the bytes that get-entries serves for entry n from now on, and leaves the tree unchanged.
func (l *Log) Corrupt(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	leaf := append([]byte(nil), l.tree.leaves[n]...)
	leaf[9] ^= 1
	l.tree.corrupt = map[uint64][]byte{uint64(n): leaf}
}

func base64Of(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

func spki(key crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err) // keys are generated above and always encode
	}
	return der
}

// ID returns the log ID (RFC 6962 §3.2).
func (l *Log) ID() [32]byte { return keyID(l.key.Public()) }
