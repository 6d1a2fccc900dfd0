// Package kms is the key backend for a CA key in a key management service: AWS KMS, Google Cloud KMS, Azure Key Vault,
// and the transit engine of HashiCorp Vault and OpenBao. The key is named by the URI that Fulcio and cosign use for it.
//
// Each service is reached with its own SDK, without the SDK's retries: ca/signer/remote has the one set of limits and
// verifies each signature. The public key is read once, when the key is opened. This pins the version of the key; if
// the URI names no version, it is the version of the chain. Every answer is checked against the request (key, version,
// algorithm, checksums). An error names a missing permission in the terms of the service.
//
// For a CA key that is stored encrypted, the package also decrypts with a symmetric key of a service: see [KEK].
//
// The build tags nokms_aws, nokms_google, nokms_azure and nokms_vault leave a service out. Its URIs are then refused
// with an error that names the tag. Errors MUST NOT contain a token or any other credential.
package kms

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// Settings name a key in a key management service.
type Settings struct {
	// Chain is the path of the chain in PEM: issuing certificate first, root last.
	Chain string `yaml:"chain" path:"read"`
	// Key is the URI of the key: awskms:///KEY or awskms://ENDPOINT/KEY,
	// gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K with or without /cryptoKeyVersions/V, azurekms://HOST/KEY
	// with or without /VERSION, hashivault://KEY or openbao://KEY.
	Key string `yaml:"key"`
	// Limits are the bounds on the calls of the service.
	Limits remote.Limits `yaml:"limits"`
	// Vault says how HashiCorp Vault or OpenBao is reached. When omitted: by the environment variables BAO_ADDR,
	// BAO_TOKEN, BAO_NAMESPACE, BAO_CACERT and TRANSIT_SECRET_ENGINE_PATH, or their names with VAULT_.
	Vault *Vault `yaml:"vault"`
}

// Vault says how HashiCorp Vault or OpenBao is reached. At most one of token, approle, kubernetes and jwt is set.
type Vault struct {
	// Address is the URL of the server. Default: BAO_ADDR or VAULT_ADDR.
	Address string `yaml:"address"`
	// Namespace is the namespace of the key and of the login. Default: BAO_NAMESPACE or VAULT_NAMESPACE.
	Namespace string `yaml:"namespace"`
	// Mount is the path of the transit engine. Default: TRANSIT_SECRET_ENGINE_PATH, or transit.
	Mount string `yaml:"mount"`
	// Version is the number of the version of the key. Default: the version whose public key is in the chain.
	Version int `yaml:"version"`
	// CACert is the path of the CA certificates of the server in PEM. Default: BAO_CACERT or VAULT_CACERT, or those of
	// the system.
	CACert string `yaml:"ca_cert" path:"read"`
	// Token is a token; a file is read again when it changes, or when the token is refused. Default: BAO_TOKEN,
	// VAULT_TOKEN or the file .vault-token in the home directory.
	Token *Secret `yaml:"token"`
	// AppRole logs in with the AppRole method.
	AppRole *AppRole `yaml:"approle"`
	// Kubernetes logs in with the token of a service account.
	Kubernetes *Role `yaml:"kubernetes"`
	// JWT logs in with a JSON Web Token.
	JWT *Role `yaml:"jwt"`
}

// AppRole is a login with a role id and a secret id.
type AppRole struct {
	// RoleID is the role id.
	RoleID string `yaml:"role_id"`
	// SecretID is the secret id. When omitted: the role needs no secret id.
	SecretID *Secret `yaml:"secret_id"`
	// Mount is the path of the auth method. Default: approle.
	Mount string `yaml:"mount"`
}

// Role is a login with a token that another service issued.
type Role struct {
	// Role is the name of the role.
	Role string `yaml:"role"`
	// Token is the token; a file is read for each login. It may be omitted for Kubernetes: the token of the service
	// account is in /var/run/secrets/kubernetes.io/serviceaccount/token.
	Token *Secret `yaml:"token"`
	// Mount is the path of the auth method. Default: kubernetes or jwt.
	Mount string `yaml:"mount"`
}

// provider is one service. A service that is left out of the build has no functions.
type provider struct {
	name, tag string
	schemes   []string
	// check finds what is wrong with a URI without its scheme.
	check func(rest string) error
	// open reads the public key and pins its version.
	open func(context.Context, opening) (*opened, error)

	// kekSchemes are the schemes of the URIs of key-encryption keys, and checkKEK finds what is wrong with such a URI
	// without its scheme.
	kekSchemes []string
	checkKEK   func(rest string) error
	// decrypt makes one client, and returns a function that decrypts with it.
	decrypt func(context.Context, opening, []byte) ([]byte, error)
}

