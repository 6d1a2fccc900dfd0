//go:build !nokms_aws

package kms

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

const awsARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// fakeAWS is KMS in the JSON protocol 1.1, for a key with the alias "ca".
type fakeAWS struct {
	*fake
	algorithms []string // of the key
	usage      string

	origin      string
	multiRegion bool
	noDescribe  bool
	describeARN string
}

func awsLab(t *testing.T, f *fake) *lab {
	t.Helper()
	return (&fakeAWS{fake: f, algorithms: awsNames(f.key), usage: "SIGN_VERIFY"}).lab()
}

// awsNames are the algorithms of a key, in the order of AWS.
func awsNames(key crypto.Signer) []string {
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		return []string{map[int]string{
			256: "ECDSA_SHA_256", 384: "ECDSA_SHA_384",
			521: "ECDSA_SHA_512",
		}[k.Params().BitSize]}
	case interface{ Size() int }: // RSA
		return []string{"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PSS_SHA_256"}
	}
	return []string{"ED25519_SHA_512", "ED25519_PH_SHA_512"}
}

func (f *fakeAWS) lab() *lab {
	return &lab{
		fake: f.fake, settings: Settings{Key: "awskms:///alias/ca"}, uri: "awskms:///alias/ca",
		permission: "kms:Sign on the key",
		client: awsClient{
			http: inMemory{f}, region: "eu-west-1",
			credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "canary"}, nil
			}),
		},
	}
}

// ServeHTTP implements [http.Handler].
func (f *fakeAWS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, code string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": "the message of " + code})
	}
	if r.URL.Host != "kms.eu-west-1.amazonaws.com" || r.Method != http.MethodPost || r.URL.Scheme != "https" ||
		!strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKID/") ||
		r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		f.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}
	var q struct {
		KeyID            string `json:"KeyId"`
		Message          []byte
		MessageType      string
		SigningAlgorithm string
		CiphertextBlob   []byte
	}
	target := r.Header.Get("X-Amz-Target")
	id := "alias/ca"
	if target == "TrentService.Decrypt" {
		id = awsKEKForTests
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.KeyID != id {
		f.Errorf("%+v, %v", q, err)
	}
	arn := awsARN
	switch {
	case f.is(hangs):
		<-r.Context().Done()
		return
	case f.is(throttles):
		fail(http.StatusBadRequest, "ThrottlingException")
		return
	case f.is(down):
		fail(http.StatusInternalServerError, "KMSInternalException")
		return
	case f.is(denies):
		fail(http.StatusBadRequest, "AccessDeniedException")
		return
	case target == "TrentService.GetPublicKey":
		_ = json.NewEncoder(w).Encode(map[string]any{
			"KeyId": arn, "PublicKey": f.spki(f.key), "KeyUsage": f.usage, "SigningAlgorithms": f.algorithms,
		})
		return
	case target == "TrentService.DescribeKey" && f.noDescribe:
		fail(http.StatusBadRequest, "AccessDeniedException")
		return
	case target == "TrentService.DescribeKey":
		_ = json.NewEncoder(w).Encode(map[string]any{"KeyMetadata": map[string]any{
			"Arn": cmp.Or(f.describeARN, arn), "KeyId": "1234", "Origin": f.origin, "MultiRegion": f.multiRegion,
		}})
		return
	case target == "TrentService.Decrypt":
		text, ok := unseal(q.CiphertextBlob)
		if !ok {
			fail(http.StatusBadRequest, "InvalidCiphertextException")
			return
		}
		if f.is(wrongNumber) {
			arn = strings.Replace(awsARN, "1234abcd", "0000abcd", 1)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": arn, "Plaintext": text})
		return
	case target != "TrentService.Sign":
		fail(http.StatusBadRequest, "UnknownOperationException")
		return
	}
	opts := crypto.SignerOpts(crypto.Hash(0))
	form := "DIGEST"
	switch {
	case strings.HasSuffix(q.SigningAlgorithm, "SHA_256"):
		opts = crypto.SHA256
	case strings.HasSuffix(q.SigningAlgorithm, "SHA_384"):
		opts = crypto.SHA384
	case q.SigningAlgorithm == "ED25519_SHA_512":
		form = "RAW"
	case strings.HasSuffix(q.SigningAlgorithm, "SHA_512"):
		opts = crypto.SHA512
	default:
		f.Errorf("algorithm %q", q.SigningAlgorithm)
	}
	if q.SigningAlgorithm != f.algorithms[0] || q.MessageType != form ||
		opts.HashFunc() != 0 && len(q.Message) != opts.HashFunc().Size() {
		fail(http.StatusBadRequest, "ValidationException")
		f.Errorf("%+v", q)
		return
	}
	if f.is(wrongNumber) {
		arn = strings.Replace(awsARN, "1234abcd", "0000abcd", 1)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"KeyId": arn, "Signature": f.sign(q.Message, opts), "SigningAlgorithm": q.SigningAlgorithm,
	})
}

