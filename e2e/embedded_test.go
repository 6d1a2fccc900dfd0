package e2e_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// embeddedCase is a CA with an embedded log in the folder "ca". The folder outlives each process of the CA.
type embeddedCase struct {
	*lab.Lab
	pki    lab.PKI
	issuer *lab.Issuer
}

const embeddedOrigin = "e2e.test/embedded"

func newEmbeddedCase(t *testing.T) embeddedCase {
	l := lab.New(t)
	return embeddedCase{l, l.PKI(), l.Issuer(nil)}
}

// serve starts the CA with a ct: block.
func (c embeddedCase) serve(ct string) *lab.Mayfly {
	c.Helper()
	return c.Serve(lab.ServeOptions{Name: "ca", PKI: c.pki, CT: ct, Identity: lab.EmailIssuer(c.issuer.URL)})
}

func (c embeddedCase) issue(ca *lab.Mayfly, n int) (out []lab.Issued) {
	c.Helper()
	client := &http.Client{Timeout: lab.MaxWait}
	for range n {
		a, err := lab.RequestCertificate(c.Context(), client, ca.URL, c.issuer.Email("alice@example.com"),
			"alice@example.com")
		if err != nil {
			c.Fatal(err)
		}
		issued, err := a.Signed()
		if err != nil {
			c.Fatal(err)
		}
		out = append(out, issued)
	}
	return out
}

