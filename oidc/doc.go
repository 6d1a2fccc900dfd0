// Package oidc turns an ID token into an identity: issuers, discovery, keys, verification, claim mapping.
//
// A token names its issuer; exactly one row of the configuration applies to it, an exact one before a pattern. Keys come from
// that issuer alone, through a cache that a flood of bad tokens cannot make fetch. An identity MUST come from claims whose
// signature was verified; values MUST enter it unchanged.
//
// [Verifier.Identify] returns [fault.Error] values: what is wrong with a token is the caller's fault, a provider that does
// not answer is not. A token MUST NOT reach a log or an error.
package oidc