func TestAWS(t *testing.T) {
	t.Parallel()
	conform(t, []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.RSA2048, pki.Ed25519}, awsLab)
}

// Problems of a key are reported when it is opened.
func TestAWSOpen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*fakeAWS)
		want   string
	}{
		"no permission": {
			func(f *fakeAWS) { f.mode.Store(denies) },
			"public_key with the key awskms:///alias/ca: permission missing: grant kms:GetPublicKey " +
				"on the key, in the IAM " +
				"policy of the caller or in the key policy: AccessDeniedException: the message of AccessDeniedException",
		},
		"down":      {func(f *fakeAWS) { f.mode.Store(down) }, "the service does not work"},
		"no signer": {func(f *fakeAWS) { f.usage = "ENCRYPT_DECRYPT" }, "the usage of the key is ENCRYPT_DECRYPT"},
		"algorithm": {
			func(f *fakeAWS) { f.algorithms = []string{"ECDSA_SHA_512"} },
			"the key cannot sign with ECDSA_SHA_256",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pki.New(pki.Options{})
			f := &fakeAWS{fake: newFake(t, p.Key, pki.P256), algorithms: awsNames(p.Key), usage: "SIGN_VERIFY"}
			l := f.lab()
			l.settings.Chain = chainFile(t, p)
			c.change(f)
			if _, err := l.open(t); err == nil || !strings.Contains(err.Error(), c.want) ||
				strings.Contains(err.Error(), "canary") {
				t.Errorf("%v", err)
			}
		})
	}
}

// The attestation follows from the origin of the key.
func TestAWSAttest(t *testing.T) {
	t.Parallel()
	p := pki.New(pki.Options{})
	for name, c := range map[string]struct {
		change     func(*fakeAWS)
		exportable string
		reason     string
		evidence   []string
	}{
		"made there": {
			func(f *fakeAWS) { f.origin = "AWS_KMS" }, signer.ExportNo,
			"reported by the KMS: Origin=AWS_KMS; AWS made the key",
			[]string{"Origin", "AWS_KMS", "MultiRegion", "false", "Arn", awsARN},
		},
		"in CloudHSM": {
			func(f *fakeAWS) { f.origin, f.multiRegion = "AWS_CLOUDHSM", true }, signer.ExportNo,
			"reported by the KMS: Origin=AWS_CLOUDHSM",
			[]string{"MultiRegion", "true"},
		},
		"imported": {
			func(f *fakeAWS) { f.origin = "EXTERNAL" }, signer.ExportUnknown,
			"reported by the KMS: Origin=EXTERNAL; the key was imported",
			[]string{"Origin", "EXTERNAL"},
		},
		"elsewhere": {
			func(f *fakeAWS) { f.origin = "EXTERNAL_KEY_STORE" }, signer.ExportUnknown,
			"reported by the KMS: Origin=EXTERNAL_KEY_STORE; ask the operator", nil,
		},
		"no permission": {
			func(f *fakeAWS) { f.noDescribe = true }, signer.ExportUnknown,
			"the KMS does not say: attest with the key awskms:///alias/ca: permission missing: grant kms:DescribeKey",
			nil,
		},
		"another key": {
			func(f *fakeAWS) { f.origin, f.describeARN = "AWS_KMS", awsARN+"0" }, signer.ExportUnknown,
			"the KMS does not say: attest with the key awskms:///alias/ca: the service does not work", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fakeAWS{fake: newFake(t, p.Key, pki.P256), algorithms: awsNames(p.Key), usage: "SIGN_VERIFY"}
			c.change(f)
			attests(t, f.lab(), p, c.exportable, c.reason, c.evidence...)
		})
	}
}

