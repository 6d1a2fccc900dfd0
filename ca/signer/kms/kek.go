package kms

import (
	"context"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/ca/signer/remote"
	"github.com/mayfly-ca/mayfly/fault"
)

// KEK names a key-encryption key: a symmetric key of a key management service that decrypts the CA key.
type KEK struct {
	// URI is aws-kms://ARN or gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K, as Tink writes them, or
	// hashivault://KEY or openbao://KEY.
	URI string
	// Limits are the bounds on the calls of the service.
	Limits remote.Limits
	// Vault says how HashiCorp Vault or OpenBao is reached; see [Settings].
	Vault *Vault
}

// The paths of errors about the fields of a [KEK].
const (
	kekPath   = "kek"
	vaultPath = "vault"
)

// opDecrypt is the operation of the guard that decrypts.
const opDecrypt = "decrypt"

func findKEK(uri string) (p provider, rest string, err error) {
	return among(uri, kekPath, func(p provider) []string { return p.kekSchemes })
}

// Check finds what is wrong without a call. Its errors are [fault.Setting] values with a path that begins with kek,
// limits or vault.
func (k KEK) Check() error {
	errs := []error{fault.Under(k.Limits.Check(), "limits"), fault.Under(k.Vault.check(), vaultPath)}
	p, rest, err := findKEK(k.URI)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if err := p.checkKEK(rest); err != nil {
		errs = append(errs, fault.BadSetting(err.Error(), "", kekPath))
	}
	switch {
	case k.Vault != nil && p.name != vaultName:
		errs = append(errs, fault.BadSetting("vault is set, but the key is in "+p.name,
			"remove one of them", vaultPath))
	case k.Vault != nil && k.Vault.Version != 0:
		errs = append(errs, fault.BadSetting("a version is set, but the ciphertext names the version that encrypted it",
			"remove the version", vaultPath, "version"))
	}
	return errors.Join(errs...)
}

// Decrypt decrypts a ciphertext without associated data in the service. The returned guard has the metrics of the
// calls; it is nil if no call was made. The errors are like those of [KEK.Check], with the operation, the key and the
// missing permission.
func (k KEK) Decrypt(ctx context.Context, ciphertext []byte) (plaintext []byte, guard *remote.Guard, err error) {
	return k.decrypt(ctx, ciphertext, nil)
}

func (k KEK) decrypt(ctx context.Context, ciphertext []byte, client any) ([]byte, *remote.Guard, error) {
	p, rest, err := findKEK(k.URI)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	guard := remote.New(remote.Options{Key: k.URI, Limits: k.Limits})
	settings := &Settings{Key: k.URI, Limits: k.Limits, Vault: k.Vault}
	plaintext, err := p.decrypt(ctx, opening{
		settings: settings, rest: rest, guard: guard, client: client, warn: func(string, string) {},
	}, ciphertext)
	if s, ok := errors.AsType[*fault.Setting](err); ok && len(s.Path) == 1 && s.Path[0] == "key" {
		err = fault.BadSetting(s.Problem, s.Fix, kekPath)
	}
	return plaintext, guard, placed(err, kekPath)
}

// otherKEK returns the error of a service that decrypted with another key than the requested one.
func otherKEK(got, want string) *remote.Error {
	return &remote.Error{
		Kind: remote.WrongKey,
		Err:  fmt.Errorf("the service decrypted with %.200q, not with %q", got, want),
	}
}
