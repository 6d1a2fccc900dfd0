package lab

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RubyOptions are the inputs of [Lab.RubySign].
type RubyOptions struct{ TrustedRoot, Token, Artifact string }

// RubySign signs a file with the requests of sigstore-ruby (lib/sigstore/signer.rb), with the URLs of the trusted root
// as that client takes them, and returns the bundle.
func (l *Lab) RubySign(o RubyOptions) string {
	l.Helper()
	var root struct {
		Authorities []struct {
			URI string `json:"uri"`
		} `json:"certificateAuthorities"`
		Logs []struct {
			BaseURL string `json:"baseUrl"`
			Key     struct {
				ValidFor struct {
					End *time.Time `json:"end"`
				} `json:"validFor"`
			} `json:"publicKey"`
		} `json:"tlogs"`
	}
	if err := json.Unmarshal([]byte(l.Read(o.TrustedRoot)), &root); err != nil {
		l.Fatal(err)
	}
	if len(root.Authorities) != 1 || len(root.Logs) != 1 || root.Logs[0].Key.ValidFor.End != nil {
		l.Fatalf("the client signs with the one authority and the one log of a trusted root that has: %+v", root)
	}
	artifact := []byte(l.Read(o.Artifact))
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(l)
	request := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "noone"},
	}, key))(l)
	certificates := l.rubyCertificates(root.Authorities[0].URI, o.Token, encode("CERTIFICATE REQUEST", request))
	digest := sha256.Sum256(artifact)
	signature := must(key.Sign(rand.Reader, digest[:], crypto.SHA256))(l)
	entry := l.rubyEntry(root.Logs[0].BaseURL, signature, certificates[0], digest[:])
	var chain []map[string]any
	for _, c := range certificates[:len(certificates)-1] { // without the root
		block, _ := pem.Decode([]byte(c))
		chain = append(chain, map[string]any{"rawBytes": block.Bytes})
	}
	return string(must(json.Marshal(map[string]any{
		"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2",
		"verificationMaterial": map[string]any{
			"x509CertificateChain": map[string]any{"certificates": chain}, "tlogEntries": []any{entry},
		},
		"messageSignature": map[string]any{
			"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": digest[:]}, "signature": signature,
		},
	}))(l))
}

// rubyCertificates requests a certificate, and returns the chain in PEM.
func (l *Lab) rubyCertificates(ca, token, request string) []string {
	l.Helper()
	var answer struct {
		Embedded struct {
			Chain struct {
				Certificates []string `json:"certificates"`
			} `json:"chain"`
		} `json:"signedCertificateEmbeddedSct"`
	}
	l.rubyPost(ca+"/api/v2/signingCert", http.StatusOK, map[string]any{
		"credentials":                 map[string]any{"oidc_identity_token": token},
		"certificate_signing_request": base64.StdEncoding.EncodeToString([]byte(request)),
	}, &answer)
	if len(answer.Embedded.Chain.Certificates) < 2 {
		l.Fatal("no chain in the answer")
	}
	return answer.Embedded.Chain.Certificates
}

// rubyEntry logs the signature with Rekor v1, and returns the entry as a bundle has it.
func (l *Lab) rubyEntry(rekor string, signature []byte, certificate string, digest []byte) any {
	l.Helper()
	var answer map[string]struct {
		Body           []byte `json:"body"`
		IntegratedTime *int64 `json:"integratedTime"`
		LogID          string `json:"logID"`
		LogIndex       *int64 `json:"logIndex"`
		Verification   struct {
			Timestamp []byte `json:"signedEntryTimestamp"`
			Proof     struct {
				Checkpoint string   `json:"checkpoint"`
				Hashes     []string `json:"hashes"`
				LogIndex   *int64   `json:"logIndex"`
				RootHash   string   `json:"rootHash"`
				TreeSize   *int64   `json:"treeSize"`
			} `json:"inclusionProof"`
		} `json:"verification"`
	}
	l.rubyPost(rekor+"/api/v1/log/entries", http.StatusCreated, map[string]any{
		"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
			"signature": map[string]any{
				"content":   signature,
				"publicKey": map[string]any{"content": base64.StdEncoding.EncodeToString([]byte(certificate))},
			},
			"data": map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(digest)}},
		},
	}, &answer)
	if len(answer) != 1 {
		l.Fatalf("%d entries in the answer", len(answer))
	}
	for _, e := range answer {
		proof := e.Verification.Proof
		if e.IntegratedTime == nil || e.LogIndex == nil || proof.LogIndex == nil || proof.TreeSize == nil ||
			proof.Hashes == nil {
			l.Fatalf("the answer is incomplete: %+v", e)
		}
		number := func(n *int64) string { return strconv.FormatInt(*n, 10) }
		unhex := func(text string) []byte { return must(hex.DecodeString(text))(l) }
		var hashes [][]byte
		for _, h := range proof.Hashes {
			hashes = append(hashes, unhex(h))
		}
		return map[string]any{
			"logIndex": number(e.LogIndex), "logId": map[string]any{"keyId": unhex(e.LogID)},
			"kindVersion":      map[string]any{"kind": "hashedrekord", "version": "0.0.1"},
			"integratedTime":   number(e.IntegratedTime),
			"inclusionPromise": map[string]any{"signedEntryTimestamp": e.Verification.Timestamp},
			"inclusionProof": map[string]any{
				"logIndex": number(proof.LogIndex), "rootHash": unhex(proof.RootHash),
				"treeSize": number(proof.TreeSize),
				"hashes":   hashes, "checkpoint": map[string]any{"envelope": proof.Checkpoint},
			},
			"canonicalizedBody": e.Body,
		}
	}
	return nil
}

// rubyPost sends JSON, and expects one status.
func (l *Lab) rubyPost(url string, want int, body, answer any) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), MaxWait)
	defer cancel()
	err := func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(must(json.Marshal(body))(l)))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		if resp.StatusCode != want {
			return fmt.Errorf("status %d: %s", resp.StatusCode, strings.TrimSpace(string(data)))
		}
		return json.Unmarshal(data, answer)
	}()
	if err != nil {
		l.Fatalf("%s: %v", url, err)
	}
}
