package lab

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
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

// proof is what a client shows of its key.
type proof struct {
	public    string // in PEM
	signature []byte
}

// newProof makes a P-256 key and signs challenge with it.
func newProof(challenge string) (proof, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return proof{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return proof{}, err
	}
	digest := sha256.Sum256([]byte(challenge))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	return proof{encode("PUBLIC KEY", spki), signature}, err
}

// RequestCertificate sends one request as sigstore-go sends it: a fresh P-256 key, the token in a header, the proof
// over challenge.
func RequestCertificate(ctx context.Context, client *http.Client, ca, token, challenge string) (Answer, error) {
	p, err := newProof(challenge)
	if err != nil {
		return Answer{}, err
	}
	body, err := json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
		"publicKey":         map[string]string{"algorithm": "ECDSA", "content": p.public},
		"proofOfPossession": p.signature,
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

// RequestOverGRPC sends one request over gRPC, as the specification of gRPC over HTTP/2 has it, and returns the PEM of
// the certificate. The client must use HTTP/2.
func RequestOverGRPC(ctx context.Context, client *http.Client, ca, token, challenge string) (string, error) {
	p, err := newProof(challenge)
	if err != nil {
		return "", err
	}
	field := func(number int, content string) string { // of a protobuf message, with a length
		return string(binary.AppendUvarint([]byte{byte(number<<3 | 2)}, uint64(len(content)))) + content
	}
	message := field(1, field(1, token)) + field(2, field(1, field(2, p.public))+field(2, string(p.signature)))
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) //nolint:gosec // some kilobytes
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		ca+"/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate",
		io.MultiReader(bytes.NewReader(append(frame, message...))))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	status, text := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" { // there is no message
		status, text = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	if resp.StatusCode != http.StatusOK || status != "0" {
		return "", fmt.Errorf("status %d, gRPC status %q: %s %.300q", resp.StatusCode, status, text, data)
	}
	_, certificate, found := bytes.Cut(data, []byte("-----BEGIN CERTIFICATE-----"))
	if !found {
		return "", fmt.Errorf("there is no certificate in %.300q", data)
	}
	certificate, _, _ = bytes.Cut(certificate, []byte("-----END CERTIFICATE-----"))
	return "-----BEGIN CERTIFICATE-----" + string(certificate) + "-----END CERTIFICATE-----\n", nil
}