// opening is what a provider needs to open a key.
type opening struct {
	settings *Settings
	rest     string        // of the URI, without the scheme
	guard    *remote.Guard // for all calls
	warn     func(problem, fix string)
	// wanted is the public key of the issuing certificate, or nil. Among several versions of a key, it selects one.
	wanted crypto.PublicKey
	// client replaces the HTTP client of a service in tests.
	client any
}

// opened is an open key of a provider.
type opened struct {
	raw     remote.Raw
	release func() error // may be nil
	// attest asks whether the private key can be exported. It makes one call, or none.
	attest func(context.Context) (signer.Attestation, error)
}

func providers() []provider {
	return []provider{awsKMS(), googleKMS(), azureKeyVault(), vaultTransit()}
}

// find returns the provider of a URI and the rest of the URI.
func find(uri string) (p provider, rest string, err error) {
	return among(uri, "key", func(p provider) []string { return p.schemes })
}

// among returns the provider that has the scheme of the URI, and the rest of the URI. Its errors name the setting.
func among(uri, setting string, schemes func(provider) []string) (p provider, rest string, err error) {
	var known []string
	for _, p := range providers() {
		for _, scheme := range schemes(p) {
			if rest, ok := strings.CutPrefix(uri, scheme); ok {
				if p.open == nil {
					return p, rest, fault.BadSetting("this build does not include "+p.name,
						"use a build without the tag "+p.tag, setting)
				}
				return p, rest, nil
			}
			known = append(known, scheme)
		}
	}
	return p, "", fault.BadSetting("is not the URI of a key in a key management service",
		"begin the URI with one of "+strings.Join(known, ", "), setting)
}

const vaultName = "HashiCorp Vault or OpenBao"

// Check implements [signer.Backend].
func (s *Settings) Check() error {
	var errs []error
	if s.Chain == "" {
		errs = append(errs, fault.BadSetting("chain is missing",
			"write the path of the chain in PEM, issuing certificate first, root last", "chain"))
	}
	if s.Key == "" {
		errs = append(errs, fault.BadSetting("key is missing", "write the URI of the key, such as awskms:///alias/ca",
			"key"))
	} else {
		p, rest, err := find(s.Key)
		errs = append(errs, err)
		if err == nil {
			if err := p.check(rest); err != nil {
				errs = append(errs, fault.BadSetting(err.Error(), "", "key"))
			}
			if s.Vault != nil && p.name != vaultName {
				errs = append(errs, fault.BadSetting("vault is set, but the key is in "+p.name, "remove one of them",
					"vault"))
			}
		}
	}
	return errors.Join(append(errs, fault.Under(s.Limits.Check(), "limits"), fault.Under(s.Vault.check(), "vault"))...)
}

// Temporary implements [signer.Backend].
func (*Settings) Temporary() bool { return false }

// ChainFile implements [signer.Backend].
func (s *Settings) ChainFile() string { return s.Chain }

// openTime bounds the opening of a key, including all attempts.
const openTime = 30 * time.Second

// Open implements [signer.Backend].
func (s *Settings) Open(ctx context.Context, o signer.Options) (*signer.Key, error) {
	return s.open(ctx, o, nil)
}

func (s *Settings) open(ctx context.Context, o signer.Options, client any) (*signer.Key, error) {
	guard, key, err := s.reach(ctx, o, client)
	if err != nil {
		return nil, err
	}
	return signer.Guarded(guard.Signer(key.raw), key.release), nil
}

