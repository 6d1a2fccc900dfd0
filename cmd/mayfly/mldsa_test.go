package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/mldsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/testkit/second"
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
	trust := func(s *process.Server) *client.Trust { return embeddedTrust(t, s, p.Chain) }
	request := func(o client.Options, r client.Request) (*client.Certificate, error) {
		r.Token = token
		return requestWith(t, o, r)
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
			if err := second.CheckKey(got.Leaf.RawSubjectPublicKeyInfo); err != nil {
				t.Errorf("%s, %s: circl on the key: %v", parameters, name, err)
			}
		}
		_, err = request(client.Options{URL: "http://" + classical.HTTP, Trust: trust(classical)},
			client.Request{Signer: key})
		if err == nil {
			t.Errorf("%s: certified although not listed", parameters)
		}
	}
}

// embeddedTrust trusts chains, and the embedded log of a server.
func embeddedTrust(t *testing.T, s *process.Server, chains ...[]*x509.Certificate) *client.Trust {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Dir, "log", "log.pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &client.Trust{Chains: chains, Logs: []loglist.Log{{Key: key}}, MinSCTs: 1}
}

func requestWith(t *testing.T, o client.Options, r client.Request) (*client.Certificate, error) {
	t.Helper()
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return c.Request(ctx, r)
}

// hybrid starts a CA with a classical chain for everybody and an ML-DSA chain for clients with an ML-DSA key. The
// second chain is made by "mayfly ca init".
func hybrid(t *testing.T, provider *idp.Provider, algorithm string) (s *process.Server, p *pki.PKI, second string) {
	t.Helper()
	second = filepath.Join(t.TempDir(), "second")
	status, out, problem := command(t, "ca", "init", "--dir", second, "--organization", "Example", "--no-password",
		"--algorithm", algorithm)
	if status != 0 || !strings.Contains(out, "mldsa_ca: true") {
		t.Fatalf("ca init: %d\n%s%s", status, out, problem)
	}
	p = pki.New(pki.Options{})
	return process.Serve(t, process.Setup{
		PKI: p, Issuer: provider.URL(), Embedded: true, Admin: true,
		More: "client_algorithms: [ecdsa-sha2-256-nistp256, mldsa-44, mldsa-65, mldsa-87]\n" +
			"audit: {file: journal.jsonl}\n" +
			"experimental:\n  mldsa_ca: true\n  mldsa_chain:\n    file: {chain: " + second +
			"/chain.pem, key: " + second +
			"/ca-key.pem}\n",
	}), p, second
}

