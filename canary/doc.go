// Package canary issues one precertificate of the CA's own at intervals, to test the whole path of a request and
// everything that the path depends on before a user needs it.
//
// A run makes a token with a key that exists only during the run, and then does what a request does, with the same
// code: the token is verified and mapped to an identity, the possession of a key is proved, the precertificate is
// built, linted, journalled, signed and submitted to the logs, and the SCTs are verified. There the run ends. A run
// MUST NOT be able to make a certificate: [ca.Authority.Canary] has no access to the second signature.
//
// The issuer of the token is [oidc.ReservedIssuer], which no issuer file can name, so that no token from outside is
// accepted for it. Runs never overlap, each takes at most 20 seconds, and none takes the place of a client's request.
package canary
