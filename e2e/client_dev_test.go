//go:build all

package e2e_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// The tests below sign and verify with "mayfly dev" alone: the files are used as it writes them, and no verification is
// turned off. Each bundle is verified by its own client, by cosign and by sigstore-go, and is refused for another
// identity.

const alice, bob = "alice@example.com", "bob@example.com"

// startDev starts the development CA, with TLS if tls is true.
func (w *environment) startDev(tls bool) {
	w.Helper()
	if w.dev = w.devIn(tls); tls {
		w.tlsCA = []string{"SSL_CERT_FILE=" + w.dev.Dir + "/keys/tls/certificate.pem"}
	}
	w.banner = waitForBanner(w.Lab, w.dev)
	w.signer = signer{lab: w.Lab, issuer: w.dev.Issuer, trust: lab.Trust{
		TrustedRoot: w.dev.Dir + "/trusted_root.json", SigningConfig: w.dev.Dir + "/signing_config.json",
	}}
}

func (w *environment) devIn(tls bool) *lab.Mayfly {
	w.Helper()
	if tls {
		return w.DevTLS(w.Path("dev"))
	}
	return w.Dev(w.Path("dev"))
}

// printed runs the line that the banner has for a client, in the folder dir, with the programs in further folders.
// change replaces words of the line that stand for a download.
func (w *environment) printed(client, dir string, programs []string, change ...string) {
	w.Helper()
	w.Write("hello.txt", "hello\n")
	line := strings.NewReplacer(change...).Replace(printedLine(w, w.banner, client))
	w.Run(lab.Command{
		Name: "sh", Dir: dir, Args: []string{
			"-euc",
			"PATH=" + strings.Join(append(programs, "$PATH"), ":") + "\n" + line,
		},
		Env: []string{"TOKEN=" + w.dev.Token(w.Lab, alice)},
	})
}

// trustConfig is the file with trusted root and signing configuration that "mayfly dev" writes.
func (w *environment) trustConfig() string { return w.dev.Dir + "/trust_config.json" }

// rootJSON is the file from which clients trust the TUF repository of the development CA.
func (w *environment) rootJSON() string { return w.dev.Dir + "/tuf/repository/1.root.json" }

// token writes a token of the development provider for alice to a file.
func (w *environment) token() string {
	w.Helper()
	return w.Write("token", w.dev.Token(w.Lab, alice))
}

// secondClients verifies a bundle of another client with cosign and sigstore-go, which refuse another identity.
func (w *environment) secondClients(b blob) {
	w.Helper()
	w.Run(w.cosignVerify(b, alice))
	w.RunFails(w.cosignVerify(b, bob), "")
	w.Run(w.conformanceVerify(b, alice))
	w.RunFails(w.conformanceVerify(b, bob), "")
	w.complete(b, 1)
}

// complete proves that a bundle has an entry of the log of signatures, this number of timestamps, and a certificate
// that is in the log of certificates.
func (w *environment) complete(b blob, timestamps int) {
	w.Helper()
	bundle := w.Bundle(b.bundle)
	if bundle.Entries != 1 || bundle.Timestamps != timestamps {
		w.Errorf("%s: %d log entries and %d timestamps, want 1 and %d", b.bundle, bundle.Entries, bundle.Timestamps,
			timestamps)
	}
	chain := w.Certificates(w.Read(w.dev.Dir + "/chain.pem"))
	w.CheckLogged(w.dev.Log(), lab.Issued{Leaf: bundle.Leaf, Issuer: chain[0]})
}

// statement writes an in-toto statement about a file.
func (w *environment) statement(file string) string {
	w.Helper()
	return w.Write("statement.json", fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":`+
		`"example","digest":{"sha256":"%x"}}],"predicateType":"https://slsa.dev/provenance/v1",`+
		`"predicate":{"buildDefinition":{"buildType":"https://example.com/build/v1"}}}`,
		sha256.Sum256([]byte(w.Read(file)))))
}

