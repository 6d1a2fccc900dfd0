//go:build !nokms_google

package kms

import (
	"context"
	"crypto"
	"net"
	"strings"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

const googleName = "projects/p/locations/l/keyRings/r/cryptoKeys/k"

// fakeGoogle is Cloud KMS. Version 2 has the key, versions 1 and 3 have another one.
type fakeGoogle struct {
	kmspb.UnimplementedKeyManagementServiceServer
	*fake

	algorithm   kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm
	damageKey   bool // the public key, on its way
	damageMe    bool // the signature, on its way
	unverified  bool // the service does not confirm the CRC32C
	noChecksums bool
	uri         string

	level     kmspb.ProtectionLevel
	importJob string
	statement []byte // of the HSM
	noGet     bool
}

func googleAlgorithm(kind pki.KeyType) kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm {
	return map[pki.KeyType]kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm{
		pki.P256:    kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256,
		pki.P384:    kmspb.CryptoKeyVersion_EC_SIGN_P384_SHA384,
		pki.RSA2048: kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_2048_SHA256,
		pki.Ed25519: kmspb.CryptoKeyVersion_EC_SIGN_ED25519,
	}[kind]
}

func (f *fakeGoogle) lab(t *testing.T) *lab {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	kmspb.RegisterKeyManagementServiceServer(server, f)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	if f.uri == "" {
		f.uri = "gcpkms://" + googleName
	}
	return &lab{
		fake: f.fake, settings: Settings{Key: f.uri}, uri: f.uri,
		permission: "cloudkms.cryptoKeyVersions.useToSign (roles/cloudkms.signer) on the key",
		client: []option.ClientOption{
			option.WithEndpoint(listener.Addr().String()), option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
		},
	}
}

// misbehave is called first by every method.
func (f *fakeGoogle) misbehave(ctx context.Context) error {
	switch {
	case f.is(hangs):
		<-ctx.Done()
		return ctx.Err()
	case f.is(throttles):
		return status.Error(codes.ResourceExhausted, "quota")
	case f.is(down):
		return status.Error(codes.Unavailable, "down")
	case f.is(denies):
		return status.Error(codes.PermissionDenied, "denied")
	}
	return nil
}

func (f *fakeGoogle) ListCryptoKeyVersions(ctx context.Context, q *kmspb.ListCryptoKeyVersionsRequest) (
	*kmspb.ListCryptoKeyVersionsResponse, error,
) {
	if q.GetParent() != googleName || q.GetFilter() != "state=ENABLED" || q.GetOrderBy() != "name desc" {
		f.Errorf("%v", q)
	}
	answer := &kmspb.ListCryptoKeyVersionsResponse{}
	for _, n := range []string{"3", "2", "1"} {
		answer.CryptoKeyVersions = append(answer.CryptoKeyVersions,
			&kmspb.CryptoKeyVersion{Name: googleName + "/cryptoKeyVersions/" + n})
	}
	return answer, f.misbehave(ctx)
}

func (f *fakeGoogle) GetPublicKey(ctx context.Context, q *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	key := f.other
	if q.GetName() == googleName+"/cryptoKeyVersions/2" {
		key = f.key
	}
	text := f.pem(key)
	crc := wrapperspb.Int64(sum([]byte(text)))
	if f.damageKey {
		text = strings.Replace(text, "A", "B", 1)
	}
	if f.noChecksums {
		crc = nil
	}
	return &kmspb.PublicKey{Name: q.GetName(), Pem: text, PemCrc32C: crc, Algorithm: f.algorithm}, f.misbehave(ctx)
}

func (f *fakeGoogle) GetCryptoKeyVersion(_ context.Context, q *kmspb.GetCryptoKeyVersionRequest) (
	*kmspb.CryptoKeyVersion, error,
) {
	if f.noGet {
		return nil, status.Error(codes.PermissionDenied, "denied")
	}
	v := &kmspb.CryptoKeyVersion{Name: q.GetName(), ProtectionLevel: f.level, ImportJob: f.importJob}
	if f.statement != nil {
		v.Attestation = &kmspb.KeyOperationAttestation{
			Format: kmspb.KeyOperationAttestation_CAVIUM_V2_COMPRESSED, Content: f.statement,
		}
	}
	if f.is(wrongNumber) {
		v.Name = googleName + "/cryptoKeyVersions/3"
	}
	return v, nil
}

func (f *fakeGoogle) Decrypt(ctx context.Context, q *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	if err := f.misbehave(ctx); err != nil {
		return nil, err
	}
	if q.GetName() != googleName || q.GetCiphertextCrc32C().GetValue() != sum(q.GetCiphertext()) ||
		len(q.GetAdditionalAuthenticatedData()) > 0 {
		f.Errorf("%v", q)
	}
	text, ok := unseal(q.GetCiphertext())
	if !ok {
		return nil, status.Error(codes.InvalidArgument, "decryption failed")
	}
	answer := &kmspb.DecryptResponse{Plaintext: text, PlaintextCrc32C: wrapperspb.Int64(sum(text))}
	if f.is(oneBit) {
		answer.Plaintext[0] ^= 1
	}
	if f.is(otherMessage) {
		answer.PlaintextCrc32C = nil
	}
	return answer, nil
}

func (f *fakeGoogle) AsymmetricSign(ctx context.Context, q *kmspb.AsymmetricSignRequest) (
	*kmspb.AsymmetricSignResponse, error,
) {
	if err := f.misbehave(ctx); err != nil {
		return nil, err
	}
	var opts crypto.Hash
	data, crc := q.GetData(), q.GetDataCrc32C()
	if d := q.GetDigest(); d != nil {
		crc = q.GetDigestCrc32C()
		for hash, digest := range map[crypto.Hash][]byte{
			crypto.SHA256: d.GetSha256(), crypto.SHA384: d.GetSha384(), crypto.SHA512: d.GetSha512(),
		} {
			if digest != nil {
				opts, data = hash, digest
			}
		}
	}
	hash := map[kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm]crypto.Hash{
		kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256:        crypto.SHA256,
		kmspb.CryptoKeyVersion_EC_SIGN_P384_SHA384:        crypto.SHA384,
		kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_2048_SHA256: crypto.SHA256,
	}[f.algorithm]
	if q.GetName() != googleName+"/cryptoKeyVersions/2" || crc == nil || crc.GetValue() != sum(data) || opts != hash ||
		hash != 0 && len(data) != hash.Size() || (q.GetDigest() != nil) == (q.GetData() != nil) {
		f.Errorf("%v", q)
		return nil, status.Error(codes.InvalidArgument, "invalid")
	}
	answer := &kmspb.AsymmetricSignResponse{Name: q.GetName(), Signature: f.sign(data, opts)}
	answer.SignatureCrc32C = wrapperspb.Int64(sum(answer.GetSignature()))
	answer.VerifiedDigestCrc32C, answer.VerifiedDataCrc32C = hash != 0 && !f.unverified, hash == 0 && !f.unverified
	if f.is(wrongNumber) {
		answer.Name = googleName + "/cryptoKeyVersions/3"
	}
	if f.damageMe {
		answer.Signature[3] ^= 1
	}
	if f.noChecksums {
		answer.SignatureCrc32C = nil
	}
	return answer, nil
}

func TestGoogle(t *testing.T) {
	t.Parallel()
	conform(t, []pki.KeyType{pki.P256, pki.P384, pki.RSA2048, pki.Ed25519}, func(t *testing.T, f *fake) *lab {
		t.Helper()
		kind := map[int]pki.KeyType{32: pki.Ed25519, 256: pki.P256, 384: pki.P384, 2048: pki.RSA2048}[bits(f.key)]
		return (&fakeGoogle{fake: f, algorithm: googleAlgorithm(kind)}).lab(t)
	})
}

// Checksums are verified in both directions, and the algorithm of the key is the one of certificates.
func TestGoogleChecks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, after func(*fakeGoogle)
		open, sign    string // errors
	}{
		"good": {},
		"a damaged public key": {
			before: func(f *fakeGoogle) { f.damageKey = true }, open: "the public key was damaged in transit",
		},
		"no checksum of the public key": {
			before: func(f *fakeGoogle) { f.noChecksums = true }, open: "the public key was damaged in transit",
		},
		"another algorithm": {
			before: func(f *fakeGoogle) { f.algorithm = kmspb.CryptoKeyVersion_RSA_SIGN_PSS_2048_SHA256 },
			open:   "the algorithm of the key is RSA_SIGN_PSS_2048_SHA256",
		},
		"a version that is named": {before: func(f *fakeGoogle) { f.uri = "gcpkms://" + googleName + "/versions/2" }},
		"no permission to list": {
			before: func(f *fakeGoogle) { f.mode.Store(denies) },
			open: "list_versions with the key gcpkms://" + googleName + ": permission missing: grant " +
				"cloudkms.cryptoKeyVersions.list (roles/cloudkms.viewer), or write the version in the URI on the key: " +
				"PermissionDenied: denied",
		},
		"no permission to read": {
			before: func(f *fakeGoogle) { f.uri = "gcpkms://" + googleName + "/versions/2"; f.mode.Store(denies) },
			open:   "grant cloudkms.cryptoKeyVersions.viewPublicKey (roles/cloudkms.publicKeyViewer)",
		},
		"a damaged signature": {
			after: func(f *fakeGoogle) { f.damageMe = true }, sign: "the signature was damaged in transit",
		},
		"no checksum of the signature": {
			after: func(f *fakeGoogle) { f.noChecksums = true }, sign: "the signature was damaged in transit",
		},
		"a request that is not verified": {
			after: func(f *fakeGoogle) { f.unverified = true }, sign: "the request was damaged in transit",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{})
			f := &fakeGoogle{fake: newFake(t, p.Key, pki.P256), algorithm: googleAlgorithm(pki.P256)}
			if c.before != nil {
				c.before(f)
			}
			l := f.lab(t)
			l.settings.Chain = chainFile(t, p)
			key, err := l.open(t)
			if c.open != "" {
				if err == nil || !strings.Contains(err.Error(), c.open) {
					t.Errorf("open: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer key.Close() //nolint:errcheck // the end of the test
			if !equal(key.Signer.Public(), p.Chain[0].PublicKey) {
				t.Error("the version is not that of the chain")
			}
			if c.after != nil {
				c.after(f)
			}
			if err := key.Probe(t.Context()); (err == nil) != (c.sign == "") || err != nil &&
				(!strings.Contains(err.Error(), c.sign) || kindOf(err) != remote.Unavailable) {
				t.Errorf("sign: %v", err)
			}
		})
	}
}

