//go:build !nokms_aws

package kms

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
)

func awsKMS() provider {
	return provider{
		name: "AWS KMS", tag: "nokms_aws", schemes: []string{"awskms://"}, check: checkAWS, open: openAWS,
		kekSchemes: []string{"aws-kms://"}, checkKEK: checkAWSKEK, decrypt: decryptAWS,
	}
}

// awsURI is ENDPOINT/KEY: the endpoint may be empty, the key is an id, an alias, or the ARN of one.
var awsURI = regexp.MustCompile(
	`^([^/\s]*)/((?:arn:aws[a-z-]*:kms:([a-z0-9-]+):\d{12}:)?(?:key/)?(?:alias/[\w/:-]+|(?:mrk-)?[0-9A-Fa-f-]{32,36}))$`)

func checkAWS(rest string) error {
	if !awsURI.MatchString(rest) {
		return errors.New("is not awskms://[ENDPOINT]/KEY, where KEY is the id of a key, alias/NAME or the ARN of " +
			"either; without an endpoint it has three slashes, as in awskms:///alias/ca")
	}
	return nil
}

// awsKEK matches the ARN of a key or alias, as Tink writes it.
var awsKEK = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]+):\d{12}:(key/[\w-]+|alias/[\w/:-]+)$`)

func checkAWSKEK(rest string) error {
	if !awsKEK.MatchString(rest) {
		return errors.New("is not aws-kms://ARN, where ARN is that of a key or of an alias, such as " +
			"arn:aws:kms:eu-west-1:111122223333:alias/kek")
	}
	return nil
}

// awsAlgorithms are the names of the schemes at AWS (API reference of Sign, SigningAlgorithm).
var awsAlgorithms = map[scheme]types.SigningAlgorithmSpec{
	ecdsa256: types.SigningAlgorithmSpecEcdsaSha256,
	ecdsa384: types.SigningAlgorithmSpecEcdsaSha384,
	ecdsa512: types.SigningAlgorithmSpecEcdsaSha512,
	pkcs256:  types.SigningAlgorithmSpecRsassaPkcs1V15Sha256,
	pkcs384:  types.SigningAlgorithmSpecRsassaPkcs1V15Sha384,
	pkcs512:  types.SigningAlgorithmSpecRsassaPkcs1V15Sha512,
	pss256:   types.SigningAlgorithmSpecRsassaPssSha256,
	pss384:   types.SigningAlgorithmSpecRsassaPssSha384,
	pss512:   types.SigningAlgorithmSpecRsassaPssSha512,
	edwards:  types.SigningAlgorithmSpecEd25519Sha512,
	mldsa44:  types.SigningAlgorithmSpecMlDsaShake256,
	mldsa65:  types.SigningAlgorithmSpecMlDsaShake256,
	mldsa87:  types.SigningAlgorithmSpecMlDsaShake256,
}

// awsClient is the client that tests set.
type awsClient struct {
	http        aws.HTTPClient
	credentials aws.CredentialsProvider
	region      string
}

// awsKey signs with a key of AWS KMS.
type awsKey struct {
	client *kms.Client
	id     string // as the operator wrote it: a policy may allow only the alias
	arn    string // of the key that was opened
	public crypto.PublicKey
}

// openAWS implements provider.open. It needs kms:GetPublicKey.
func openAWS(ctx context.Context, o opening) (*opened, error) {
	parts := awsURI.FindStringSubmatch(o.rest)
	client, err := newAWS(ctx, o, parts[1], parts[3])
	if err != nil {
		return nil, err
	}
	k := &awsKey{client: client, id: parts[2]}
	return &opened{raw: k, attest: k.attest}, o.guard.Do(ctx, "public_key", k.read)
}

// newAWS returns a client for an endpoint, or for the endpoint of a region. Both may be empty.
func newAWS(ctx context.Context, o opening, endpoint, region string) (*kms.Client, error) {
	pool := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost, t.MaxIdleConns = o.guard.Concurrent(), 0
		t.IdleConnTimeout = 5 * time.Minute
	})
	options := []func(*config.LoadOptions) error{
		config.WithHTTPClient(pool), // an HTTP client that reads AWS_CA_BUNDLE
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithAppID("mayfly"),
	}
	if region != "" { // the ARN of a key has its region
		options = append(options, config.WithRegion(region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("the configuration of AWS: %w", err)
	}
	if with, ok := o.client.(awsClient); ok {
		cfg.HTTPClient, cfg.Credentials, cfg.Region = with.http, with.credentials, cmp.Or(cfg.Region, with.region)
	}
	if cfg.Region == "" {
		return nil, fault.BadSetting("the region of the key is not known",
			"set the environment variable AWS_REGION, or write the ARN of the key", "key")
	}
	cfg.HTTPClient = limited{cfg.HTTPClient}
	if endpoint != "" {
		cfg.BaseEndpoint = aws.String("https://" + endpoint)
	}
	return kms.NewFromConfig(cfg), nil
}

// decryptAWS implements provider.decrypt. It needs kms:Decrypt. Tink encrypts a keyset with KMS directly, without an
// encryption context.
func decryptAWS(ctx context.Context, o opening, ciphertext []byte) ([]byte, error) {
	parts := awsKEK.FindStringSubmatch(o.rest)
	client, err := newAWS(ctx, o, "", parts[1])
	if err != nil {
		return nil, err
	}
	return o.guard.Get(ctx, opDecrypt, func(ctx context.Context) ([]byte, error) {
		answer, err := client.Decrypt(ctx, &kms.DecryptInput{KeyId: &o.rest, CiphertextBlob: ciphertext})
		switch {
		case err != nil:
			return nil, awsError(err, "kms:Decrypt")
		case strings.HasPrefix(parts[2], "key/") && aws.ToString(answer.KeyId) != o.rest:
			return nil, otherKEK(aws.ToString(answer.KeyId), o.rest)
		}
		return answer.Plaintext, nil
	})
}

// attest asks where the key material came from. It needs kms:DescribeKey.
func (k *awsKey) attest(ctx context.Context) (a signer.Attestation, err error) {
	answer, err := k.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &k.id})
	switch {
	case err != nil:
		return a, awsError(err, "kms:DescribeKey")
	case answer.KeyMetadata == nil || aws.ToString(answer.KeyMetadata.Arn) != k.arn:
		return a, unavailable(errors.New("the response is for a different key than the request"))
	}
	origin := answer.KeyMetadata.Origin
	a.Evidence = map[string]string{
		"Arn": k.arn, "Origin": string(origin),
		"MultiRegion": strconv.FormatBool(aws.ToBool(answer.KeyMetadata.MultiRegion)),
	}
	a.Exportable, a.Reason = signer.ExportUnknown, fmt.Sprintf("%sOrigin=%.40s", reported, origin)
	switch origin {
	case types.OriginTypeAwsKms, types.OriginTypeAwsCloudhsm:
		a.Exportable = signer.ExportNo
		a.Reason += "; AWS made the key, and no call of AWS KMS returns a private key"
	case types.OriginTypeExternal:
		a.Reason += "; the key was imported, and AWS does not know whether there is another copy"
	default:
		a.Reason += "; ask the operator of this key store"
	}
	return a, nil
}

// read reads the public key and pins the ARN.
func (k *awsKey) read(ctx context.Context) error {
	answer, err := k.client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &k.id})
	if err != nil {
		return awsError(err, "kms:GetPublicKey")
	}
	if answer.KeyUsage != types.KeyUsageTypeSignVerify {
		return fmt.Errorf("the usage of the key is %s, not SIGN_VERIFY: create a key with the usage SIGN_VERIFY",
			answer.KeyUsage)
	}
	if k.public, err = x509.ParsePKIXPublicKey(answer.PublicKey); err != nil {
		return unavailable(fmt.Errorf("parse the public key: %w", err))
	}
	algorithm, err := fits(k.public, awsAlgorithms)
	if err == nil && !slices.Contains(answer.SigningAlgorithms, algorithm) {
		err = fmt.Errorf("the key cannot sign with %s, only with %v", algorithm, answer.SigningAlgorithms)
	}
	k.arn = aws.ToString(answer.KeyId)
	return err
}

// Public implements [remote.Raw].
func (k *awsKey) Public() crypto.PublicKey { return k.public }

// Sign implements [remote.Raw]. It needs kms:Sign.
func (k *awsKey) Sign(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	want := schemeOf(k.public, opts)
	algorithm, ok := awsAlgorithms[want]
	if !ok {
		return nil, notThere(want)
	}
	form := types.MessageTypeDigest
	if opts.HashFunc() == 0 {
		form = types.MessageTypeRaw
	}
	answer, err := k.client.Sign(ctx, &kms.SignInput{
		KeyId: &k.id, Message: digest, MessageType: form, SigningAlgorithm: algorithm,
	})
	switch {
	case err != nil:
		return nil, awsError(err, "kms:Sign")
	case aws.ToString(answer.KeyId) != k.arn:
		return nil, wrongVersion(aws.ToString(answer.KeyId), k.arn)
	case answer.SigningAlgorithm != algorithm:
		return nil, wrongVersion(string(answer.SigningAlgorithm), string(algorithm))
	}
	return answer.Signature, nil
}

// awsError classifies an error (API reference, Common Errors and the errors of Sign and GetPublicKey).
func awsError(err error, permission string) error {
	e := unavailable(err)
	var api smithy.APIError
	if !errors.As(err, &api) { // no answer
		return e
	}
	e.Err = fmt.Errorf("%s: %s", api.ErrorCode(), api.ErrorMessage())
	switch api.ErrorCode() {
	case "AccessDeniedException", "AccessDenied":
		e.Kind, e.Permission = remote.Denied,
			permission+" on the key, in the IAM policy of the caller or in the key policy"
	case "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException", "ExpiredToken",
		"InvalidClientTokenId", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "NotAuthorized",
		"IncompleteSignature", "IncompleteSignatureException", "SignatureDoesNotMatch", "OptInRequired":
		e.Kind = remote.Denied
	case "ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded",
		"LimitExceededException":
		e.Kind = remote.Throttled
	case "KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException", "ServiceUnavailable",
		"ServiceUnavailableException", "InternalFailure", "InternalServerError", "InternalServiceError",
		"CustomKeyStoreInvalidStateException", "CloudHsmClusterNotActiveException", "XksProxyUriUnreachableException":
	default:
		var answer *awshttp.ResponseError
		if !errors.As(err, &answer) || answer.HTTPStatusCode() < http.StatusInternalServerError {
			e.Kind = remote.Failed
		}
	}
	return e
}
