//go:build !nokms_google

package kms

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"regexp"
	"strconv"
	"strings"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/version"
)

func googleKMS() provider {
	return provider{
		name: "Google Cloud KMS", tag: "nokms_google", schemes: []string{"gcpkms://"}, check: checkGoogle,
		open: openGoogle, kekSchemes: []string{"gcp-kms://"}, checkKEK: checkGoogleKEK, decrypt: decryptGoogle,
	}
}

// googleURI is the name of a key, with or without a version.
var googleURI = regexp.MustCompile(
	`^(projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+)(?:/(?:cryptoKeyVersions|versions)/(\d+))?$`)

func checkGoogle(rest string) error {
	if !googleURI.MatchString(rest) {
		return errors.New("is not gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY, " +
			"which /cryptoKeyVersions/VERSION may follow")
	}
	return nil
}

func checkGoogleKEK(rest string) error {
	if parts := googleURI.FindStringSubmatch(rest); parts == nil || parts[2] != "" {
		return errors.New("is not gcp-kms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY, " +
			"without a version")
	}
	return nil
}

// googleAlgorithms are the algorithms of Cloud KMS for each scheme. The size of an RSA key is part of the algorithm.
var googleAlgorithms = map[scheme][]kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm{
	ecdsa256: {kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256},
	ecdsa384: {kmspb.CryptoKeyVersion_EC_SIGN_P384_SHA384},
	pkcs256: {
		kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_2048_SHA256, kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_3072_SHA256,
		kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_4096_SHA256,
	},
	pkcs512: {kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_4096_SHA512},
	pss256: {
		kmspb.CryptoKeyVersion_RSA_SIGN_PSS_2048_SHA256, kmspb.CryptoKeyVersion_RSA_SIGN_PSS_3072_SHA256,
		kmspb.CryptoKeyVersion_RSA_SIGN_PSS_4096_SHA256,
	},
	pss512:  {kmspb.CryptoKeyVersion_RSA_SIGN_PSS_4096_SHA512},
	edwards: {kmspb.CryptoKeyVersion_EC_SIGN_ED25519},
	mldsa44: {kmspb.CryptoKeyVersion_PQ_SIGN_ML_DSA_44},
	mldsa65: {kmspb.CryptoKeyVersion_PQ_SIGN_ML_DSA_65},
	mldsa87: {kmspb.CryptoKeyVersion_PQ_SIGN_ML_DSA_87},
}

// googleKey signs with one version of a key.
type googleKey struct {
	client    *kms.KeyManagementClient
	name      string // of the version
	algorithm kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm
	public    crypto.PublicKey
}

// maxVersions is the maximum number of versions of a key that are compared with the chain.
const maxVersions = 20

// openGoogle implements provider.open. It needs cloudkms.cryptoKeyVersions.viewPublicKey, and without a version in the
// URI also cloudkms.cryptoKeyVersions.list.
func openGoogle(ctx context.Context, o opening) (*opened, error) {
	client, err := newGoogle(ctx, o)
	if err != nil {
		return nil, err
	}
	k, err := findGoogle(ctx, o, client)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &opened{raw: k, release: client.Close, attest: k.attest}, nil
}

func newGoogle(ctx context.Context, o opening) (*kms.KeyManagementClient, error) {
	options := []option.ClientOption{
		option.WithUserAgent(version.UserAgent()),
		option.WithGRPCDialOption(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer))),
		// A connection carries at most one hundred concurrent calls.
		option.WithGRPCConnectionPool(1 + o.guard.Concurrent()/100),
	}
	if more, ok := o.client.([]option.ClientOption); ok {
		options = append(options, more...)
	}
	client, err := kms.NewKeyManagementClient(context.WithoutCancel(ctx), options...) // it refreshes tokens with ctx
	if err != nil {
		return nil, fault.BadSetting("credentials for Google Cloud: "+err.Error(),
			"see docs/keys.md, Google Cloud KMS", "key")
	}
	client.CallOptions = &kms.KeyManagementCallOptions{} // turns off the retries of the SDK
	return client, nil
}