func devCosign(w *environment) {
	w.startDev(false)
	for _, algorithm := range cosignAlgorithms() {
		b := newBlob(w.Lab, algorithm)
		w.Run(w.cosignSign(b, "--signing-algorithm", algorithm, "--identity-token", w.dev.Token(w.Lab, alice)))
		w.secondClients(b)
	}
	w.proven("blob with each of %d key algorithms, also verified by sigstore-go", len(cosignAlgorithms()))

	ref := w.image(w.registry(), "app:v1")
	own := []string{"--certificate-identity", alice, "--certificate-oidc-issuer", w.dev.Issuer}
	other := []string{"--certificate-identity", bob, "--certificate-oidc-issuer", w.dev.Issuer}
	w.Run(w.cosignImage("sign", ref, "--identity-token", w.dev.Token(w.Lab, alice)))
	w.Run(w.cosignImage("verify", ref, own...))
	w.RunFails(w.cosignImage("verify", ref, other...), "")
	w.proven("container image in a registry")

	predicate := w.Write("predicate.json", `{"builder":{"id":"https://builder.example.com"}}`)
	kind := []string{"--type", "https://example.com/predicate/v1"}
	w.Run(w.cosignImage("attest", ref, append(kind, "--predicate", predicate, "--identity-token",
		w.dev.Token(w.Lab, alice))...))
	w.Run(w.cosignImage("verify-attestation", ref, append(own, kind...)...))
	w.RunFails(w.cosignImage("verify-attestation", ref, append(other, kind...)...), "")
	w.proven("attestation of an image")

	w.printed("cosign, with trust from TUF", "", nil)
	b := blob{file: w.Path("hello.txt"), bundle: w.Path("hello.tuf.json")}
	w.Run(lab.Command{Name: "cosign", Args: []string{
		"verify-blob", "--bundle", b.bundle, "--certificate-identity", alice, "--certificate-oidc-issuer", w.dev.Issuer,
		b.file,
	}})
	w.secondClients(b)
	w.proven("without any file, after `cosign initialize --mirror`")
	w.interactive()
}

func devSigstoreGo(w *environment) {
	w.startDev(false)
	b := newBlob(w.Lab, "blob")
	w.Run(w.conformanceSign(b, w.dev.Token(w.Lab, alice)))
	w.secondClients(b)
	w.proven("blob, also verified by cosign")
}

// javascript installs sigstore-js, and an older version of it in the folder "old", and returns the folder of the
// scripts.
func (w *environment) javascript() string {
	w.Helper()
	return w.Project("clients/js", "sh", "-c", "npm install --no-audit --no-fund --no-package-lock && "+
		"npm install --no-audit --no-fund --no-package-lock --prefix old && cp sign.mjs verify.mjs old/")
}

// devSigstoreJS runs the newest version and the last one for Node.js 20.
func devSigstoreJS(w *environment) {
	w.startDev(false)
	dir := w.javascript()
	versions := []struct{ name, node, dir string }{
		{"5", dir + "/node_modules/.bin/node", dir}, {"4", "node", dir + "/old"},
	}
	artifact := w.Write("artifact.txt", "an artifact\n")
	statement := w.statement(artifact)
	for _, v := range versions {
		node := func(script string, args ...string) lab.Command {
			return lab.Command{Name: v.node, Args: append([]string{v.dir + "/" + script}, args...)}
		}
		verify := func(b blob, artifact, identity string) lab.Command {
			return node("verify.mjs", w.trust.TrustedRoot, b.bundle, artifact, identity, w.dev.Issuer)
		}
		b := newBlob(w.Lab, "blob-"+v.name)
		w.Run(node("sign.mjs", w.trust.SigningConfig, w.token(), b.file, b.bundle))
		w.Run(verify(b, b.file, alice))
		w.RunFails(verify(b, b.file, bob), "certificate identity")
		w.secondClients(b)

		attested := blob{file: artifact, bundle: w.Path("attestation-" + v.name + ".json")}
		w.Run(node("sign.mjs", w.trust.SigningConfig, w.token(), statement, attested.bundle,
			"application/vnd.in-toto+json"))
		if v.name == "5" {
			w.Run(verify(attested, "-", alice))
			w.RunFails(verify(attested, "-", bob), "certificate identity")
		}
		w.attestationByCosign(attested)
		w.complete(attested, 1)
	}
	w.proven("blob and attestation, also verified by cosign and sigstore-go; the same with 4.1.1")
}

// attestationByCosign verifies a bundle with an in-toto statement.
func (w *environment) attestationByCosign(b blob) {
	w.Helper()
	verify := func(identity string) lab.Command {
		return lab.Command{Name: "cosign", Args: []string{
			"verify-blob-attestation", "--trusted-root", w.trust.TrustedRoot, "--bundle", b.bundle,
			"--certificate-identity", identity, "--certificate-oidc-issuer", w.dev.Issuer, "--type", "slsaprovenance1",
			b.file,
		}}
	}
	w.Run(verify(alice))
	w.RunFails(verify(bob), "")
}