// The attestation follows from the protection level and the origin of the version.
func TestGoogleAttest(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	for name, c := range map[string]struct {
		change     func(*fakeGoogle)
		exportable string
		reason     string
		evidence   []string
	}{
		"HSM": {
			func(f *fakeGoogle) { f.level, f.statement = kmspb.ProtectionLevel_HSM, []byte("abc") }, signer.ExportNo,
			"reported by the KMS: protectionLevel=HSM, imported=false; Google made the key",
			[]string{
				"protectionLevel", "HSM", "imported", "false", "attestation.format", "CAVIUM_V2_COMPRESSED",
				"attestation.content.sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
			},
		},
		"software": {
			func(f *fakeGoogle) { f.level = kmspb.ProtectionLevel_SOFTWARE }, signer.ExportNo,
			"reported by the KMS: protectionLevel=SOFTWARE, imported=false",
			[]string{"attestation.format", ""},
		},
		"imported": {
			func(f *fakeGoogle) { f.level, f.importJob = kmspb.ProtectionLevel_HSM, "projects/p/importJobs/1" },
			signer.ExportUnknown, "reported by the KMS: protectionLevel=HSM, imported=true; Google does not know",
			[]string{"imported", "true"},
		},
		"elsewhere": {
			func(f *fakeGoogle) { f.level = kmspb.ProtectionLevel_EXTERNAL_VPC }, signer.ExportUnknown,
			"reported by the KMS: protectionLevel=EXTERNAL_VPC, imported=false; ask the operator", nil,
		},
		"no permission": {
			func(f *fakeGoogle) { f.noGet = true }, signer.ExportUnknown,
			"the KMS does not say: attest with the key gcpkms://" + googleName +
				": permission missing: grant cloudkms.cryptoKeyVersions.get (roles/cloudkms.viewer) on the key", nil,
		},
		"another version": {
			func(f *fakeGoogle) { f.level = kmspb.ProtectionLevel_HSM; f.mode.Store(wrongNumber) },
			signer.ExportUnknown,
			"the KMS does not say: attest with the key gcpkms://" + googleName + ": the service does not work", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeGoogle{fake: newFake(t, p.Key, pki.P256), algorithm: googleAlgorithm(pki.P256)}
			c.change(f)
			attests(t, f.lab(t), p, c.exportable, c.reason, c.evidence...)
		})
	}
}

func TestGoogleDecrypt(t *testing.T) {
	t.Parallel()
	f := &fakeGoogle{fake: newFake(t, pki.NewKey(pki.P256), pki.P256)}
	decrypts(t, f.fake, KEK{URI: "gcp-kms://" + googleName}, f.lab(t).client,
		"cloudkms.cryptoKeyVersions.useToDecrypt (roles/cloudkms.cryptoKeyDecrypter) on the key",
		map[mode]remote.Kind{oneBit: remote.Unavailable, otherMessage: remote.Unavailable})
}

func TestGoogleErrors(t *testing.T) {
	t.Parallel()
	for code, want := range map[codes.Code]remote.Kind{
		codes.PermissionDenied: remote.Denied, codes.Unauthenticated: remote.Denied,
		codes.ResourceExhausted: remote.Throttled, codes.Unavailable: remote.Unavailable,
		codes.Internal: remote.Unavailable, codes.NotFound: remote.Failed, codes.FailedPrecondition: remote.Failed,
		codes.InvalidArgument: remote.Failed, codes.DeadlineExceeded: remote.TimedOut,
	} {
		if err := googleError(status.Error(code, "m"), "x"); kindOf(err) != want {
			t.Errorf("%s: %v", code, err)
		}
	}
}
