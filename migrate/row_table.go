package migrate

// The first cells of rows in docs/compatibility.md, which a test compares with that page.
const (
	rowUnavailable   = "a provider, a log or the signer fails"
	rowReason        = "why a request was refused"
	rowKeyID         = "subject key identifier in the certificate"
	rowNotBefore     = "NotBefore"
	rowSCT           = "SCT"
	rowConfiguration = "configuration"
	rowReload        = "change of the configuration"
	rowTokens        = "tokens"
	rowSizes         = "sizes"
	rowHealth        = "health"
	rowTink          = "Tink keysets (`--ca=tinkca`)"
	rowGoogle        = "Google CA Service issues the certificates (`--ca=googleca`)"
	rowPassword      = "the password of the CA's key"
	rowHSM           = "a key in a hardware security module (`--ca=pkcs11ca`)"
	rowKMS           = "calls of a key management service"
	rowListeners     = "listeners"
	rowTLS           = "TLS of the listeners"
	rowLegacy        = "the older API over gRPC"
	rowMetrics       = "metrics"
	rowLog           = "the log of the process"
	rowIdle          = "idle connections"
)

// Rows are the rows that reports can name.
func Rows() []string {
	return []string{
		rowUnavailable, rowReason, rowKeyID, rowNotBefore, rowSCT, rowConfiguration, rowReload, rowTokens, rowSizes,
		rowHealth, rowTink, rowGoogle, rowPassword, rowHSM, rowKMS, rowListeners, rowTLS, rowLegacy, rowMetrics, rowLog,
		rowIdle,
	}
}

// always are the differences that do not depend on the settings.
func always() []Difference {
	return []Difference{
		{"clients", "a refused request has the same code and text, and a typed reason beside them", rowReason},
		{
			"clients", "when a provider, a log or the key fails, the answer is 503 with Retry-After, not 400 or 500",
			rowUnavailable,
		},
		{"clients", "a request may have 64 KiB, a token 16 KiB", rowSizes},
		{"clients", "tokens are checked more strictly; compat: fulcio on an issuer turns this off", rowTokens},
		{"clients", "certificates have a subject key identifier", rowKeyID},
		{"clients", "certificates begin to be valid 30 seconds earlier", rowNotBefore},
		{"operation", "files with unknown settings are refused, with file, line and column", rowConfiguration},
		{"operation", "a changed configuration is read without a restart", rowReload},
		{
			"operation", "/healthz answers as Fulcio's does; /readyz on the admin listener shows the actual state",
			rowHealth,
		},
		{
			"metrics", "mayfly has its own metrics; those of Fulcio are served, too (listen.fulcio_metrics)",
			rowMetrics,
		},
	}
}
