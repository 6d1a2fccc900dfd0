//go:build !nokms_azure

package kms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
	"github.com/mayfly-ca/mayfly/internal/version"
)

func azureKeyVault() provider {
	return provider{
		name: "Azure Key Vault", tag: "nokms_azure", schemes: []string{"azurekms://"}, check: checkAzure,
		open: openAzure,
	}
}

// azureURI is HOST/KEY with or without /VERSION.
var azureURI = regexp.MustCompile(`^([A-Za-z0-9.:-]+)/([A-Za-z0-9-]{1,127})(?:/([a-z0-9]*))?$`)

func checkAzure(rest string) error {
	if !azureURI.MatchString(rest) {
		return errors.New("is not azurekms://HOST/KEY or azurekms://HOST/KEY/VERSION, " +
			"where HOST is that of the vault, such as acme.vault.azure.net")
	}
	_, err := azureCloud()
	return err
}

// azureCloud returns the cloud that AZURE_ENVIRONMENT names.
func azureCloud() (cloud.Configuration, error) {
	switch name := os.Getenv("AZURE_ENVIRONMENT"); strings.ToUpper(name) {
	case "", "AZURECLOUD", "AZUREPUBLICCLOUD":
		return cloud.AzurePublic, nil
	case "AZUREUSGOVERNMENT", "AZUREUSGOVERNMENTCLOUD":
		return cloud.AzureGovernment, nil
	case "AZURECHINACLOUD":
		return cloud.AzureChina, nil
	default:
		return cloud.Configuration{}, fmt.Errorf("the environment variable AZURE_ENVIRONMENT is %.50q; set it to "+
			"AzurePublicCloud, AzureUSGovernment or AzureChinaCloud", name)
	}
}

// azureAlgorithms are the names of the schemes at Key Vault (RFC 7518 §3.1).
var azureAlgorithms = map[scheme]azkeys.SignatureAlgorithm{
	ecdsa256: azkeys.SignatureAlgorithmES256,
	ecdsa384: azkeys.SignatureAlgorithmES384,
	ecdsa512: azkeys.SignatureAlgorithmES512,
	pkcs256:  azkeys.SignatureAlgorithmRS256,
	pkcs384:  azkeys.SignatureAlgorithmRS384,
	pkcs512:  azkeys.SignatureAlgorithmRS512,
	pss256:   azkeys.SignatureAlgorithmPS256,
	pss384:   azkeys.SignatureAlgorithmPS384,
	pss512:   azkeys.SignatureAlgorithmPS512,
}

// azureClient is the client that tests set.
type azureClient struct {
	transport  policy.Transporter
	credential azcore.TokenCredential
}

// azureKey signs with one version of a key.
type azureKey struct {
	client        *azkeys.Client
	name, version string
	id            azkeys.ID // of the version
	public        crypto.PublicKey
	kind          azkeys.KeyType
	exportable    *bool // as the vault reports it; nil if it does not
}

// openAzure implements provider.open. It needs keys/get, and without a version in the URI also keys/list if the newest
// version is not that of the chain.
func openAzure(ctx context.Context, o opening) (*opened, error) {
	parts := azureURI.FindStringSubmatch(o.rest)
	where, err := azureCloud()
	if err != nil {
		return nil, err
	}
	with, ok := o.client.(azureClient)
	if !ok {
		with.transport = limited{httpclient.New(httpclient.Options{
			ConnectTimeout: 2 * time.Second, IdleConns: o.guard.Concurrent(), IdleTimeout: 5 * time.Minute,
			Proxy: http.ProxyFromEnvironment, UserAgent: version.UserAgent(),
		})}
	}
	options := azcore.ClientOptions{
		Cloud: where, Transport: with.transport,
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{ApplicationID: "mayfly"},
	}
	if with.credential == nil {
		if with.credential, err = azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
			ClientOptions: options,
		}); err != nil {
			return nil, fmt.Errorf("credentials for Azure: %w", err)
		}
	}
	client, err := azkeys.NewClient("https://"+parts[1]+"/", with.credential,
		&azkeys.ClientOptions{ClientOptions: options})
	if err != nil {
		return nil, err
	}
	k, err := findAzure(ctx, o, &azureKey{client: client, name: parts[2], version: parts[3]})
	return &opened{raw: k, attest: k.attest}, err
}

