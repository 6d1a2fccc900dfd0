// Package e2e holds the end-to-end tests: released clients and real logs against the mayfly binary of this tree.
//
// The tests drive programs only. They import nothing of mayfly, and what they check of a certificate they check with
// code that was written from the specifications (internal/lab).
package e2e