// decryptGoogle implements provider.decrypt. It needs cloudkms.cryptoKeyVersions.useToDecrypt. Tink encrypts a keyset
// with Cloud KMS directly, without additional authenticated data.
func decryptGoogle(ctx context.Context, o opening, ciphertext []byte) (plaintext []byte, err error) {
	client, err := newGoogle(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return o.guard.Get(ctx, opDecrypt, func(ctx context.Context) ([]byte, error) {
		answer, err := client.Decrypt(ctx, &kmspb.DecryptRequest{
			Name: o.rest, Ciphertext: ciphertext, CiphertextCrc32C: wrapperspb.Int64(sum(ciphertext)),
		})
		switch {
		case err != nil:
			return nil, googleError(err, "cloudkms.cryptoKeyVersions.useToDecrypt (roles/cloudkms.cryptoKeyDecrypter)")
		case answer.GetPlaintextCrc32C() == nil || answer.GetPlaintextCrc32C().GetValue() != sum(answer.GetPlaintext()):
			return nil, unavailable(errors.New("the plaintext was damaged in transit: its CRC32C does not match"))
		}
		return answer.GetPlaintext(), nil
	})
}

// attest asks for the protection level and the origin of the version. It needs cloudkms.cryptoKeyVersions.get.
func (k *googleKey) attest(ctx context.Context) (a signer.Attestation, err error) {
	v, err := k.client.GetCryptoKeyVersion(ctx, &kmspb.GetCryptoKeyVersionRequest{Name: k.name})
	switch {
	case err != nil:
		return a, googleError(err, "cloudkms.cryptoKeyVersions.get (roles/cloudkms.viewer)")
	case v.GetName() != k.name:
		return a, unavailable(errors.New("the response is for a different key than the request"))
	}
	imported := v.GetImportJob() != ""
	a.Evidence = map[string]string{
		"protectionLevel": v.GetProtectionLevel().String(), "imported": strconv.FormatBool(imported),
	}
	if statement := v.GetAttestation(); len(statement.GetContent()) > 0 {
		digest := sha256.Sum256(statement.GetContent())
		a.Evidence["attestation.format"] = statement.GetFormat().String()
		a.Evidence["attestation.content.sha256"] = hex.EncodeToString(digest[:])
	}
	a.Exportable = signer.ExportUnknown
	a.Reason = fmt.Sprintf("%sprotectionLevel=%s, imported=%t", reported, v.GetProtectionLevel(), imported)
	switch v.GetProtectionLevel() {
	case kmspb.ProtectionLevel_SOFTWARE, kmspb.ProtectionLevel_HSM, kmspb.ProtectionLevel_HSM_SINGLE_TENANT:
		if imported {
			a.Reason += "; Google does not know whether there is another copy"
			break
		}
		a.Exportable = signer.ExportNo
		a.Reason += "; Google made the key, and no call of Cloud KMS returns a private key"
	default:
		a.Reason += "; ask the operator of the external key manager"
	}
	return a, nil
}

// findGoogle returns the version that the URI names, or else the newest enabled one whose public key is wanted, or else
// the newest enabled one.
func findGoogle(ctx context.Context, o opening, client *kms.KeyManagementClient) (*googleKey, error) {
	parts := googleURI.FindStringSubmatch(o.rest)
	var names []string
	if parts[2] != "" {
		names = []string{parts[1] + "/cryptoKeyVersions/" + parts[2]}
	} else if err := o.guard.Do(ctx, "list_versions", func(ctx context.Context) (err error) {
		names, err = googleVersions(ctx, client, parts[1])
		return err
	}); err != nil {
		return nil, err
	}
	var newest *googleKey
	for _, name := range names {
		k := &googleKey{client: client, name: name}
		if err := o.guard.Do(ctx, "public_key", k.read); err != nil {
			return nil, err
		}
		if equal(k.public, o.wanted) {
			return k, nil
		}
		if newest == nil {
			newest = k
		}
	}
	return newest, nil
}

// googleVersions returns the names of the enabled versions, the newest first. Without any, it returns an error.
func googleVersions(ctx context.Context, client *kms.KeyManagementClient, key string) (names []string, err error) {
	all := client.ListCryptoKeyVersions(ctx, &kmspb.ListCryptoKeyVersionsRequest{
		Parent: key, Filter: "state=ENABLED", OrderBy: "name desc", PageSize: maxVersions,
	})
	for len(names) < maxVersions {
		v, err := all.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		if err != nil {
			return nil, googleError(err,
				"cloudkms.cryptoKeyVersions.list (roles/cloudkms.viewer), or write the version "+
					"in the URI")
		}
		if !strings.HasPrefix(v.GetName(), key+"/cryptoKeyVersions/") {
			return nil, unavailable(fmt.Errorf("the service returned a key version with the invalid name %.200q",
				v.GetName()))
		}
		names = append(names, v.GetName())
	}
	if len(names) == 0 {
		return nil, errors.New("no version of the key is enabled")
	}
	return names, nil
}

// read reads the public key of the version.
func (k *googleKey) read(ctx context.Context) error {
	answer, err := k.client.GetPublicKey(ctx, &kmspb.GetPublicKeyRequest{Name: k.name})
	switch {
	case err != nil:
		return googleError(err, "cloudkms.cryptoKeyVersions.viewPublicKey (roles/cloudkms.publicKeyViewer)")
	case answer.GetName() != k.name:
		return wrongVersion(answer.GetName(), k.name)
	case answer.GetPemCrc32C() == nil || answer.GetPemCrc32C().GetValue() != sum([]byte(answer.GetPem())):
		return unavailable(errors.New("the public key was damaged in transit: its CRC32C does not match"))
	}
	block, _ := pem.Decode([]byte(answer.GetPem()))
	if block == nil {
		return unavailable(errors.New("the public key is not in PEM"))
	}
	if k.public, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return unavailable(fmt.Errorf("parse the public key: %w", err))
	}
	k.algorithm = answer.GetAlgorithm()
	algorithms, err := fits(k.public, googleAlgorithms)
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		if a == k.algorithm {
			return nil
		}
	}
	return fmt.Errorf("the algorithm of the key is %s, and certificates are signed with %v: create another key",
		k.algorithm, algorithms)
}