// findAzure returns the version that the URI names, or else the newest one, unless an older one is wanted.
func findAzure(ctx context.Context, o opening, k *azureKey) (*azureKey, error) {
	named := k.version != ""
	if err := o.guard.Do(ctx, "public_key", k.read); err != nil || named || equal(k.public, o.wanted) {
		return k, err
	}
	var versions []string
	if err := o.guard.Do(ctx, "list_versions", func(ctx context.Context) error {
		versions = nil
		page, err := k.client.NewListKeyPropertiesVersionsPager(k.name, nil).NextPage(ctx)
		if err != nil {
			return azureError(err, "keys/list (or write the version of the key in the URI)")
		}
		for _, p := range page.Value {
			if p != nil && p.KID != nil && len(versions) < maxAzureVersions {
				versions = append(versions, p.KID.Version())
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	for _, v := range versions {
		other := &azureKey{client: k.client, name: k.name, version: v}
		if err := o.guard.Do(ctx, "public_key", other.read); err == nil && equal(other.public, o.wanted) {
			return other, nil
		}
	}
	return k, nil
}

// maxAzureVersions is the maximum number of versions of a key that are compared with the chain.
const maxAzureVersions = 20

// read reads the public key and pins its version.
func (k *azureKey) read(ctx context.Context) error {
	answer, err := k.client.GetKey(ctx, k.name, k.version, nil)
	if err != nil {
		return azureError(err, "keys/get")
	}
	key := answer.Key
	if key == nil || key.KID == nil || key.KID.Name() != k.name || key.KID.Version() == "" ||
		k.version != "" && key.KID.Version() != k.version {
		return unavailable(errors.New("the response is for a different key than the request"))
	}
	if a := answer.Attributes; a != nil && a.Enabled != nil && !*a.Enabled {
		return errors.New("the version of the key is disabled")
	}
	if k.public, err = azurePublicKey(key); err != nil {
		return err
	}
	k.id, k.version, k.kind = *key.KID, key.KID.Version(), *key.Kty
	if answer.Attributes != nil {
		k.exportable = answer.Attributes.Exportable
	}
	_, err = fits(k.public, azureAlgorithms)
	return err
}

// attest returns what the vault said about the key when it was read. A vault omits the attribute for a key that cannot
// be exported. It does not say whether the key was imported.
func (k *azureKey) attest(context.Context) (signer.Attestation, error) {
	a := signer.Attestation{
		Exportable: signer.ExportNo,
		Reason: fmt.Sprintf("%sexportable=false, kty=%s; whether the key was imported is not reported", reported,
			k.kind),
		Evidence: map[string]string{"exportable": "false", "kty": string(k.kind), "kid": string(k.id)},
	}
	if k.exportable != nil && *k.exportable {
		a.Exportable, a.Evidence["exportable"] = signer.ExportYes, "true"
		a.Reason = fmt.Sprintf("%sexportable=true, kty=%s; the release policy of the key says to whom", reported,
			k.kind)
	}
	return a, nil
}

// azurePublicKey returns the public key of a JSON Web Key (RFC 7518 §6).
func azurePublicKey(k *azkeys.JSONWebKey) (crypto.PublicKey, error) {
	if k.Kty == nil {
		return nil, unavailable(errors.New("the key has no type"))
	}
	switch *k.Kty {
	case azkeys.KeyTypeEC, azkeys.KeyTypeECHSM:
		if k.Crv == nil {
			return nil, unavailable(errors.New("the key has no curve"))
		}
		curve, ok := map[azkeys.CurveName]elliptic.Curve{
			azkeys.CurveNameP256: elliptic.P256(), azkeys.CurveNameP384: elliptic.P384(),
			azkeys.CurveNameP521: elliptic.P521(),
		}[*k.Crv]
		if !ok {
			return nil, fmt.Errorf("the curve %.20q is not allowed for a CA; create a key on P-256, P-384 or P-521",
				*k.Crv)
		}
		size := (curve.Params().BitSize + 7) / 8
		if len(k.X) > size || len(k.Y) > size {
			return nil, unavailable(errors.New("the coordinates of the public key are too long"))
		}
		point := make([]byte, 1+2*size)
		point[0] = 4 // uncompressed (SEC 1 §2.3.3)
		copy(point[1+size-len(k.X):], k.X)
		copy(point[1+2*size-len(k.Y):], k.Y)
		public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
		if err != nil {
			return nil, unavailable(fmt.Errorf("the public key is invalid: %w", err))
		}
		return public, nil
	case azkeys.KeyTypeRSA, azkeys.KeyTypeRSAHSM:
		n, e := new(big.Int).SetBytes(k.N), new(big.Int).SetBytes(k.E)
		if n.BitLen() < 2048 || n.BitLen() > 8192 || e.BitLen() > 31 || e.Int64() < 3 {
			return nil, fmt.Errorf("an RSA key of %d bits with the exponent %.20s is not allowed for a CA", n.BitLen(),
				e)
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	}
	return nil, fmt.Errorf("a key of type %.20q cannot sign certificates; create a key of type EC-HSM or RSA-HSM",
		*k.Kty)
}

// Public implements [remote.Raw].
func (k *azureKey) Public() crypto.PublicKey { return k.public }

// Sign implements [remote.Raw]. It needs keys/sign.
func (k *azureKey) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	want := schemeOf(k.public, opts)
	algorithm, ok := azureAlgorithms[want]
	if !ok {
		return nil, notThere(want)
	}
	answer, err := k.client.Sign(ctx, k.name, k.version,
		azkeys.SignParameters{Algorithm: &algorithm, Value: digest}, nil)
	if err != nil {
		return nil, azureError(err, "keys/sign")
	}
	if answer.KID == nil || *answer.KID != k.id {
		got := azkeys.ID("")
		if answer.KID != nil {
			got = *answer.KID
		}
		return nil, wrongVersion(string(got), string(k.id))
	}
	if key, ok := k.public.(*ecdsa.PublicKey); ok {
		return derSignature(key.Curve, answer.Result)
	}
	return answer.Result, nil
}

// derSignature converts the r||s of Key Vault (RFC 7518 §3.4) to ASN.1 (RFC 3279 §2.2.3).
func derSignature(curve elliptic.Curve, raw []byte) ([]byte, error) {
	size := (curve.Params().BitSize + 7) / 8
	if len(raw) != 2*size {
		return nil, &remote.Error{Kind: remote.WrongKey, Err: fmt.Errorf("the signature has %d bytes, not %d", len(raw),
			2*size)}
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[:size]))
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[size:]))
	})
	return b.Bytes()
}

