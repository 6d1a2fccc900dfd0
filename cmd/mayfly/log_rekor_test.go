package main

import (
	"bufio"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/rekor"
	"github.com/mayfly-ca/mayfly/rekor/entry"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/tlog"
)

var signatureLogConfig = tlog.Config{Kind: tlog.Rekor, Origin: "rekor.test"}

// signatureLog writes a log of signatures with one entry of a certificate and one of a key, and returns its directory.
func signatureLog(t *testing.T) string {
	t.Helper()
	c := signatureLogConfig
	c.Dir = filepath.Join(t.TempDir(), "rekor")
	l, err := tlog.Open(t.Context(), c, tlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := rekor.New(rekor.Options{Log: adapter{l}})
	authority := pki.New(pki.Options{})
	key, err := x509.MarshalPKIXPublicKey(authority.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []*pb.Verifier{
		{Verifier: &pb.Verifier_X509Certificate{
			X509Certificate: &common.X509Certificate{RawBytes: authority.Intermediate.Raw},
		}},
		{Verifier: &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: key}}},
	} {
		by.KeyDetails = common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
		digest := sha256.Sum256([]byte("artifact"))
		sig, err := authority.Key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.CreateEntry(t.Context(), &pb.CreateEntryRequest{
			Spec: &pb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: &pb.HashedRekordRequestV002{
				Digest: digest[:], Signature: &pb.Signature{Content: sig, Verifier: by},
			}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c.Dir
}

// adapter is a log as package rekor uses it.
type adapter struct{ log *tlog.Log }

func (a adapter) Add(ctx context.Context, leaf []byte) (rekor.Inclusion, error) {
	in, err := a.log.Add(ctx, leaf)
	return rekor.Inclusion{
		LogID: in.LogID[:], Index: in.Index, Size: in.Size, Root: in.Root, Hashes: in.Hashes, Checkpoint: in.Checkpoint,
	}, err
}

// addUnverifiable adds an entry with the digest of another artifact to a log of signatures, past the front end.
func addUnverifiable(t *testing.T, dir string) {
	t.Helper()
	out, err := process.Mayfly(dir, "log", "export", "--log", "rekor", "--dir", dir, "--to", "1")
	if err != nil {
		t.Fatal(err)
	}
	var line exportedSignature
	if err := json.Unmarshal([]byte(out), &line); err != nil {
		t.Fatal(err)
	}
	right, other := sha256.Sum256([]byte("artifact")), sha256.Sum256([]byte("other"))
	leaf := strings.Replace(string(line.Entry), base64.StdEncoding.EncodeToString(right[:]),
		base64.StdEncoding.EncodeToString(other[:]), 1)
	c := signatureLogConfig
	c.Dir = dir
	l, err := tlog.Open(t.Context(), c, tlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Add(t.Context(), []byte(leaf)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The log commands read a log of signatures: in its directory and at its URL. fsck finds a signature that does not
// verify, although the tree is intact.
func TestLogOfSignatures(t *testing.T) {
	t.Parallel()
	dir := signatureLog(t)
	site := httptest.NewServer(http.StripPrefix("/api/v2", http.FileServer(http.Dir(dir))))
	t.Cleanup(site.Close)
	for _, at := range [][]string{
		{"--dir", dir}, {site.URL, "--public-key", filepath.Join(dir, "log.pub.pem")},
	} {
		run := func(args ...string) string {
			t.Helper()
			out, err := process.Mayfly(dir, append(append([]string{"log"}, args...),
				append(at, "--log", "rekor")...)...)
			if err != nil {
				var exit *exec.ExitError
				errors.As(err, &exit)
				t.Fatalf("%v %v: %v\n%s%s", args, at, err, out, exit.Stderr)
			}
			return out
		}
		if out := run("fsck"); !strings.Contains(out, "none") {
			t.Errorf("fsck: %s", out)
		}
		out := run("stats", "--json")
		for _, want := range []string{
			`"entries": 2`, `"hashedrekord with a certificate": 1`, `"hashedrekord with a key": 1`,
		} {
			if !strings.Contains(out, want) {
				t.Errorf("stats has no %s: %s", want, out)
			}
		}
		lines := bufio.NewScanner(strings.NewReader(run("export")))
		n := 0
		for ; lines.Scan(); n++ {
			var line exportedSignature
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				t.Fatal(err)
			}
			if e, err := entry.Parse(line.Entry); err != nil || line.Problem != "" ||
				line.Digest != e.Digest.String() ||
				len(line.Signers) != 1 || (line.Signers[0].Key == "") != (n == 0) {
				t.Errorf("%+v: %v", line, err)
			}
		}
		if n != 2 {
			t.Errorf("%d lines", n)
		}
		block, rest := pem.Decode([]byte(run("export", "--pem")))
		if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
			t.Error("not the one certificate")
		}
	}
	if out, err := process.Mayfly(dir, "log", "export", "--log", "rekor", "--dir", dir, "--from",
		"2026-01-01T00:00:00Z"); err == nil {
		t.Errorf("a time is accepted: %s", out)
	}
	addUnverifiable(t, dir)
	out, err := process.Mayfly(dir, "log", "fsck", "--log", "rekor", "--dir", dir)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != cli.ExitFound || !strings.Contains(out, "entry 2: the signature") {
		t.Errorf("%v: %s", err, out)
	}
}
