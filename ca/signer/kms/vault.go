//go:build !nokms_vault

package kms

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/input"
)

func vaultTransit() provider {
	return provider{
		name: vaultName, tag: "nokms_vault", schemes: []string{"hashivault://", "openbao://"}, check: checkVault,
		open: openVault, kekSchemes: []string{"hashivault://", "openbao://"}, checkKEK: checkVault,
		decrypt: decryptVault,
	}
}

// vaultURI matches the name of a key.
var vaultURI = regexp.MustCompile(`^\w(?:[\w.-]*\w)?$`)

func checkVault(rest string) error {
	if !vaultURI.MatchString(rest) {
		return errors.New("is not hashivault://KEY or openbao://KEY, where KEY is the name of a key of the transit " +
			"engine; address, mount and namespace stand below vault")
	}
	return nil
}

// vaultKey signs with one version of a key of the transit engine.
type vaultKey struct {
	session *session
	mount   string
	name    string
	version int
	public  crypto.PublicKey
	about   transitKey
}

// openVault implements provider.open. It needs read on MOUNT/keys/NAME.
func openVault(ctx context.Context, o opening) (*opened, error) {
	s, err := beginVault(ctx, o)
	if err != nil {
		return nil, err
	}
	k := &vaultKey{session: s, name: o.rest, mount: s.vault.mount()}
	if err := o.guard.Do(ctx, "public_key",
		func(ctx context.Context) error { return k.read(ctx, s.vault.Version, o) }); err != nil {
		return nil, errors.Join(err, s.end())
	}
	return &opened{raw: k, release: s.end, attest: k.attest}, nil
}

// beginVault logs in.
func beginVault(ctx context.Context, o opening) (*session, error) {
	v := o.settings.Vault
	if v == nil {
		v = &Vault{}
	}
	client, err := vaultClient(v, o)
	if err != nil {
		return nil, err
	}
	s := newSession(client, v, o.guard)
	return s, s.begin(ctx)
}

// mount returns the path of the transit engine.
func (v *Vault) mount() string {
	return strings.Trim(cmp.Or(v.Mount, os.Getenv("TRANSIT_SECRET_ENGINE_PATH"), "transit"), "/")
}