func TestAWSDecrypt(t *testing.T) {
	t.Parallel()
	f := &fakeAWS{fake: newFake(t, pki.NewKey(pki.P256), pki.P256)}
	decrypts(t, f.fake, KEK{URI: "aws-kms://" + awsKEKForTests}, f.lab().client, "kms:Decrypt on the key",
		map[mode]remote.Kind{wrongNumber: remote.WrongKey})
}

// A key can be opened before it has a certificate, to request one.
func TestAWSWithoutChain(t *testing.T) {
	t.Parallel()
	own := pki.NewKey(pki.P384)
	l := awsLab(t, newFake(t, own, pki.P384))
	l.settings.Chain = "none.pem"
	key, err := l.open(t)
	if err != nil {
		t.Fatal(err)
	}
	if !equal(key.Signer.Public(), own.Public()) {
		t.Error("another key")
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "issuing"}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	if csr, err := x509.ParseCertificateRequest(der); err != nil || csr.CheckSignature() != nil {
		t.Errorf("%v", err)
	}
}

// Without a region there is no endpoint; the ARN of a key has the region.
func TestAWSRegion(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	p := pki.New(pki.Options{})
	s := Settings{Key: "awskms:///alias/ca", Chain: chainFile(t, p)}
	if _, err := s.Open(t.Context(), signer.Options{}); err == nil ||
		!strings.Contains(err.Error(), "set the environment variable AWS_REGION") {
		t.Errorf("%v", err)
	}
	called := false
	s.Key = "awskms:///" + awsARN
	if _, err := s.open(t.Context(), signer.Options{}, awsClient{
		http: inMemory{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			called = r.URL.Host == "kms.eu-west-1.amazonaws.com"
			w.WriteHeader(http.StatusBadRequest)
		})},
		credentials: aws.AnonymousCredentials{},
	}); err == nil || !called {
		t.Errorf("%v, the region of the ARN is used: %t", err, called)
	}
}

// The error codes of AWS are mapped to the kinds of the guard.
func TestAWSErrors(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]remote.Kind{
		"AccessDeniedException": remote.Denied, "ExpiredTokenException": remote.Denied,
		"UnrecognizedClientException": remote.Denied, "ThrottlingException": remote.Throttled,
		"KMSInternalException": remote.Unavailable, "DependencyTimeoutException": remote.Unavailable,
		"NotFoundException": remote.Failed, "DisabledException": remote.Failed,
		"KMSInvalidStateException": remote.Failed,
		"InvalidKeyUsageException": remote.Failed, "ValidationException": remote.Failed,
	} {
		p := pki.New(pki.Options{})
		s := Settings{Key: "awskms:///alias/ca", Chain: chainFile(t, p), Limits: remote.Limits{Attempts: 1}}
		client := awsClient{credentials: aws.AnonymousCredentials{}, region: "eu-west-1", http: inMemory{
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusBadRequest)
				_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": "m"})
			}),
		}}
		guard := remote.New(remote.Options{Key: s.Key, Limits: s.Limits})
		_, err := openAWS(t.Context(), opening{settings: &s, rest: "/alias/ca", guard: guard, client: client})
		if kindOf(err) != want {
			t.Errorf("%s: %v", code, err)
		}
	}
}
