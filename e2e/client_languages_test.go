//go:build all

package e2e_test

import (
	"crypto/x509"
	"encoding/json"
	"os"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

func sigstoreJS(w *environment) {
	w.start(environmentOptions{})
	dir := w.Project("clients/js", "npm", "install", "--no-audit", "--no-fund", "--no-package-lock")
	node := func(script string, args ...string) lab.Command {
		return lab.Command{Name: "node", Args: append([]string{dir + "/" + script}, args...)}
	}
	b := newBlob(w.Lab, "blob")
	token := w.Write("token", w.oidc.Email("alice@example.com"))
	w.Run(node("sign.mjs", w.trust.SigningConfig, token, b.file, b.bundle))
	w.Run(node("verify.mjs", w.trust.TrustedRoot, b.bundle, b.file, "alice@example.com", w.oidc.URL))
	w.RunFails(node("verify.mjs", w.trust.TrustedRoot, b.bundle, b.file, "bob@example.com", w.oidc.URL),
		"certificate identity")
	w.Run(w.cosignVerify(b, "alice@example.com"))
	w.checkBundle(w.Lab, b)
	w.proven("blob, also verified by cosign")

	// Rekor v2.3.0 refuses the DSSE entries of this client, so an attestation has a timestamp and no entry.
	statement := w.Write("statement.json",
		`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"pkg:npm/example@1.0.0","digest":{"sha512":"00"}}],`+
			`"predicateType":"https://slsa.dev/provenance/v1","predicate":{"buildDefinition":{"buildType":"https://slsa-framework.github.io/github-actions-buildtypes/workflow/v1"}}}`)
	w.Run(node("sign.mjs", w.withoutRekor(), token, statement, w.Path("provenance.json"),
		"application/vnd.in-toto+json"))
	w.Run(node("verify.mjs", w.trust.TrustedRoot, w.Path("provenance.json"), "-", "alice@example.com", w.oidc.URL, "0"))
	w.RunFails(node("verify.mjs", w.trust.TrustedRoot, w.Path("provenance.json"), "-", "bob@example.com", w.oidc.URL,
		"0"), "certificate identity")
	w.proven("npm provenance bundle (timestamp, no Rekor entry)")
}

// withoutRekor is the signing configuration without a log of signatures.
func (w *environment) withoutRekor() string {
	w.Helper()
	var c map[string]any
	if err := json.Unmarshal([]byte(w.Read(w.trust.SigningConfig)), &c); err != nil {
		w.Fatal(err)
	}
	delete(c, "rekorTlogUrls")
	delete(c, "rekorTlogConfig")
	data, err := json.Marshal(c)
	if err != nil {
		w.Fatal(err)
	}
	return w.Write("signing_config_without_rekor.json", string(data))
}

// trustConfig combines trusted root and signing configuration in one file, as some clients require.
func (w *environment) trustConfig() string {
	w.Helper()
	data, err := json.Marshal(map[string]any{
		"mediaType":     "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
		"trustedRoot":   json.RawMessage(w.Read(w.trust.TrustedRoot)),
		"signingConfig": json.RawMessage(w.Read(w.trust.SigningConfig)),
	})
	if err != nil {
		w.Fatal(err)
	}
	return w.Write("trust_config.json", string(data))
}

func sigstorePython(w *environment) {
	w.start(environmentOptions{})
	dir := w.Project("clients/python", "sh", "-c",
		"python3 -m venv venv && venv/bin/pip install --quiet --requirement requirements.txt")
	trust := w.trustConfig()
	run := func(args ...string) lab.Command {
		return lab.Command{Name: dir + "/venv/bin/sigstore", Args: append([]string{"--trust-config", trust}, args...)}
	}
	b := newBlob(w.Lab, "example-1.0.0.tar.gz")
	verify := func(identity string) lab.Command {
		return run("verify", "identity", "--bundle", b.bundle, "--cert-identity", identity, "--cert-oidc-issuer",
			w.oidc.URL, b.file)
	}
	w.Run(run("sign", "--identity-token", w.oidc.Email("alice@example.com"), "--bundle", b.bundle, b.file))
	w.Run(verify("alice@example.com"))
	w.RunFails(verify("bob@example.com"), "")
	w.Run(w.cosignVerify(b, "alice@example.com"))
	w.checkBundle(w.Lab, b)
	w.proven("a distribution, also verified by cosign")
}

func sigstoreJava(w *environment) {
	w.start(environmentOptions{onePort: true})
	// This client connects with gRPC over TLS to the host and port of the CA's URL. It needs one port for both
	// protocols, behind a TLS proxy.
	front, certificate := w.TLS(w.ca.URL)
	w.trust = w.Trust(lab.TrustOptions{
		Name: "trust-java", CA: front, ChainFile: w.pki.ChainFile, OIDC: w.oidc.URL,
		Log: w.log, Services: w.services,
	})
	store := w.Path("store.p12")
	w.Run(lab.Command{Name: "keytool", Args: []string{
		"-importcert", "-noprompt", "-alias", "front", "-file", w.Write("front.pem", certificate), "-keystore", store,
		"-storetype", "PKCS12", "-storepass", "changeit",
	}})
	dir := w.Project("clients/java", "mvn", "-q", "-B", "package", "dependency:copy-dependencies")
	java := func(args ...string) lab.Command {
		return lab.Command{Name: "java", Args: append([]string{
			"-Djavax.net.ssl.trustStore=" + store,
			"-Djavax.net.ssl.trustStorePassword=changeit", "-cp",
			dir + "/target/classes:" + dir + "/target/dependency/*", "Client",
		}, args...)}
	}
	// This client cannot write a bundle of a log's first entry (number 0, no hashes), so that another entry is made
	// first.
	first := w.cosignSign(newBlob(w.Lab, "first"), "--identity-token", w.oidc.Email("alice@example.com"))
	first.Env = []string{"SSL_CERT_FILE=" + w.Path("front.pem")}
	w.Run(first)
	b := newBlob(w.Lab, "example-1.0.0.jar")
	// Given a token as text, this client signs the subject as its challenge, so that the subject must be the address.
	token := w.Write("token", w.oidc.Token(map[string]any{
		"sub": "alice@example.com", "email": "alice@example.com",
		"email_verified": true,
	}))
	w.Run(java("sign", w.trust.TrustedRoot, w.trust.SigningConfig, token, b.file, b.bundle))
	w.Run(java("verify", w.trust.TrustedRoot, b.file, b.bundle, "alice@example.com", w.oidc.URL))
	w.RunFails(java("verify", w.trust.TrustedRoot, b.file, b.bundle, "bob@example.com", w.oidc.URL), "")
	w.Run(w.cosignVerify(b, "alice@example.com"))
	w.checkBundle(w.Lab, b)
	w.proven("a Maven artifact over gRPC with TLS in front, also verified by cosign")
}

func sigstoreRust(w *environment) {
	w.start(environmentOptions{})
	dir := w.Project("clients/rust", "cargo", "build", "--quiet")
	program := dir + "/target/debug/mayfly-e2e"
	if _, err := os.Stat(program); err != nil {
		w.Fatal(err)
	}
	request := func(challenge string) []*x509.Certificate {
		token := w.Write("token", w.oidc.Email("alice@example.com"))
		w.Run(lab.Command{Name: program, Args: []string{w.ca.URL, token, challenge, w.Path("rust.pem")}})
		return w.Certificates(w.Read(w.Path("rust.pem")))
	}
	chain := request("alice@example.com")
	if len(chain) != 3 || len(chain[0].EmailAddresses) != 1 || chain[0].EmailAddresses[0] != "alice@example.com" {
		w.Fatalf("%d certificates", len(chain))
	}
	w.CheckLogged(w.log, lab.Issued{Leaf: chain[0], Issuer: chain[1]})
	w.proven("a certificate over the v1 API, logged (its bundles need Rekor v1 and are not tried)")
}