func readChain(t *testing.T, file string) []*x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pemfile.Certificates(data)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// A CA with two chains signs with the ML-DSA one for clients whose own key is an ML-DSA key, over both transports and
// with both forms of proof, and with the classical one for all others. A second implementation verifies every signature
// and every key. The trust bundle, the trusted root, the journal, readiness and the audit know both chains.
func TestHybridChains(t *testing.T) {
	t.Parallel()
	for algorithm, parameters := range map[string]mldsa.Parameters{
		"ml-dsa-44": mldsa.MLDSA44(), "ml-dsa-65": mldsa.MLDSA65(), "ml-dsa-87": mldsa.MLDSA87(),
	} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			provider := idp.New(t, idp.Options{})
			s, p, dir := hybrid(t, provider, algorithm)
			chain := readChain(t, filepath.Join(dir, "chain.pem"))
			token := provider.Token(map[string]any{"exp": time.Now().Add(time.Hour).Unix()})
			trust := embeddedTrust(t, s, p.Chain, chain)

			key, err := mldsa.GenerateKey(parameters)
			if err != nil {
				t.Fatal(err)
			}
			var serials []string
			for what, one := range map[string]struct {
				signer crypto.Signer
				csr    bool
				grpc   bool
				chain  []*x509.Certificate
			}{
				"ML-DSA, challenge, REST": {signer: key, chain: chain},
				"ML-DSA, request, REST":   {signer: key, csr: true, chain: chain},
				"ML-DSA, challenge, gRPC": {signer: key, grpc: true, chain: chain},
				"P-256, challenge, REST":  {signer: pki.NewKey(pki.P256), chain: p.Chain},
				"P-256, challenge, gRPC":  {signer: pki.NewKey(pki.P256), grpc: true, chain: p.Chain},
			} {
				o := client.Options{URL: "http://" + s.HTTP, Trust: trust}
				if one.grpc {
					o = client.Options{URL: "http://" + s.GRPC, GRPC: true, Trust: trust}
				}
				got, err := requestWith(t, o, client.Request{Signer: one.signer, CSR: one.csr, Token: token})
				if err != nil {
					t.Errorf("%s: %v", what, err)
					continue
				}
				if !slices.EqualFunc(got.Chain, one.chain, (*x509.Certificate).Equal) ||
					got.Leaf.SignatureAlgorithm != one.chain[0].SignatureAlgorithm && one.chain[0] == chain[0] {
					t.Errorf("%s: signed by %s with %s", what, got.Leaf.Issuer, got.Leaf.SignatureAlgorithm)
				}
				if one.chain[0] != chain[0] {
					continue
				}
				serials = append(serials, fmt.Sprintf("%x", got.Leaf.SerialNumber))
				if err := second.CheckKey(got.Leaf.RawSubjectPublicKeyInfo); err != nil {
					t.Errorf("%s: circl on the key: %v", what, err)
				}
				for i, c := range append([]*x509.Certificate{got.Leaf}, chain...) {
					issuer := chain[min(i, len(chain)-1)]
					if err := second.CheckSignature(c.Raw, issuer.RawSubjectPublicKeyInfo); err != nil {
						t.Errorf("%s: circl on certificate %d: %v", what, i+1, err)
					}
				}
				if err := second.CheckSignature(got.Leaf.Raw, chain[1].RawSubjectPublicKeyInfo); err == nil {
					t.Errorf("%s: circl accepts the key of the root", what)
				}
			}

			if _, bundle := process.Get(t, "http://"+s.HTTP+"/api/v2/trustBundle"); bytes.Count(bundle,
				[]byte("BEGIN")) != 4 {
				t.Errorf("the trust bundle:\n%s", bundle)
			}
			status, out, problem := command(t, "trust", "export", "--config", filepath.Join(s.Dir, "mayfly.yaml"),
				"--out", filepath.Join(s.Dir, "trust"), "--url", "https://ca.example.com")
			root, err := os.ReadFile(filepath.Join(s.Dir, "trust", "trusted_root.json"))
			if status != 0 || err != nil || bytes.Count(root, []byte(`"certChain"`)) != 2 {
				t.Errorf("trust export: %d, %v\n%s%s\n%s", status, err, out, problem, root)
			}
			if _, ready := process.Get(t, "http://"+s.Admin+"/readyz"); !bytes.Contains(ready, []byte("ca mldsa")) {
				t.Errorf("readiness:\n%s", ready)
			}
			if _, metrics := process.Get(t, "http://"+s.Admin+"/metrics"); !bytes.Contains(metrics,
				[]byte(`chain="mldsa",result="success"} 3`)) {
				t.Error("the metrics do not count three certificates of the second chain")
			}
			journal, err := os.ReadFile(filepath.Join(s.Dir, "journal.jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(chain[0].RawSubjectPublicKeyInfo)
			for _, serial := range serials {
				if !bytes.Contains(journal, []byte(serial)) {
					t.Errorf("the journal does not have %s", serial)
				}
			}
			// the trial, and intent and outcome of three certificates
			if n := bytes.Count(journal, []byte(`"issuer_key":"`+hex.EncodeToString(sum[:]))); n != 7 {
				t.Errorf("%d records name the ML-DSA key, not 7", n)
			}
			status, out, problem = command(t, "audit", "reconcile", "--config", filepath.Join(s.Dir, "mayfly.yaml"))
			if status != 0 {
				t.Errorf("audit reconcile: %d\n%s%s", status, out, problem)
			}
			status, out, problem = command(t, "ca", "check", filepath.Join(dir, "chain.pem"))
			if status != 0 {
				t.Errorf("ca check: %d\n%s%s", status, out, problem)
			}
		})
	}
}

