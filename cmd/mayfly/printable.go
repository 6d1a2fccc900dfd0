package main

import escape "github.com/mayfly-ca/mayfly/internal/printable"

// printable is a text from outside (a server, a certificate, a bundle, a journal, a file) as a terminal may show it, on one line.
func printable(s string) string { return escape.Escape(s) }