// devNPM publishes packages as "npm publish --provenance" does: with the library of the npm CLI, to a registry that
// keeps what it gets. The bundle is verified by the command line program of sigstore-js, with trust from TUF.
func devNPM(w *environment) {
	w.startDev(false)
	dir := w.javascript()
	node := dir + "/node_modules/.bin/node"
	var mu sync.Mutex
	var published []byte
	registry := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPut {
			http.Error(rw, "publish a package", http.StatusBadRequest)
			return
		}
		mu.Lock()
		published = body
		mu.Unlock()
		rw.WriteHeader(http.StatusCreated)
	}))
	w.Cleanup(registry.Close)
	w.Run(lab.Command{
		Name: node,
		Args: []string{
			dir + "/publish.mjs", registry.URL, w.dev.URL, w.dev.URL, w.dev.URL + "/api/v1/timestamp", "example",
		},
		Env: []string{
			"CI=true", "GITLAB_CI=true", "GITHUB_ACTIONS=", "SIGSTORE_ID_TOKEN=" + w.dev.Token(w.Lab, alice),
			"CI_PROJECT_URL=https://gitlab.example.com/group/example", "CI_COMMIT_SHA=" + strings.Repeat("1", 40),
			"CI_JOB_URL=https://gitlab.example.com/group/example/-/jobs/1",
		},
	})
	mu.Lock()
	defer mu.Unlock()
	var document struct {
		Attachments map[string]struct {
			Data string `json:"data"`
		} `json:"_attachments"`
	}
	if err := json.Unmarshal(published, &document); err != nil {
		w.Fatal(err)
	}
	b := blob{bundle: w.Write("provenance.json", document.Attachments["example-1.0.0.sigstore"].Data)}
	tarball, err := base64.StdEncoding.DecodeString(document.Attachments["example-1.0.0.tgz"].Data)
	if err != nil {
		w.Fatal(err)
	}
	b.file = w.Write("example-1.0.0.tgz", string(tarball))
	cli := func(args ...string) lab.Command {
		return lab.Command{Name: node, Args: append([]string{dir + "/node_modules/.bin/sigstore"}, args...)}
	}
	w.Run(cli("initialize", "--mirror", w.dev.URL+"/tuf", "--root", w.rootJSON(), "--cache-path",
		w.Mkdir("tuf-js")))
	verify := func(identity string) lab.Command {
		return cli("verify", "--tuf-mirror-url", w.dev.URL+"/tuf", "--tuf-root-path", w.rootJSON(),
			"--tuf-cache-path", w.Path("tuf-js"), "--certificate-identity-email", identity, "--certificate-issuer",
			w.dev.Issuer, b.bundle)
	}
	w.Run(verify(alice))
	w.RunFails(verify(bob), "")
	w.complete(b, 1)
	w.printed("sigstore-js, with the package that npm uses", "", []string{dir + "/node_modules/.bin"},
		"npm install --no-save sigstore", "export NODE_PATH="+dir+"/node_modules")
	w.secondClients(blob{file: w.Path("hello.txt"), bundle: w.Path("hello.npm.json")})
	w.proven("provenance as of `npm publish --provenance`, verified by @sigstore/cli with trust from TUF")
}

// python installs sigstore-python and what is built on it, and returns the folder of their programs.
func (w *environment) python() string {
	w.Helper()
	return w.Project("clients/python", "sh", "-c",
		"python3 -m venv venv && venv/bin/pip install --quiet --requirement requirements.txt")
}

func devSigstorePython(w *environment) {
	w.startDev(false)
	dir := w.python()
	run := func(args ...string) lab.Command { return lab.Command{Name: dir + "/venv/bin/sigstore", Args: args} }
	files := []string{"--trust-config", w.trustConfig()}
	instance := []string{"--instance", w.dev.URL + "/tuf"}
	w.Run(run("--instance", w.dev.URL+"/tuf", "trust-instance", w.rootJSON()))
	for i, trust := range [][]string{files, instance} {
		b := newBlob(w.Lab, []string{"example-1.0.0.tar.gz", "example-2.0.0.tar.gz"}[i])
		verify := func(identity string) lab.Command {
			return run(append(trust, "verify", "identity", "--bundle", b.bundle, "--cert-identity", identity,
				"--cert-oidc-issuer", w.dev.Issuer, b.file)...)
		}
		w.Run(run(append(trust, "sign", "--identity-token", w.dev.Token(w.Lab, alice), "--bundle", b.bundle,
			b.file)...))
		w.Run(verify(alice))
		w.RunFails(verify(bob), "")
		w.secondClients(b)
	}
	w.printed("sigstore-python 4", "", []string{dir + "/venv/bin"})
	w.secondClients(blob{file: w.Path("hello.txt"), bundle: w.Path("hello.python.json")})
	w.proven("a distribution, also verified by cosign and sigstore-go; the same after `trust-instance`")
}