// What experimental.mldsa_chain and an ML-DSA chain in ca need is refused by name if it is missing.
func TestMLDSAChainRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, algorithm := range map[string]string{"post": "ml-dsa-65", "classic": "ecdsa-p256"} {
		if status, out, problem := command(t, "ca", "init", "--dir", in(name), "--organization", name, "--no-password",
			"--algorithm", algorithm); status != 0 {
			t.Fatalf("%s%s", out, problem)
		}
	}
	if err := os.WriteFile(in("identity.yaml"),
		[]byte("oidc-issuers:\n  https://idp.example.com: {client-id: sigstore, "+
			"type: email, static-keys: {jwks: '"+string(idp.New(t, idp.Options{}).JWKS())+"'}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(name string) string {
		return "file: {chain: " + in(name+"/chain.pem") + ", key: " + in(name+"/ca-key.pem") + "}"
	}
	const algorithms = "client_algorithms: [mldsa-65]\n"
	for what, one := range map[string]struct{ ca, more, want string }{
		"an ML-DSA chain": {file("post"), "", "experimental.mldsa_ca"},
		"allowed":         {file("post"), "experimental: {mldsa_ca: true}\n", ""},
		"a pair, switched off": {
			file("classic"),
			algorithms + "experimental: {mldsa_chain: {" + file("post") + "}}\n", "mldsa_ca: true",
		},
		"a pair": {
			file("classic"),
			algorithms + "experimental: {mldsa_ca: true, mldsa_chain: {" + file("post") + "}}\n", "",
		},
		"nobody can ask": {
			file("classic"),
			"experimental: {mldsa_ca: true, mldsa_chain: {" + file("post") + "}}\n", "client_algorithms",
		},
		"two classical chains": {file("classic"), algorithms + "experimental: {mldsa_ca: true, mldsa_chain: {" +
			file("classic") + "}}\n", "not an ML-DSA key"},
		"two ML-DSA chains": {file("post"), algorithms + "experimental: {mldsa_ca: true, mldsa_chain: {" +
			file("post") + "}}\n", "the chain of ca also has ML-DSA keys"},
		"a temporary second key": {
			file("classic"),
			algorithms + "experimental: {mldsa_ca: true, mldsa_chain: {ephemeral: {}}}\n", "temporary",
		},
		"no second key": {
			file("classic"), algorithms + "experimental: {mldsa_ca: true, mldsa_chain: {}}\n",
			"key backend is missing",
		},
		"the key of another": {
			file("classic"),
			algorithms + "experimental: {mldsa_ca: true, mldsa_chain: {file: {chain: " + in("post/chain.pem") +
				", key: " + in("classic/ca-key.pem") + "}}}\n", "mldsa_chain.file.key",
		},
		"a chain that is missing": {
			file("classic"),
			algorithms + "experimental: {mldsa_ca: true, mldsa_chain: {file: {chain: none.pem, key: " +
				in("post/ca-key.pem") + "}}}\n", "mldsa_chain.file.chain",
		},
		"an unknown experiment": {file("classic"), "experimental: {slhdsa_ca: true}\n", "slhdsa_ca"},
	} {
		name := in(strings.ReplaceAll(what, " ", "-") + ".yaml")
		if err := os.WriteFile(name, []byte("identity: {file: identity.yaml}\nca:\n  "+one.ca+
			"\nct: {none: {reason: a test}}\n"+one.more), 0o600); err != nil {
			t.Fatal(err)
		}
		status, out, problem := command(t, "config", "check", "--config", name)
		if (status == 0) != (one.want == "") || !strings.Contains(out+problem, one.want) {
			t.Errorf("%s: %d\n%s%s", what, status, out, problem)
		}
	}
}
