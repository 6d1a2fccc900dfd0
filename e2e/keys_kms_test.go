//go:build keys

package e2e_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// vaultServer is a server of OpenBao or Vault.
type vaultServer struct {
	*lab.Lab
	process          *lab.Process
	url, token, name string // namespace
}

// call makes a request and returns the data of its answer.
func (v *vaultServer) call(method, path string, body map[string]any) map[string]any {
	v.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		v.Fatal(err)
	}
	r, err := http.NewRequestWithContext(v.Context(), method, v.url+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		v.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", v.token)
	if v.name != "" {
		r.Header.Set("X-Vault-Namespace", v.name)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		v.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil || answer.StatusCode >= 300 {
		v.Fatalf("%s %s: %s %s, %v", method, path, answer.Status, data, err)
	}
	var out struct {
		Data map[string]any `json:"data"`
	}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &out); err != nil {
			v.Fatal(err)
		}
	}
	return out.Data
}

// publicKey is a version of the transit key "ca".
func (v *vaultServer) publicKey(version string) crypto.PublicKey {
	v.Helper()
	keys := v.call(http.MethodGet, "transit/keys/ca", nil)["keys"].(map[string]any)
	block, _ := pem.Decode([]byte(keys[version].(map[string]any)["public_key"].(string)))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		v.Fatal(err)
	}
	return key
}

const keysCT = "  embedded: {dir: ct, origin: e2e.test/keys}\n"

// kmsCase is a CA whose key is in a server.
type kmsCase struct {
	*lab.Lab
	issuer *lab.Issuer
	ca     *lab.Mayfly
	pki    lab.PKI
}

func (c *kmsCase) serve(vault string) {
	c.Helper()
	c.issuer = c.Issuer(nil)
	c.ca = c.Serve(lab.ServeOptions{
		Name: "ca", CT: keysCT, Identity: lab.EmailIssuer(c.issuer.URL),
		CA: fmt.Sprintf("  kms:\n    key: openbao://ca\n    chain: %s\n    vault: %s\n", c.pki.ChainFile, vault),
	})
}

// request asks for a certificate, and checks one.
func (c *kmsCase) request() error {
	c.Helper()
	client := &http.Client{Timeout: lab.MaxWait}
	a, err := lab.RequestCertificate(c.Context(), client, c.ca.URL, c.issuer.Email("alice@example.com"),
		"alice@example.com")
	if err != nil {
		return err
	}
	issued, err := a.Signed()
	if err != nil {
		return err
	}
	return issued.Leaf.CheckSignatureFrom(c.pki.Chain[0])
}

// ready returns the answer of /readyz.
func (c *kmsCase) ready(ctx context.Context) (ok bool, text string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.ca.Admin+"/readyz", nil)
	if err != nil {
		return false, err.Error()
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return false, err.Error()
	}
	defer answer.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	return answer.StatusCode == http.StatusOK, string(data)
}

// until waits until readiness is as wanted and says text.
func (c *kmsCase) until(ok bool, text string) {
	c.Helper()
	c.Eventually(fmt.Sprintf("ready: %t, %q", ok, text), func(ctx context.Context) error {
		if got, said := c.ready(ctx); got != ok || !strings.Contains(said, text) {
			return fmt.Errorf("%t, %s", got, said)
		}
		return nil
	})
}

