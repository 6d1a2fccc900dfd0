package migrate

import "time"

// kind is the type of a flag, as Fulcio reads it.
type kind int

const (
	text kind = iota
	boolean
	unsigned
	duration
	list
)

// Flag is one flag of "fulcio serve" v1.8.8.
type Flag struct {
	Name    string
	kind    kind
	Default string
	// Setting is the setting of mayfly.yaml; "" if there is none.
	Setting string
	// Note says what else the reader of the table must know.
	Note string
}

// Flags are the flags of "fulcio serve", in the order of their names. docs/migrating.md has them as a table.
func Flags() []Flag {
	return []Flag{
		{
			"aws-hsm-root-ca-path", text, "", "`ca.pkcs11.chain`",
			"the file must have the whole chain; Fulcio reads its first certificate",
		},
		{"ca", text, "", "`ca`", "the block below `ca` is the key backend"},
		{
			"client-signing-algorithms", list, "", "`client_algorithms`",
			"the same names; written only if the flag is set, as the defaults are equal",
		},
		{"config", text, "", "", "the settings file is read, and its settings are translated as if they were flags"},
		{
			"config-path", text, "/etc/fulcio-config/config.yaml", "`identity.file`",
			"the file is used unchanged; without the default file, `config.json` beside it",
		},
		{"ct-log-origin", text, "", "`ct.logs[].host`", "the Host header of requests to the log"},
		{
			"ct-log-public-key-path", text, "", "`ct.logs[].public_key`",
			"required: mayfly verifies every SCT",
		},
		{
			"ct-log-url", text, "http://localhost:6962/test", "`ct.logs[].url`",
			"if it is empty: `ct.none`; http to another host needs `insecure: true`",
		},
		{"ct-log.tls-ca-cert", text, "", "`ct.logs[].ca_cert`", ""},
		{"fileca-cert", text, "", "`ca.file.chain`", ""},
		{"fileca-key", text, "", "`ca.file.key`", ""},
		{
			"fileca-key-passwd", text, "", "`ca.file.password`",
			"the password is written to a file of its own, or stays in its Secret",
		},
		{"fileca-watch", boolean, "true", "", "mayfly always watches key and chain"},
		{
			"gcp-kms-retries", unsigned, "0", "`ca.kms.limits.attempts`",
			"1 to 10; only written if the flag is set",
		},
		{
			"gcp-kms-timeout", unsigned, "0", "`ca.kms.limits.timeout`",
			"Fulcio's is of one attempt, and mayfly's of all of them: twice the value, at most `10s`",
		},
		{
			"gcp_private_ca_parent", text, "", "",
			"cannot be carried over; docs/compatibility.md says what to do instead",
		},
		{"grpc-host", text, "0.0.0.0", "`listen.grpc`", ""},
		{"grpc-port", text, "8081", "`listen.grpc`", ""},
		{
			"grpc-tls-certificate", text, "", "`listen.tls.certificate`",
			"also applies to REST; Fulcio ignores it if REST and gRPC share one port",
		},
		{"grpc-tls-key", text, "", "`listen.tls.key`", "the same"},
		{"help", boolean, "false", "", "shows the help of Fulcio, and nothing else"},
		{"host", text, "0.0.0.0", "`listen.http`", "also under the name `--http-host`"},
		{
			"hsm-caroot-id", text, "", "`ca.pkcs11.chain`",
			"export the certificate from the token into a file (docs/keys-hsm.md)",
		},
		{"hsm-key-label", text, "PKCS11CA", "`ca.pkcs11.key`", "and `--key` of mayfly-hsm"},
		{"idle-connection-timeout", duration, "30s", "", "mayfly closes idle connections by its own limits"},
		{"kms-cert-chain-path", text, "", "`ca.kms.chain`", ""},
		{"kms-resource", text, "", "`ca.kms.key`", "the same URI"},
		{
			"legacy-unix-domain-socket", text, "@fulcio-legacy-grpc-socket", "",
			"mayfly serves the older API over REST only",
		},
		{"log_type", text, "dev", "", "`prod`: start mayfly with `--log-format json`"},
		{"metrics-port", text, "2112", "`listen.admin`", "with `listen.fulcio_metrics`, so that dashboards continue"},
		{
			"pkcs11-config-path", text, "config/crypto11.conf", "`ca.pkcs11.command`",
			"mayfly-hsm reads the same file: `--crypto11-config`",
		},
		{"port", text, "8080", "`listen.http`", "also under the name `--http-port`"},
		{"read-header-timeout", duration, (10 * time.Second).String(), "", "mayfly allows ten seconds, too"},
		{"tink-cert-chain-path", text, "", "`ca.tink.chain`", ""},
		{"tink-keyset-path", text, "", "`ca.tink.key`", ""},
		{"tink-kms-resource", text, "", "`ca.tink.kek`", "the same URI"},
	}
}