// Public implements [remote.Raw].
func (k *googleKey) Public() crypto.PublicKey { return k.public }

// Sign implements [remote.Raw]. It needs cloudkms.cryptoKeyVersions.useToSign.
func (k *googleKey) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	request := &kmspb.AsymmetricSignRequest{Name: k.name}
	crc := wrapperspb.Int64(sum(digest))
	switch opts.HashFunc() {
	case crypto.SHA256:
		request.Digest = &kmspb.Digest{Digest: &kmspb.Digest_Sha256{Sha256: digest}}
	case crypto.SHA384:
		request.Digest = &kmspb.Digest{Digest: &kmspb.Digest_Sha384{Sha384: digest}}
	case crypto.SHA512:
		request.Digest = &kmspb.Digest{Digest: &kmspb.Digest_Sha512{Sha512: digest}}
	case 0:
		request.Data, request.DataCrc32C = digest, crc
	default:
		return nil, notThere(schemeOf(k.public, opts))
	}
	if request.GetDigest() != nil {
		request.DigestCrc32C = crc
	}
	answer, err := k.client.AsymmetricSign(ctx, request)
	if err != nil {
		return nil, googleError(err, "cloudkms.cryptoKeyVersions.useToSign (roles/cloudkms.signer)")
	}
	received := answer.GetVerifiedDigestCrc32C()
	if request.GetDigest() == nil {
		received = answer.GetVerifiedDataCrc32C()
	}
	switch {
	case !received:
		return nil, unavailable(errors.New("the request was damaged in transit: the service did not verify its CRC32C"))
	case answer.GetName() != k.name:
		return nil, wrongVersion(answer.GetName(), k.name)
	case answer.GetSignatureCrc32C() == nil || answer.GetSignatureCrc32C().GetValue() != sum(answer.GetSignature()):
		return nil, unavailable(errors.New("the signature was damaged in transit: its CRC32C does not match"))
	}
	return answer.GetSignature(), nil
}

// sum returns the CRC32C of data (Cloud KMS, data integrity guidelines).
func sum(data []byte) int64 { return int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))) }

// googleError classifies an error by its status (google.rpc.Code).
func googleError(err error, permission string) error {
	s, ok := status.FromError(err)
	e := unavailable(err)
	if !ok {
		return e
	}
	e.Err = fmt.Errorf("%s: %s", s.Code(), s.Message())
	for _, d := range s.Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			e.After = retry.GetRetryDelay().AsDuration()
		}
	}
	switch s.Code() {
	case codes.PermissionDenied:
		e.Kind, e.Permission = remote.Denied, permission+" on the key"
	case codes.Unauthenticated:
		e.Kind = remote.Denied
	case codes.ResourceExhausted:
		e.Kind = remote.Throttled
	case codes.DeadlineExceeded: // the transport may notice it before the context does
		e.Kind = remote.TimedOut
	case codes.Unavailable, codes.Internal, codes.Aborted, codes.Unknown, codes.Canceled:
	default: // NOT_FOUND; FAILED_PRECONDITION: the version is disabled or destroyed
		e.Kind = remote.Failed
	}
	return e
}
