package trust_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/trust"
)

func chainPEM(all ...[]*x509.Certificate) (out []byte) {
	for _, chain := range all {
		for _, c := range chain {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	return out
}

func keyPEM(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// former returns the material of a Sigstore with two chains.
func former(t *testing.T) (trust.Former, [2]*pki.PKI) {
	t.Helper()
	a, b := pki.New(pki.Options{}), pki.New(pki.Options{Key: pki.P384})
	return trust.Former{
		CA: chainPEM(a.Chain, b.Chain), URL: "https://fulcio.example.com", RekorURL: "https://rekor.example.com",
		CT:    [][]byte{keyPEM(t, pki.NewKey(pki.P256).Public())},
		Rekor: [][]byte{keyPEM(t, pki.NewKey(pki.P256).Public())},
	}, [2]*pki.PKI{a, b}
}

func TestSucceed(t *testing.T) {
	t.Parallel()
	f, was := former(t)
	old, err := f.Material()
	if err != nil {
		t.Fatal(err)
	}
	if len(old.Authorities) != 2 || len(old.Authorities[1].Chain) != len(was[1].Chain) || len(old.Rekor) != 1 {
		t.Fatalf("%+v", old)
	}
	root, err := old.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	own := material()
	next, err := trust.Succeed(root, own)
	if err != nil {
		t.Fatal(err)
	}
	both, err := trust.ParseTrustedRoot(next)
	if err != nil {
		t.Fatal(err)
	}
	if len(both.Authorities) != 4 || len(both.Logs) != 1+len(own.Logs) || len(both.Rekor) != 1 {
		t.Errorf("%d authorities, %d logs, %d logs of signatures", len(both.Authorities),
			len(both.Logs), len(both.Rekor))
	}
	// the same chain again, which the former root has without an end
	same := trust.Material{Authorities: []trust.Authority{old.Authorities[0]}}
	if _, err := trust.Succeed(root, same); err != nil {
		t.Errorf("the same chain: %v", err)
	}
	same.Authorities[0].To = same.Authorities[0].From.Add(time.Hour)
	if _, err := trust.Succeed(root, same); err == nil || !strings.Contains(err.Error(), "for a shorter time") {
		t.Errorf("a shorter validity: %v", err)
	}
	if err := trust.Keeps(next, root); err == nil || !strings.Contains(err.Error(), "the CA \"") {
		t.Errorf("a missing authority: %v", err)
	}
}

func TestFormerRefused(t *testing.T) {
	t.Parallel()
	good, _ := former(t)
	for name, c := range map[string]struct {
		change func(*trust.Former)
		want   string
	}{
		"no chain":     {func(f *trust.Former) { f.CA = nil }, "the chain of the CA"},
		"no key":       {func(f *trust.Former) { f.CT[0] = f.CA }, "the key of the CT log"},
		"no Rekor key": {func(f *trust.Former) { f.Rekor[0] = []byte("x") }, "the key of Rekor"},
		"no TSA chain": {func(f *trust.Former) { f.TSA = []byte("x") }, "the chain of the timestamp authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := good
			f.CT, f.Rekor = append([][]byte{}, f.CT...), append([][]byte{}, f.Rekor...)
			c.change(&f)
			if _, err := f.Material(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// A repository with the files that older clients read, and without trusted_root.json: some have the custom metadata,
// some only the name.
func TestFetchFormer(t *testing.T) {
	t.Parallel()
	f, _ := former(t)
	site := legacySite(t, map[string][]byte{
		"fulcio_v1.crt.pem": f.CA, "ctfe.pub": f.CT[0], "log2022.pub": f.Rekor[0], "other.txt": []byte("other"),
	}, map[string]string{"log2022.pub": "Rekor"})
	server := httptest.NewServer(http.FileServerFS(fsOf(site)))
	t.Cleanup(server.Close)
	mirror := trust.Mirror{URL: server.URL, Root: site["1.root.json"], UserAgent: "test"}
	root, err := trust.FetchFormer(t.Context(), mirror,
		trust.Former{URL: f.URL, RekorURL: f.RekorURL})
	if err != nil {
		t.Fatal(err)
	}
	m, err := trust.ParseTrustedRoot(root)
	if err != nil || len(m.Authorities) != 2 || len(m.Logs) != 1 || len(m.Rekor) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	mirror.Root = legacySite(t, nil, nil)["1.root.json"]
	if _, err := trust.FetchFormer(t.Context(), mirror, trust.Former{}); err == nil {
		t.Error("a repository that does not verify from the root was accepted")
	}
	empty := legacySite(t, map[string][]byte{"other.txt": []byte("other")}, nil)
	second := httptest.NewServer(http.FileServerFS(fsOf(empty)))
	t.Cleanup(second.Close)
	_, err = trust.FetchFormer(t.Context(), trust.Mirror{URL: second.URL, Root: empty["1.root.json"]}, trust.Former{})
	if err == nil || !strings.Contains(err.Error(), trust.ErrNoTrust.Error()) {
		t.Errorf("a repository without trust material: %v", err)
	}
}

// legacySite returns the files of a TUF repository with one key for all roles.
func legacySite(t *testing.T, files map[string][]byte, usage map[string]string) map[string][]byte {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.LoadED25519Signer(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(time.Hour)
	root := metadata.Root(end)
	for _, role := range trust.Roles() {
		if err := root.Signed.AddKey(key, role); err != nil {
			t.Fatal(err)
		}
	}
	out := map[string][]byte{}
	targets := metadata.Targets(end)
	for name, data := range files {
		info, err := metadata.TargetFile().FromBytes(name, data, "sha256")
		if err != nil {
			t.Fatal(err)
		}
		if u := usage[name]; u != "" {
			custom := json.RawMessage(`{"sigstore": {"usage": "` + u + `", "status": "Active"}}`)
			info.Custom = &custom
		}
		targets.Signed.Targets[name] = info
		out["targets/"+info.Hashes["sha256"].String()+"."+name] = data
	}
	snapshot, timestamp := metadata.Snapshot(end), metadata.Timestamp(end)
	save := func(name string, m interface {
		Sign(signature.Signer) (*metadata.Signature, error)
		ToBytes(bool) ([]byte, error)
	},
	) {
		if _, err := m.Sign(signer); err != nil {
			t.Fatal(err)
		}
		if out[name], err = m.ToBytes(true); err != nil {
			t.Fatal(err)
		}
	}
	save("1.root.json", root)
	save("1.targets.json", targets)
	save("1.snapshot.json", snapshot)
	save("timestamp.json", timestamp)
	return out
}

func fsOf(files map[string][]byte) fstest.MapFS {
	out := fstest.MapFS{}
	for name, data := range files {
		out[name] = &fstest.MapFile{Data: data}
	}
	return out
}