// TestKeysOpenBao runs the CA on a key of a real OpenBao, in a namespace, with an AppRole login of seconds: the login
// is renewed and replaced, the server is stopped, the permission is taken away and given back, the key is rotated.
func TestKeysOpenBao(t *testing.T) {
	l := lab.New(t)
	project := l.Project("clients/openbao", "sh", "-c",
		"python3 -m venv venv && venv/bin/pip install --quiet --requirement requirements.txt")
	address := l.Address()
	v := &vaultServer{Lab: l, url: "http://" + address, token: "root"}
	v.process = l.Start("openbao", lab.Command{Name: project + "/venv/bin/bao", Args: []string{
		"server", "-dev", "-dev-root-token-id=root", "-dev-listen-address=" + address, "-dev-no-store-token",
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, v.url+"/v1/sys/health") })

	v.call(http.MethodPost, "sys/namespaces/signing", nil)
	v.name = "signing"
	v.call(http.MethodPost, "sys/mounts/transit", map[string]any{"type": "transit"})
	v.call(http.MethodPost, "transit/keys/ca", map[string]any{"type": "ecdsa-p384"})
	const policy = `path "transit/keys/ca" { capabilities = ["read"] }` + "\n"
	const sign = `path "transit/sign/ca/sha2-384" { capabilities = ["update"] }` + "\n"
	v.call(http.MethodPut, "sys/policies/acl/ca", map[string]any{"policy": policy + sign})
	v.call(http.MethodPost, "sys/auth/approle", map[string]any{"type": "approle"})
	v.call(http.MethodPost, "auth/approle/role/mayfly", map[string]any{
		"token_policies": "ca", "token_ttl": "4s", "token_max_ttl": "10s",
	})
	role := v.call(http.MethodGet, "auth/approle/role/mayfly/role-id", nil)["role_id"]
	secret := v.call(http.MethodPost, "auth/approle/role/mayfly/secret-id", nil)["secret_id"]
	l.Write("ca/secret-id", fmt.Sprint(secret)+"\n")

	c := &kmsCase{Lab: l, pki: l.PKIFor(v.publicKey("1"))}
	c.serve(fmt.Sprintf("{address: %q, namespace: signing, approle: {role_id: %s, secret_id: {file: secret-id}}}",
		v.url, role))

	// Tokens live ten seconds at most: in half a minute there are several logins, and no request fails.
	issued := 0
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); issued++ {
		if err := c.request(); err != nil {
			t.Fatalf("after %d certificates: %v", issued, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("%d certificates while the login was renewed and replaced", issued)

	// The key gets a second version: the CA signs with that of its chain.
	v.call(http.MethodPost, "transit/keys/ca/rotate", nil)
	if err := c.request(); err != nil {
		t.Errorf("after a rotation: %v", err)
	}

	// A missing permission has its name in the readiness.
	v.call(http.MethodPut, "sys/policies/acl/ca", map[string]any{"policy": policy})
	if err := c.request(); err == nil {
		t.Error("a certificate without the permission to sign")
	}
	c.until(false, `grant path \"transit/sign/ca/sha2-384\" { capabilities = [\"update\"] }`)
	v.call(http.MethodPut, "sys/policies/acl/ca", map[string]any{"policy": policy + sign})
	c.until(true, "")
	if err := c.request(); err != nil {
		t.Errorf("with the permission again: %v", err)
	}

	// A server that hangs.
	v.process.Pause()
	start := time.Now()
	if err := c.request(); err == nil || time.Since(start) > 15*time.Second {
		t.Errorf("a server that hangs: %v after %s", err, time.Since(start))
	}
	c.until(false, "timed out")
	v.process.Continue()
	c.until(true, "")
	for range 5 {
		if err := c.request(); err != nil {
			t.Errorf("after a server that hung: %v", err)
		}
	}
}

// TestKeysVault runs the CA on a key of the core of HashiCorp Vault.
func TestKeysVault(t *testing.T) {
	l := lab.New(t)
	l.Need("minivault")
	address := l.Address()
	v := &vaultServer{Lab: l, url: "http://" + address, token: "root"}
	l.Start("minivault", lab.Command{Name: "minivault", Args: []string{"-listen", address, "-root-token", "root"}},
		func(ctx context.Context) error { return lab.GetOK(ctx, v.url+"/v1/sys/health") })
	v.call(http.MethodPost, "transit/keys/ca", map[string]any{"type": "ecdsa-p384"})
	v.call(http.MethodPost, "transit/keys/ca/rotate", nil)
	l.Write("ca/token", "root\n")
	c := &kmsCase{Lab: l, pki: l.PKIFor(v.publicKey("1"))}
	c.serve(fmt.Sprintf("{address: %q, token: {file: token}}", v.url))
	for range 20 {
		if err := c.request(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKeysAWS checks a configuration whose key is in local-kms, which signs as AWS KMS does. It listens on all
// interfaces, so that both run in a network namespace of their own.
func TestKeysAWS(t *testing.T) {
	for _, name := range []string{"unshare", "ip", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	l := lab.New(t)
	l.Need("local-kms")
	pki := l.PKI()
	text := l.Run(lab.Command{Name: "openssl", Args: []string{"ec", "-in", pki.KeyFile}}).Stdout // SEC 1
	const id = "1234abcd-12ab-34cd-56ef-1234567890ab"
	l.Write("seed.yaml", "Keys:\n  Asymmetric:\n    Ecc:\n      - Metadata: {KeyId: "+id+", KeyUsage: SIGN_VERIFY}\n"+
		"        PrivateKeyPem: |\n          "+strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n          ")+
		"\nAliases:\n  - {AliasName: alias/ca, TargetKeyId: "+id+"}\n")
	l.Write("identity.yaml", lab.EmailIssuer("https://idp.example.com"))
	for _, c := range []struct{ uri, want string }{
		{"awskms:///alias/ca", ""},
		{"awskms:///" + id, ""},
		{"awskms:///alias/other", "NotFoundException"},
	} {
		l.Write("mayfly.yaml", fmt.Sprintf("identity: {file: identity.yaml}\nca:\n  kms: {key: %q, chain: %s}\nct:\n%s",
			c.uri, pki.ChainFile, keysCT))
		command := lab.Command{
			Name: "unshare", Args: []string{
				"--net", "--map-root-user", "sh", "-c",
				"ip link set lo up; local-kms >kms.log 2>&1 & server=$!; " +
					"for i in $(seq 100); do grep -q 'started on' kms.log && break; sleep 0.1; done; " +
					"mayfly config check --config mayfly.yaml; status=$?; kill $server; exit $status",
			},
			Dir: l.Path(),
			Env: []string{
				"PORT=8080", "KMS_DATA_PATH=" + l.Mkdir("kms"), "KMS_SEED_PATH=" + l.Path("seed.yaml"),
				"KMS_REGION=eu-west-1",
				"KMS_ACCOUNT_ID=111122223333", "AWS_ENDPOINT_URL=http://127.0.0.1:8080", "AWS_REGION=eu-west-1",
				"AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", "AWS_EC2_METADATA_DISABLED=true",
			},
		}
		if c.want != "" {
			l.RunFails(command, c.want)
		} else {
			l.Run(command)
		}
	}
}