// reach opens the key behind a guard.
func (s *Settings) reach(ctx context.Context, o signer.Options, client any) (*remote.Guard, *opened, error) {
	p, rest, err := find(s.Key)
	if err != nil {
		return nil, nil, err
	}
	var wanted crypto.PublicKey
	if chain, err := signer.ReadChain(s.Chain); err == nil { // the chain need not exist yet: a CSR is made first
		wanted = chain[0].PublicKey
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	guard := remote.New(remote.Options{Key: s.Key, Limits: s.Limits})
	key, err := p.open(ctx, opening{
		settings: s, rest: rest, guard: guard, wanted: wanted, client: client,
		warn: func(problem, fix string) {
			if o.Warn != nil {
				o.Warn(fault.BadSetting(problem, fix, "key"))
			}
		},
	})
	return guard, key, placed(err, "key")
}

// placed turns an error of a service into an error of a setting.
func placed(err error, setting string) error {
	if err == nil {
		return nil
	}
	if s, ok := errors.AsType[*fault.Setting](err); ok {
		return s
	}
	return fault.BadSetting(err.Error(), "", setting)
}

// Attest implements [signer.Attester] with what the service says about the key. If the service does not answer, for
// example because a permission is missing, the result is [signer.ExportUnknown] and not an error.
func (s *Settings) Attest(ctx context.Context) (signer.Attestation, error) { return s.attest(ctx, nil) }

func (s *Settings) attest(ctx context.Context, client any) (a signer.Attestation, err error) {
	guard, key, err := s.reach(ctx, signer.Options{}, client)
	if err != nil {
		return a, err
	}
	if key.release != nil {
		defer func() { err = errors.Join(err, key.release()) }()
	}
	answer := make(chan signer.Attestation, 1)
	if failed := guard.Do(ctx, "attest", func(ctx context.Context) error {
		a, err := key.attest(ctx)
		if err == nil {
			select {
			case answer <- a:
			default: // an earlier attempt has answered late
			}
		}
		return err
	}); failed != nil {
		return signer.Attestation{
			Exportable: signer.ExportUnknown, Reason: "the KMS does not say: " + failed.Error(),
		}, nil
	}
	return <-answer, nil
}

// reported begins the reason of an attestation.
const reported = "reported by the KMS: "

// equal reports whether two public keys are the same.
func equal(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// fits returns the scheme with which the key signs certificates, if the service supports it.
func fits[A any](public crypto.PublicKey, algorithms map[scheme]A) (algorithm A, err error) {
	want := schemeOf(public, remote.CertificateOptions(public))
	algorithm, ok := algorithms[want]
	if !ok {
		return algorithm, fault.BadSetting(fmt.Sprintf("a key of type %T (%s) cannot sign certificates in this service",
			public,
			want),
			"use an ECDSA key on P-256, P-384 or P-521, or an RSA key", "key")
	}
	return algorithm, nil
}

// unavailable returns the error of a call without an answer, or with an invalid one.
func unavailable(err error) *remote.Error { return &remote.Error{Kind: remote.Unavailable, Err: err} }

// wrongVersion returns the error of a signature for which the service names another key or version.
func wrongVersion(got, want string) *remote.Error {
	return &remote.Error{
		Kind: remote.WrongKey,
		Err:  fmt.Errorf("the service signed with %.200q, not with %q", got, want),
	}
}

// maxAnswer bounds the body of an answer, in bytes. A transit key with all its versions is the longest.
const maxAnswer = 1 << 20

// doer makes HTTP requests.
type doer interface {
	Do(r *http.Request) (*http.Response, error)
}

// limited bounds the size of response bodies, which the SDKs read without a limit.
type limited struct{ doer }

// Do implements the HTTP client interfaces of the SDKs.
func (l limited) Do(r *http.Request) (*http.Response, error) {
	answer, err := l.doer.Do(r)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, maxAnswer)
	}
	return answer, err
}

// Secret is a secret in an environment variable or in a file.
type Secret = secret.Source

// check finds what is wrong without reading a file.
func (v *Vault) check() error {
	if v == nil {
		return nil
	}
	var errs []error
	bad := func(problem, fix string, path ...string) {
		errs = append(errs, fault.BadSetting(problem, fix, path...))
	}
	if v.Address != "" {
		u, err := url.Parse(v.Address)
		switch {
		case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil ||
			strings.Trim(u.Path, "/") != "":
			bad("is not the URL of a server", "write a URL such as https://HOST:8200", "address")
		case !hostname.IsConfidential(u):
			bad("tokens would be sent without TLS", "write a URL that begins with https", "address")
		}
	}
	if v.Version < 0 {
		bad(fmt.Sprintf("version %d is out of range", v.Version), "write the number of a version", "version")
	}
	logins := 0
	for _, set := range []bool{v.Token != nil, v.AppRole != nil, v.Kubernetes != nil, v.JWT != nil} {
		if set {
			logins++
		}
	}
	if logins > 1 {
		bad("more than one login", "keep one of token, approle, kubernetes and jwt")
	}
	errs = append(errs, fault.Under(v.Token.Check(), "token"))
	if a := v.AppRole; a != nil {
		if a.RoleID == "" {
			bad("the role id is missing", "write the role id of the AppRole", "approle", "role_id")
		}
		errs = append(errs, fault.Under(a.SecretID.Check(), "approle", "secret_id"))
	}
	for name, r := range map[string]*Role{"kubernetes": v.Kubernetes, "jwt": v.JWT} {
		if r == nil {
			continue
		}
		if r.Role == "" {
			bad("the role is missing", "write the name of the role", name, "role")
		}
		if r.Token == nil && name == "jwt" {
			bad("the token is missing", "write {env: NAME} or {file: PATH}", name, "token")
		}
		errs = append(errs, fault.Under(r.Token.Check(), name, "token"))
	}
	return errors.Join(errs...)
}
