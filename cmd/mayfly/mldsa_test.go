package main

import (
	"bytes"
	"context"
	"crypto/mldsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
)

// A client with an ML-DSA key gets a certificate with exactly that key, with either form of proof and over both
// transports, from a CA whose client_algorithms list the parameter set; without, the refusal names the algorithm.
func TestMLDSAClientKeys(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	p := pki.New(pki.Options{})
	s := process.Serve(t, process.Setup{
		PKI: p, Issuer: provider.URL(), Embedded: true,
		More: "client_algorithms: [ecdsa-sha2-256-nistp256, mldsa-44, mldsa-65, mldsa-87]\n",
	})
	classical := process.Serve(t, process.Setup{PKI: p, Issuer: provider.URL(), Embedded: true})
	token := provider.Token(map[string]any{
		"sub": "1", "email": "alice@example.com", "email_verified": true, "exp": time.Now().Add(time.Hour).Unix(),
	})
	trust := func(s *process.Server) *client.Trust {
		data, err := os.ReadFile(filepath.Join(s.Dir, "log", "log.pub.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return &client.Trust{Chains: [][]*x509.Certificate{p.Chain}, Logs: []loglist.Log{{Key: key}}, MinSCTs: 1}
	}
	request := func(o client.Options, r client.Request) (*client.Certificate, error) {
		c, err := client.New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r.Token = token
		return c.Request(ctx, r)
	}
	for _, parameters := range []mldsa.Parameters{mldsa.MLDSA44(), mldsa.MLDSA65(), mldsa.MLDSA87()} {
		key, err := mldsa.GenerateKey(parameters)
		if err != nil {
			t.Fatal(err)
		}
		want, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		for name, try := range map[string]struct {
			options client.Options
			csr     bool
		}{
			"REST, challenge": {client.Options{URL: "http://" + s.HTTP, Trust: trust(s)}, false},
			"REST, request":   {client.Options{URL: "http://" + s.HTTP, Trust: trust(s)}, true},
			"gRPC, challenge": {client.Options{URL: "http://" + s.GRPC, GRPC: true, Trust: trust(s)}, false},
		} {
			got, err := request(try.options, client.Request{Signer: key, CSR: try.csr})
			if err != nil {
				t.Errorf("%s, %s: %v", parameters, name, err)
				continue
			}
			if !bytes.Equal(got.Leaf.RawSubjectPublicKeyInfo, want) ||
				got.Leaf.KeyUsage != x509.KeyUsageDigitalSignature {
				t.Errorf("%s, %s: another key, or another usage: %v", parameters, name, got.Leaf.KeyUsage)
			}
		}
		_, err = request(client.Options{URL: "http://" + classical.HTTP, Trust: trust(classical)},
			client.Request{Signer: key})
		if err == nil {
			t.Errorf("%s: certified although not listed", parameters)
		}
	}
}
