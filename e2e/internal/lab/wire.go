package lab

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Answer is the response of the CA to a request over REST.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Took   time.Duration
}

// Signed parses an answer that carries a certificate.
func (a Answer) Signed() (Issued, error) {
	var body struct {
		Embedded struct {
			Chain struct {
				Certificates []string `json:"certificates"`
			} `json:"chain"`
		} `json:"signedCertificateEmbeddedSct"`
	}
	if a.Status != http.StatusOK {
		return Issued{}, fmt.Errorf("status %d: %.500s", a.Status, a.Body)
	}
	if err := json.Unmarshal(a.Body, &body); err != nil {
		return Issued{}, err
	}
	certs := body.Embedded.Chain.Certificates
	if len(certs) < 2 {
		return Issued{}, fmt.Errorf("no chain in %.500s", a.Body)
	}
	leaf, err := parsePEM(certs[0])
	if err != nil {
		return Issued{}, err
	}
	issuer, err := parsePEM(certs[1])
	return Issued{Leaf: leaf, Issuer: issuer}, err
}

// Refusal is the body of an error (google.rpc.Status).
type Refusal struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Details []struct {
		Reason   string            `json:"reason"`
		Domain   string            `json:"domain"`
		Metadata map[string]string `json:"metadata"`
	} `json:"details"`
}

// Refused parses an answer that carries an error.
func (a Answer) Refused() (r Refusal, err error) {
	if err = json.Unmarshal(a.Body, &r); err != nil {
		err = fmt.Errorf("status %d: %w: %.500s", a.Status, err, a.Body)
	}
	return r, err
}

// RequestCertificate sends one request as sigstore-go sends it: a fresh P-256 key, the token in a header, the proof
// over challenge.
func RequestCertificate(ctx context.Context, client *http.Client, ca, token, challenge string) (Answer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Answer{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Answer{}, err
	}
	digest := sha256.Sum256([]byte(challenge))
	proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return Answer{}, err
	}
	body, err := json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
		"publicKey":         map[string]string{"algorithm": "ECDSA", "content": encode("PUBLIC KEY", spki)},
		"proofOfPossession": proof,
	}})
	if err != nil {
		return Answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, ca+"/api/v2/signingCert", bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	req.Header.Set("Content-Type", "application/json")
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.StatusCode, Header: resp.Header}
	a.Body, err = io.ReadAll(resp.Body)
	a.Took = time.Since(start)
	return a, err
}
