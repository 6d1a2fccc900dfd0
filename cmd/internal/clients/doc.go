// Package clients has the commands of those who sign and verify: request, inspect, verify and version. Program mayfly
// has them beside the commands of the CA; program mayfly-client has no others, and therefore builds for Windows, too.
//
// A command writes a certificate or says that a bundle verifies only after the check. Tokens and private keys are
// neither printed nor logged.
package clients