func devPEP740(w *environment) {
	w.startDev(false)
	dir := w.python()
	run := func(args ...string) lab.Command {
		return lab.Command{Name: dir + "/venv/bin/python", Args: append([]string{dir + "/pep740.py"}, args...)}
	}
	wheel := w.Write("example-1.0.0-py3-none-any.whl", "a wheel\n")
	w.Run(run("sign", w.trustConfig(), w.token(), wheel))
	w.Run(run("verify", w.trustConfig(), wheel, alice, w.dev.Issuer))
	w.RunFails(run("verify", w.trustConfig(), wheel, bob, w.dev.Issuer), "")
	w.Write("example-1.0.0-py3-none-any.whl", "another wheel\n")
	w.RunFails(run("verify", w.trustConfig(), wheel, alice, w.dev.Issuer), "the attestation is for")
	w.proven("PEP 740 attestation of a wheel")
}

func devModelSigning(w *environment) {
	w.startDev(false)
	dir := w.python()
	run := func(args ...string) lab.Command {
		return lab.Command{Name: dir + "/venv/bin/model_signing", Args: args}
	}
	w.Write("model/weights.bin", "weights\n")
	w.Write("model/config.json", "{}\n")
	model, signature := w.Path("model"), w.Path("model.sig")
	verify := func(identity string) lab.Command {
		return run("verify", "sigstore", "--trust_config", w.trustConfig(), "--signature", signature, "--identity",
			identity, "--identity_provider", w.dev.Issuer, model)
	}
	w.Run(run("sign", "sigstore", "--trust_config", w.trustConfig(), "--identity_token", w.dev.Token(w.Lab, alice),
		"--signature", signature, model))
	w.Run(verify(alice))
	w.RunFails(verify(bob), "")
	w.complete(blob{bundle: signature}, 1)
	w.Write("model/weights.bin", "other weights\n")
	w.RunFails(verify(alice), "")
	w.printed("model-signing", model, []string{dir + "/venv/bin"})
	w.proven("a model of two files")
}

// devSigstoreJava needs TLS, with gRPC on the port of REST.
func devSigstoreJava(w *environment) {
	w.startDev(true)
	store := w.Path("store.p12")
	w.Run(lab.Command{Name: "keytool", Args: []string{
		"-importcert", "-noprompt", "-alias", "mayfly", "-file", w.dev.Dir + "/keys/tls/certificate.pem", "-keystore",
		store, "-storetype", "PKCS12", "-storepass", "changeit",
	}})
	dir := w.Project("clients/java", "mvn", "-q", "-B", "package", "dependency:copy-dependencies")
	java := func(args ...string) lab.Command {
		return lab.Command{Name: "java", Args: append([]string{
			"-Djavax.net.ssl.trustStore=" + store, "-Djavax.net.ssl.trustStorePassword=changeit", "-cp",
			dir + "/target/classes:" + dir + "/target/dependency/*", "Client",
		}, args...)}
	}
	// Given a token as text, this client signs the subject as its challenge, so that the subject must be the address.
	token := w.Write("token", strings.TrimSpace(w.Run(lab.Command{Name: "mayfly", Args: []string{
		"dev", "token", "--dir", w.dev.Dir, "--email", alice, "--claims", w.Write("claims", `{"sub": "`+alice+`"}`),
	}}).Stdout))
	for _, api := range []string{"v2", "v1"} {
		b := newBlob(w.Lab, "example-"+api+".jar")
		w.Run(java("sign", w.trust.TrustedRoot, w.trust.SigningConfig, token, b.file, b.bundle, api))
		w.Run(java("verify", w.trust.TrustedRoot, b.file, b.bundle, alice, w.dev.Issuer))
		w.RunFails(java("verify", w.trust.TrustedRoot, b.file, b.bundle, bob, w.dev.Issuer), "")
		w.Run(w.cosignVerify(b, alice))
		w.Run(w.conformanceVerify(b, alice))
	}
	w.proven("a Maven artifact, also verified by cosign and sigstore-go; the same with Rekor v1, its default")

	b := newBlob(w.Lab, "over-tls")
	sign := w.cosignSign(b, "--identity-token", w.dev.Token(w.Lab, alice))
	sign.Env = w.tlsCA
	w.Run(sign)
	w.Run(w.cosignVerify(b, alice))
	w.Run(w.conformanceVerify(b, alice))
}