// azureError classifies an error (Key Vault REST API error codes).
func azureError(err error, permission string) error {
	e := unavailable(err)
	var login *azidentity.AuthenticationFailedError
	var answer *azcore.ResponseError
	switch {
	case errors.As(err, &login):
		e.Kind, e.Err = remote.Denied, errors.New("no credential of the process is accepted by Microsoft Entra ID; "+
			firstLine(err))
		return e
	case !errors.As(err, &answer): // no answer, or no credentials
		e.Err = errors.New(firstLine(err))
		return e
	}
	e.Err = fmt.Errorf("status %d, %s", answer.StatusCode, answer.ErrorCode)
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		e.Kind = remote.Denied
	case http.StatusForbidden:
		e.Kind, e.Permission = remote.Denied,
			permission+" on the key (with Azure RBAC: the role Key Vault Crypto User), "+
				"and let the vault's firewall admit this host"
	case http.StatusTooManyRequests:
		e.Kind = remote.Throttled
		if answer.RawResponse != nil {
			if seconds, err := strconv.Atoi(answer.RawResponse.Header.Get("Retry-After")); err == nil && seconds > 0 {
				e.After = time.Duration(min(seconds, 3600)) * time.Second
			}
		}
	case http.StatusRequestTimeout:
	default:
		if answer.StatusCode < http.StatusInternalServerError {
			e.Kind = remote.Failed
		}
	}
	return e
}

// firstLine returns the first line of an error. The other lines are the complete response.
func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}
