package lab

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"time"
)

// SignOutsideCA uses the CA's key outside of mayfly, as after a key compromise: it signs one precertificate for email
// and submits it to g. It returns the serial number.
func (l *Lab) SignOutsideCA(p PKI, g *Log, email string) *big.Int {
	l.Helper()
	block, _ := pem.Decode([]byte(l.Read(p.KeyFile)))
	key, ok := must(x509.ParsePKCS8PrivateKey(block.Bytes))(l).(crypto.Signer)
	if !ok {
		l.Fatal("the CA's key cannot sign")
	}
	leaf := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(l)
	serial := must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)))(l)
	now := time.Now()
	der := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, NotBefore: now, NotAfter: now.Add(10 * time.Minute), EmailAddresses: []string{email},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{ // poison (RFC 6962 §3.1)
			Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: []byte{5, 0},
		}},
	}, p.Chain[0], leaf.Public(), key))(l)
	body := must(json.Marshal(map[string]any{"chain": [][]byte{der, p.Chain[0].Raw, p.Chain[1].Raw}}))(l)
	req := must(http.NewRequestWithContext(l.Context(), http.MethodPost, g.URL+"/ct/v1/add-pre-chain",
		bytes.NewReader(body)))(l)
	resp := must(http.DefaultClient.Do(req))(l)
	defer resp.Body.Close()
	if answer := must(io.ReadAll(resp.Body))(l); resp.StatusCode != http.StatusOK {
		l.Fatalf("%s refuses the precertificate signed outside of the CA: %s: %s", g.Name, resp.Status, answer)
	}
	return serial
}