// devSigstoreRust has the timestamp of Rekor v1 alone: the crate asks no timestamp authority.
func devSigstoreRust(w *environment) {
	w.startDev(false)
	dir := w.Project("clients/rust", "cargo", "build", "--quiet")
	run := func(args ...string) lab.Command {
		return lab.Command{Name: dir + "/target/debug/mayfly-e2e", Args: args}
	}
	b := newBlob(w.Lab, "blob")
	verify := func(identity string) lab.Command {
		return run("verify", w.trustConfig(), b.file, b.bundle, identity, w.dev.Issuer)
	}
	w.Run(run("sign", w.dev.URL, w.dev.URL, w.token(), alice, b.file, b.bundle))
	w.Run(verify(alice))
	w.RunFails(verify(bob), "")
	w.Run(w.cosignVerify(b, alice))
	w.RunFails(w.cosignVerify(b, bob), "")
	w.Run(w.conformanceVerify(b, alice))
	w.complete(b, 0)
	w.proven("blob, also verified by cosign and sigstore-go")

	w.Run(run("request", w.dev.URL, w.token(), alice, w.Path("rust.pem")))
	chain := w.Certificates(w.Read(w.Path("rust.pem")))
	if len(chain) != 3 || len(chain[0].EmailAddresses) != 1 || chain[0].EmailAddresses[0] != alice {
		w.Fatalf("%d certificates", len(chain))
	}
	w.CheckLogged(w.dev.Log(), lab.Issued{Leaf: chain[0], Issuer: chain[1]})
	w.proven("a certificate over the v1 API")
}

// devGitsign has the trusted root from TUF, and the keys that its older part needs from files.
func devGitsign(w *environment) {
	w.startDev(false)
	w.Need("gitsign")
	repository := w.Mkdir("repository")
	git := func(args ...string) lab.Command {
		return lab.Command{Name: "git", Dir: repository, Args: append([]string{
			"-c", "gpg.format=x509", "-c", "gpg.x509.program=" + w.Look("gitsign"),
		}, args...), Env: []string{ // as the line exports it
			"GITSIGN_REKOR_URL=" + w.dev.URL, "GITSIGN_FULCIO_ROOT=" + w.dev.Dir + "/chain.pem",
			"SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=" + w.dev.Dir + "/ct/log.pub.pem",
			"SIGSTORE_REKOR_PUBLIC_KEY=" + w.dev.Dir + "/rekor/log.pub.pem",
		}}
	}
	w.Run(git("init", "--quiet", "--initial-branch=main"))
	w.Run(git("config", "user.name", "Alice"))
	w.Run(git("config", "user.email", alice))
	w.printed("gitsign", repository, nil)
	verify := func(identity string) lab.Command {
		c := git()
		c.Name, c.Args = "gitsign", []string{
			"verify", "--certificate-identity", identity, "--certificate-oidc-issuer", w.dev.Issuer, "HEAD",
		}
		return c
	}
	w.Run(verify(alice))
	w.RunFails(verify(bob), "")
	w.Run(git("verify-commit", "HEAD"))
	w.proven("commit signed and verified, trust from the TUF repository")
}

// devRuby sends what sigstore-ruby sends, and is as strict with the token and the answers as that client is: its gem is
// not in the package registries that the tests use.
func devRuby(w *environment) {
	w.startDev(false)
	token := w.dev.Token(w.Lab, alice)
	var claims map[string]any
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		w.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(payload)))
	decoder.UseNumber()
	if err := decoder.Decode(&claims); err != nil {
		w.Fatal(err)
	}
	for _, name := range []string{"iat", "nbf", "exp"} {
		number, ok := claims[name].(json.Number)
		at, err := number.Int64()
		if !ok || err != nil {
			w.Errorf("%s is %v, not an integer", name, claims[name])
		}
		if now := time.Now().Unix(); name == "exp" && at <= now || name != "exp" && at > now {
			w.Errorf("%s is %d, and it is %d", name, at, now)
		}
	}
	b := newBlob(w.Lab, "example.gem")
	w.Write("example.gem.bundle.json", w.RubySign(lab.RubyOptions{
		TrustedRoot: w.trust.TrustedRoot, Token: token, Artifact: b.file,
	}))
	w.Run(w.cosignVerify(b, alice))
	w.RunFails(w.cosignVerify(b, bob), "")
	w.Run(w.conformanceVerify(b, alice))
	w.complete(b, 0)
	w.proven("the requests of its signer, bundle verified by cosign and sigstore-go")
}