// decryptVault implements provider.decrypt. It needs update on MOUNT/decrypt/NAME. The ciphertext is in the text format
// of the transit engine, as Tink's extensions for Vault write it.
func decryptVault(ctx context.Context, o opening, ciphertext []byte) (plaintext []byte, err error) {
	s, err := beginVault(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	path := s.vault.mount() + "/decrypt/" + o.rest
	return o.guard.Get(ctx, opDecrypt, func(ctx context.Context) ([]byte, error) {
		secret, err := s.call(ctx, func(c *api.Client) (*api.Secret, error) {
			return c.Logical().WriteWithContext(ctx, path, map[string]any{"ciphertext": string(ciphertext)})
		})
		if err != nil {
			return nil, vaultError(err, fmt.Sprintf("path %q { capabilities = [\"update\"] }", path))
		}
		var text string
		if secret != nil {
			text, _ = secret.Data["plaintext"].(string)
		}
		plaintext, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(plaintext) == 0 {
			return nil, unavailable(errors.New("the answer has no plaintext in base64"))
		}
		return plaintext, nil
	})
}

// vaultClient returns a client for the server of the settings and the environment.
func vaultClient(v *Vault, o opening) (*api.Client, error) {
	cfg := api.DefaultConfig() // reads the environment: BAO_ADDR, BAO_CACERT, BAO_TLS_SERVER_NAME, or with VAULT_
	if cfg.Error != nil {
		return nil, fmt.Errorf("the environment of the client: %w", cfg.Error)
	}
	if v.Address != "" {
		cfg.Address, cfg.AgentAddress = v.Address, ""
	} else if api.ReadBaoVariable(api.EnvVaultAddress) == "" && cfg.AgentAddress == "" {
		return nil, fault.BadSetting("the address of the server is missing",
			"write vault: {address: https://HOST:8200}, or set BAO_ADDR or VAULT_ADDR", "vault", "address")
	}
	if u, err := url.Parse(cfg.Address); cfg.AgentAddress == "" && (err != nil || !hostname.IsConfidential(u)) {
		return nil, fault.BadSetting(fmt.Sprintf("tokens would be sent to %.200q without TLS", cfg.Address),
			"write a URL that begins with https", "vault", "address")
	}
	if v.CACert != "" {
		data, err := input.Read(nil, v.CACert)
		if err != nil {
			return nil, fault.BadFile(v.CACert, err, "vault", "ca_cert")
		}
		if err := cfg.ConfigureTLS(&api.TLSConfig{CACertBytes: data}); err != nil {
			return nil, fault.BadSetting(err.Error(), "write CA certificates in PEM", "vault", "ca_cert").In(v.CACert)
		}
	}
	cfg.MaxRetries, cfg.Timeout = 0, maxVaultCall // the guard retries, and gives each call less time
	cfg.HttpClient.Timeout = maxVaultCall
	if t, ok := cfg.HttpClient.Transport.(*http.Transport); ok {
		t.MaxIdleConnsPerHost, t.IdleConnTimeout = o.guard.Concurrent(), 5*time.Minute
	}
	cfg.HttpClient.Transport = limitedTransport{cfg.HttpClient.Transport}
	if with, ok := o.client.(http.RoundTripper); ok {
		cfg.HttpClient.Transport = with
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, fault.BadSetting(err.Error(), "write a URL such as https://HOST:8200", "vault", "address")
	}
	if v.Namespace != "" {
		client.SetNamespace(v.Namespace)
	}
	return client, nil
}

// maxVaultCall is longer than any call may take.
const maxVaultCall = time.Minute

// limitedTransport bounds the size of response bodies.
type limitedTransport struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (l limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return limited{roundTripper(l)}.Do(r)
}

type roundTripper struct{ http.RoundTripper }

// Do implements doer.
func (r roundTripper) Do(q *http.Request) (*http.Response, error) { return r.RoundTrip(q) }

// transitKey is the response to a read of a key of the transit engine.
type transitKey struct {
	Type         string `json:"type"`
	ParameterSet string `json:"parameter_set"` // of ML-DSA, in Vault Enterprise
	Latest       int    `json:"latest_version"`
	Exportable   bool   `json:"exportable"`
	Backup       bool   `json:"allow_plaintext_backup"`
	Imported     bool   `json:"imported_key"`
	Keys         map[string]struct {
		PublicKey string `json:"public_key"`
	} `json:"keys"`
}

// parseTransitKey parses the data of a response with the public keys of all versions.
func parseTransitKey(data []byte) (k transitKey, versions map[int]crypto.PublicKey, err error) {
	if err := json.Unmarshal(data, &k); err != nil { // the versions of a symmetric key are numbers
		return k, nil, fmt.Errorf("a key of type %.40q cannot sign; create a key of type ecdsa-p384", k.Type)
	}
	versions = map[int]crypto.PublicKey{}
	for number, v := range k.Keys {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 {
			return k, nil, fmt.Errorf("the version %.20q is not a number", number)
		}
		if versions[n], err = transitPublicKey(k, v.PublicKey); err != nil {
			return k, nil, fmt.Errorf("version %d: %w", n, err)
		}
	}
	return k, versions, nil
}

// transitPublicKey parses the public key of a version: base64 of the bare key for Ed25519 and ML-DSA, else PEM.
func transitPublicKey(k transitKey, text string) (crypto.PublicKey, error) {
	kind := strings.Replace(k.Type, "ml-dsa", "mldsa", 1)
	if kind == "mldsa" {
		kind += "-" + k.ParameterSet
	}
	sets := map[string]mldsa.Parameters{
		"mldsa-44": mldsa.MLDSA44(), "mldsa-65": mldsa.MLDSA65(), "mldsa-87": mldsa.MLDSA87(),
	}
	set, lattice := sets[kind]
	if kind == "ed25519" || lattice {
		bare, err := base64.StdEncoding.DecodeString(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("the public key is not in base64: %w", err)
		case lattice:
			return mldsa.NewPublicKey(set, bare)
		case len(bare) != ed25519.PublicKeySize:
			return nil, fmt.Errorf("the public key has %d bytes", len(bare))
		}
		return ed25519.PublicKey(bare), nil
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, fmt.Errorf("a key of type %.40q has no public key in PEM; create a key of type ecdsa-p384", k.Type)
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// read reads the public key and pins the version: the configured version, else the version whose public key is wanted,
// else the newest one.
func (k *vaultKey) read(ctx context.Context, version int, o opening) error {
	path := k.mount + "/keys/" + k.name
	secret, err := k.session.call(ctx, func(c *api.Client) (*api.Secret, error) {
		return c.Logical().ReadWithContext(ctx, path)
	})
	if err != nil {
		return vaultError(err, fmt.Sprintf("path %q { capabilities = [\"read\"] }", path))
	}
	if secret == nil || secret.Data == nil {
		return fmt.Errorf("the key %q does not exist in the transit engine %q: create it with \"bao write "+
			"-f %s type=ecdsa-p384\"",
			k.name, k.mount, path)
	}
	data, err := json.Marshal(secret.Data)
	if err != nil {
		return unavailable(err)
	}
	key, versions, err := parseTransitKey(data)
	if err != nil {
		return fmt.Errorf("the key %s: %w", path, err)
	}
	k.version = cmp.Or(version, key.Latest)
	if version == 0 {
		for n, public := range versions {
			if equal(public, o.wanted) {
				k.version = n
			}
		}
	}
	public, ok := versions[k.version]
	if !ok {
		return fault.BadSetting(fmt.Sprintf("the key %s has no version %d", path, k.version),
			fmt.Sprintf("write an existing version; the newest is %d", key.Latest), "vault", "version")
	}
	k.public, k.about = public, key
	if key.Exportable || key.Backup {
		o.warn(fmt.Sprintf("the private key of %s can be exported", path),
			"use a key that was created without exportable and allow_plaintext_backup")
	}
	_, err = fits(k.public, vaultHashes)
	return err
}

// attest returns what the transit engine said about the key when it was read.
func (k *vaultKey) attest(context.Context) (signer.Attestation, error) {
	facts := map[string]bool{
		"exportable": k.about.Exportable, "allow_plaintext_backup": k.about.Backup, "imported_key": k.about.Imported,
	}
	a := signer.Attestation{Exportable: signer.ExportNo, Evidence: map[string]string{"type": k.about.Type}}
	for name, value := range facts {
		a.Evidence[name] = strconv.FormatBool(value)
	}
	a.Reason = fmt.Sprintf("%sexportable=%t, allow_plaintext_backup=%t", reported, k.about.Exportable, k.about.Backup)
	switch {
	case k.about.Exportable || k.about.Backup:
		a.Exportable = signer.ExportYes
	case k.about.Imported:
		a.Exportable = signer.ExportUnknown
		a.Reason += ", imported_key=true; the server does not know whether there is another copy"
	}
	return a, nil
}

// vaultHashes are the hash names in the paths of the transit engine's sign endpoint. Schemes without a hash have none.
var vaultHashes = map[scheme]string{
	ecdsa256: "/sha2-256", ecdsa384: "/sha2-384", ecdsa512: "/sha2-512",
	pkcs256: "/sha2-256", pkcs384: "/sha2-384", pkcs512: "/sha2-512",
	pss256: "/sha2-256", pss384: "/sha2-384", pss512: "/sha2-512",
	edwards: "", mldsa44: "", mldsa65: "", mldsa87: "",
}

// Public implements [remote.Raw].
func (k *vaultKey) Public() crypto.PublicKey { return k.public }

// Sign implements [remote.Raw]. It needs update on MOUNT/sign/NAME/HASH.
func (k *vaultKey) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	want := schemeOf(k.public, opts)
	hash, ok := vaultHashes[want]
	if !ok {
		return nil, notThere(want)
	}
	path := k.mount + "/sign/" + k.name + hash
	request := map[string]any{
		"input": base64.StdEncoding.EncodeToString(digest), "prehashed": opts.HashFunc() != 0, "key_version": k.version,
	}
	if _, ok := k.public.(*rsa.PublicKey); ok {
		request["signature_algorithm"] = "pkcs1v15"
		if _, ok := opts.(*rsa.PSSOptions); ok {
			request["signature_algorithm"], request["salt_length"] = "pss", "hash"
		}
	}
	secret, err := k.session.call(ctx, func(c *api.Client) (*api.Secret, error) {
		return c.Logical().WriteWithContext(ctx, path, request)
	})
	if err != nil {
		return nil, vaultError(err, fmt.Sprintf("path %q { capabilities = [\"update\"] }", path))
	}
	var text string
	if secret != nil {
		text, _ = secret.Data["signature"].(string)
	}
	return parseTransitSignature(text, k.version)
}

// parseTransitSignature returns the signature in vault:vVERSION:BASE64. It refuses a signature by another version than
// the pinned one.
func parseTransitSignature(text string, version int) ([]byte, error) {
	rest, ok := strings.CutPrefix(text, "vault:v")
	number, encoded, colon := strings.Cut(rest, ":")
	if !ok || !colon {
		return nil, unavailable(errors.New("the answer has no signature"))
	}
	if number != strconv.Itoa(version) {
		return nil, wrongVersion("version "+number, "version "+strconv.Itoa(version))
	}
	signature, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, unavailable(fmt.Errorf("the signature is not in base64: %w", err))
	}
	return signature, nil
}

// vaultError classifies an error by its status (Vault HTTP API, HTTP status codes).
func vaultError(err error, permission string) error {
	e := unavailable(err)
	var done *remote.Error
	var u *url.Error
	var answer *api.ResponseError
	switch {
	case errors.As(err, &done): // of a login
		return err
	case errors.As(err, &u):
		e.Err = u.Err // without the URL
		return e
	case !errors.As(err, &answer):
		return e
	}
	text := strings.Join(answer.Errors, "; ")
	e.Err = fmt.Errorf("status %d: %s", answer.StatusCode, text)
	switch answer.StatusCode {
	case http.StatusForbidden, http.StatusUnauthorized:
		e.Kind, e.Permission = remote.Denied, permission
	case http.StatusTooManyRequests:
		e.Kind = remote.Throttled
	case http.StatusPreconditionFailed, 472, 473: // not consistent yet; a standby that does not forward
	default:
		if answer.StatusCode < http.StatusInternalServerError {
			e.Kind = remote.Failed
		}
	}
	return e
}
