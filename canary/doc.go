// Package canary issues one precertificate of the CA's own at intervals: the whole path of a request, with everything
// that the path depends on, before a user needs it.
//
// A run makes a token with a key that exists only during the run, and then does what a request does, with the same
// code: the token is verified and mapped to an identity, the possession of a key is proved, the precertificate is
// built, linted, journalled, signed and submitted to the logs, and the SCTs are verified. There the run ends. A run
// MUST NOT be able to make a certificate: [ca.Authority.Canary] has no access to the second signature.
//
// The issuer of the token is [oidc.ReservedIssuer], which no issuer file can name, so that no token from outside is
// accepted for it. Runs follow one another, each takes 20 seconds at the most, and none takes a place of a client's
// request.
package canary