// head is the tree size and root hash of a checkpoint.
func (c embeddedCase) head(checkpoint string) (size int, root []byte) {
	c.Helper()
	lines := strings.Split(checkpoint, "\n")
	if len(lines) < 5 || lines[0] != embeddedOrigin {
		c.Fatalf("checkpoint %q", checkpoint)
	}
	if _, err := fmt.Sscan(lines[1], &size); err != nil {
		c.Fatal(err)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil {
		c.Fatal(err)
	}
	return size, root
}

// rootOf is the Merkle tree hash of concatenated leaf hashes (RFC 6962 §2.1).
func rootOf(leaves []byte) []byte {
	if len(leaves) == sha256.Size {
		return leaves
	}
	k := 1
	for k*2*sha256.Size < len(leaves) {
		k *= 2
	}
	h := sha256.New()
	h.Write([]byte{1})
	h.Write(rootOf(leaves[:k*sha256.Size]))
	h.Write(rootOf(leaves[k*sha256.Size:]))
	return h.Sum(nil)
}

// TestEmbeddedMigration moves the embedded log to a real TesseraCT on the same files, as docs/operations.md describes:
// the same key, the same origin, the same entries, and a tree that extends the last checkpoint that mayfly signed.
func TestEmbeddedMigration(t *testing.T) {
	t.Parallel()
	c := newEmbeddedCase(t)
	ca := c.serve("  embedded: {dir: log, origin: " + embeddedOrigin + "}\n")
	old := c.issue(ca, 5)
	dir := ca.Dir + "/log"
	ca.Stop()
	c.Run(lab.Command{Name: "mayfly", Args: []string{"log", "fsck", "--dir", dir}})
	size, root := c.head(c.Read(dir + "/checkpoint"))
	if size != len(old) {
		t.Errorf("the last checkpoint covers %d of %d entries", size, len(old))
	}

	key := c.Path("sec1.pem")
	c.Run(lab.Command{Name: "openssl", Args: []string{"ec", "-in", dir + "/log.key.pem", "-out", key}})
	if block, _ := pem.Decode([]byte(c.Read(key))); block == nil || block.Type != "EC PRIVATE KEY" {
		t.Fatal("openssl wrote another form of key")
	}
	address := c.Address()
	log := &lab.Log{
		Name: "moved", URL: "http://" + address, Origin: embeddedOrigin,
		Key: lab.KeyPair{Private: key, Public: dir + "/log.pub.pem"},
	}
	log.Server = c.Start("tesseract", lab.Command{Name: "tesseract", Args: []string{
		"-listen", address, "-origin", embeddedOrigin, "-dir", dir, "-key", key, "-roots", c.pki.RootFile,
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, log.URL+"/ct/v1/get-roots") })
	ca = c.serve(lab.RemoteLog(log))
	fresh := c.issue(ca, 3)

	c.CheckLogged(log, append(old, fresh...)...)
	t.Log("log:", c.CheckLog(log))
	after, _ := c.head(string(c.Get(log.URL + "/checkpoint")))
	if after != len(old)+len(fresh) {
		t.Errorf("%d entries, want %d", after, len(old)+len(fresh))
	}
	leaves := c.Get(fmt.Sprintf("%s/tile/0/000.p/%d", log.URL, after))
	if got := rootOf(leaves[:size*sha256.Size]); !bytes.Equal(got, root) {
		t.Errorf("the first %d entries have the root %x now, mayfly signed %x", size, got, root)
	}
	r := c.Run(lab.Command{Name: "mayfly", Args: []string{"log", "fsck", log.URL, "--public-key", log.Key.Public}})
	if !strings.Contains(r.Stdout, "none") {
		t.Errorf("fsck says %s", r.Stdout)
	}
	ca.Stop()
}

// noteWitness is the key of a witness in the forms of c2sp.org/signed-note.
type noteWitness struct {
	name           string
	public         ed25519.PublicKey
	private, shown string
}

func newNoteWitness(t *testing.T, name string) noteWitness {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := func(kind byte) string {
		sum := sha256.Sum256(append([]byte(name+"\n"), append([]byte{kind}, public...)...))
		return fmt.Sprintf("%x", sum[:4])
	}
	encode := func(kind byte, key []byte) string {
		return base64.StdEncoding.EncodeToString(append([]byte{kind}, key...))
	}
	return noteWitness{
		name: name, public: public,
		private: "PRIVATE+KEY+" + name + "+" + id(1) + "+" + encode(1, private.Seed()),
		shown:   name + "+" + id(4) + "+" + encode(4, public),
	}
}

// cosigned verifies the cosignature of w on a checkpoint (c2sp.org/tlog-cosignature).
func (w noteWitness) cosigned(checkpoint string) error {
	body, signatures, _ := strings.Cut(checkpoint, "\n\n")
	for line := range strings.Lines(signatures) {
		text, ok := strings.CutPrefix(line, "— "+w.name+" ")
		if !ok {
			continue
		}
		blob, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err != nil || len(blob) != 76 {
			return fmt.Errorf("cosignature %q: %w", text, err)
		}
		message := fmt.Sprintf("cosignature/v1\ntime %d\n%s\n", binary.BigEndian.Uint64(blob[4:]), body)
		if !ed25519.Verify(w.public, []byte(message), blob[12:]) {
			return errors.New("the cosignature does not verify")
		}
		return nil
	}
	return fmt.Errorf("no cosignature of %s in %q", w.name, checkpoint)
}

// TestEmbeddedWitness runs a released witness that cosigns the embedded log. When the witness stops, certificates are
// still issued and checkpoints still published, and readiness reports the missing cosignature.
func TestEmbeddedWitness(t *testing.T) {
	t.Parallel()
	c := newEmbeddedCase(t)
	c.Need("omniwitness")
	plain := "  embedded: {dir: log, origin: " + embeddedOrigin + "}\n"
	ca := c.serve(plain) // creates the log's key, which the witness needs before it starts
	ca.Stop()
	w := newNoteWitness(t, "witness.e2e.test")
	block, _ := pem.Decode([]byte(c.Read(ca.Dir + "/log/log.pub.pem")))
	if block == nil {
		t.Fatal("no key of the log")
	}
	logID := sha256.Sum256(block.Bytes)
	keyID := sha256.Sum256(append([]byte(embeddedOrigin+"\n\x05"), logID[:]...))
	logs := c.Write("witness/logs.yaml",
		fmt.Sprintf("Logs:\n  - Origin: %s\n    URL: http://127.0.0.1:1/\n    PublicKey: %s+%x+%s\n",
			embeddedOrigin, embeddedOrigin, keyID[:4],
			base64.StdEncoding.EncodeToString(append([]byte{5}, block.Bytes...))))
	key := c.Write("witness/key", w.private)
	address := c.Address()
	start := func() *lab.Process {
		return c.Start("omniwitness", lab.Command{Name: "omniwitness", Args: []string{
			"--listen", address, "--metrics_listen", "", "--private_key_path", key, "--additional_logs", logs,
			"--db_file", c.Path("witness", "db"), "--logtostderr",
		}}, func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/add-checkpoint",
				strings.NewReader("x"))
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			return resp.Body.Close()
		})
	}
	witness := start()
	ca = c.serve(plain[:len(plain)-2] + fmt.Sprintf(", witnesses: [{name: omni, url: \"http://%s\", public_key: %q}]}\n", address, w.shown))
	cosigned := func(size int) func(context.Context) error {
		return func(context.Context) error {
			checkpoint := string(c.Get(ca.URL + "/ct/checkpoint"))
			if n, _ := c.head(checkpoint); n < size {
				return fmt.Errorf("%d entries", n)
			}
			return w.cosigned(checkpoint)
		}
	}
	for n := 1; n <= 3; n++ {
		c.issue(ca, 2)
		c.Eventually("cosigned", cosigned(2*n))
	}
	log := &lab.Log{
		Name: "embedded", URL: ca.URL + "/ct", Origin: embeddedOrigin,
		Key: lab.KeyPair{Public: ca.Dir + "/log/log.pub.pem"},
	}
	t.Log("log:", c.CheckLog(log))

	witness.Kill()
	c.CheckLogged(log, c.issue(ca, 2)...)
	c.Eventually("readiness warns", func(context.Context) error {
		if page := string(c.Get(ca.Admin + "/readyz")); !strings.Contains(page, "0 of 1 cosignatures") {
			return errors.New(page)
		}
		return nil
	})
	witness = start()
	c.issue(ca, 1)
	c.Eventually("cosigned again", cosigned(9))
	witness.Kill()
	ca.Stop()
}
