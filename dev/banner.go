package dev

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/dev/idp"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/shell"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/trust"
	"github.com/mayfly-ca/mayfly/tsa"
)

// banner is the text that "mayfly dev" prints when it can issue certificates.
type banner struct {
	state     *State
	listeners server.Listeners
	flags     *Options
	took      time.Duration
}

func (b banner) print(w io.Writer) error {
	st := terminal.StyleFor(w)
	a := addressesOf(b.listeners)
	var s strings.Builder
	fmt.Fprintf(&s, "\n%s after %d ms: it signed as %s with each of its services, and verified the signature.\n",
		st.Green(st.Bold("mayfly is ready")), b.took.Milliseconds(), selfTestEmail)
	if b.state.fresh {
		fmt.Fprintf(&s, "New private Sigstore in %s.\n", b.flags.Dir)
	} else {
		fmt.Fprintf(&s, "Using the private Sigstore of %s in %s.\n",
			b.state.Created.Local().Format("2006-01-02 15:04"), b.flags.Dir)
	}

	fmt.Fprintf(&s, "\n%s\n", st.Bold("Addresses"))
	url := b.flags.scheme() + "://" + a.http
	var t terminal.Table
	t.Add("REST", url)
	t.Add("gRPC", a.grpc)
	t.Add("log of certificates", url+"/ct/checkpoint")
	t.Add("log of signatures", url+"/api/v2/checkpoint")
	t.Add("timestamps", url+tsa.Path)
	t.Add("TUF", url+"/tuf")
	t.Add("sign-in", b.state.Issuer)
	if b.listeners.Admin != nil {
		t.Add("readiness", "http://"+a.admin+"/readyz")
		t.Add("metrics", "http://"+a.admin+"/metrics")
	}
	if err := t.Write(&s, st); err != nil {
		return err
	}

	fmt.Fprintf(&s, "\n%s\n", st.Bold("Files"))
	t = terminal.Table{}
	t.Add(b.file(trust.RootName), "for verifiers: chains and keys of the services")
	t.Add(b.file(trust.SigningName), "for signers: URLs of the services")
	t.Add(b.file(trust.ConfigName), "both in one, as some clients need them")
	t.Add(b.file(tufRoot), "for clients that get both from TUF")
	t.Add(b.file("chain.pem"), "issuing certificate, root")
	if b.flags.TLS {
		t.Add(b.file(certificateFile), "for clients: the TLS certificate")
	}
	t.Add(b.file("journal.jsonl"), "every decision; \"mayfly audit\" reads it")
	t.Add(b.file("mayfly.yaml"), "this configuration, for \"mayfly serve\"")
	if err := t.Write(&s, st); err != nil {
		return err
	}
	b.lines(&s, st, a)
	_, err := io.WriteString(w, s.String())
	return err
}

func (b banner) file(name string) string {
	return shell.Quote(strings.TrimSuffix(b.flags.Dir, "/") + "/" + name)
}

// lines prints commands that can be copied unchanged, if run from the directory in which mayfly was started.
func (b banner) lines(s *strings.Builder, st terminal.Style, a addresses) {
	exe := shell.Quote(program())
	dir := ""
	if b.flags.Dir != ".mayfly-dev" {
		dir = " --dir " + shell.Quote(b.flags.Dir)
	}
	root, url := b.file(trust.RootName), b.flags.scheme()+"://"+a.http
	certificate, tlsCA, sslCert, cacert := b.file(certificateFile), "", "", ""
	if b.flags.TLS {
		tlsCA, sslCert, cacert = " --tls-ca "+certificate, "SSL_CERT_FILE="+certificate+" ", " --cacert "+certificate
	}
	section := func(title string, lines ...string) {
		fmt.Fprintf(s, "\n%s\n", st.Bold(title))
		for _, l := range lines {
			fmt.Fprintf(s, "  %s\n", l)
		}
	}
	section("Sign and verify with cosign 3.1.3 "+st.Dim("(without --identity-token it signs you in in the browser)"),
		"TOKEN=$("+exe+" dev token --email alice@example.com"+dir+")",
		"echo hello > hello.txt",
		sslCert+"cosign sign-blob --yes --signing-config "+b.file(trust.SigningName)+" --trusted-root "+root+
			" --identity-token \"$TOKEN\" --bundle hello.bundle.json hello.txt",
		"cosign verify-blob --trusted-root "+root+
			" --bundle hello.bundle.json --certificate-identity alice@example.com"+
			" --certificate-oidc-issuer "+b.state.Issuer+" hello.txt",
		exe+" verify hello.bundle.json --trusted-root "+root+
			" --artifact hello.txt --identity alice@example.com --issuer "+b.state.Issuer)
	b.clients(s, st, url)
	section("A certificate alone",
		"SIGSTORE_ID_TOKEN=$TOKEN "+exe+" request --url "+url+tlsCA+" --trusted-root "+root+" --out cert.pem",
		exe+" inspect cert.pem",
		"curl -s"+cacert+" "+url+"/api/v2/configuration",
		"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -subj / -out csr.pem",
		"curl -s"+cacert+" "+url+
			"/api/v2/signingCert -H \"Authorization: Bearer $TOKEN\" -d \"{\\\"certificateSigningRequest\\\": "+
			"\\\"$(base64 < csr.pem | tr -d '\\n')\\\"}\"")
	if b.listeners.GRPC != nil {
		how := "-plaintext"
		if b.flags.TLS {
			how = "-cacert " + certificate
		}
		fmt.Fprintf(s, "  grpcurl %s %s dev.sigstore.fulcio.v2.CA/GetTrustBundle\n", how, a.grpc)
	}
	fmt.Fprintf(s, "\n%s\n", st.Dim("A token is valid for "+human.Duration(idp.DefaultTokenLife)+
		". Ctrl-C stops; the next start uses the same keys and logs."))
}

// clients prints one line for each other client, which signs with the files as they are, and verifies if its command
// line can.
func (b banner) clients(s *strings.Builder, st terminal.Style, url string) {
	tuf, config := b.file(tufRoot), b.file(trust.ConfigName)
	who := "alice@example.com"
	python, node, golang := "", "", ""
	if b.flags.TLS {
		certificate := b.file(certificateFile)
		golang, node = "SSL_CERT_FILE="+certificate+" ", "NODE_EXTRA_CA_CERTS="+certificate+" "
		python = "REQUESTS_CA_BUNDLE=" + certificate + " " + golang
	}
	fmt.Fprintf(s, "\n%s\n", st.Bold("The same with another client"))
	line := func(name, command string) {
		fmt.Fprintf(s, "  %s\n  %s\n", st.Dim("# "+name), command)
	}
	line("cosign, with trust from TUF", golang+"cosign initialize --mirror "+url+"/tuf --root "+tuf+" && "+golang+
		"cosign sign-blob --yes --identity-token \"$TOKEN\" --bundle hello.tuf.json hello.txt")
	line("sigstore-python 4", python+"sigstore --trust-config "+config+
		" sign --identity-token \"$TOKEN\" --bundle hello.python.json hello.txt && sigstore --trust-config "+config+
		" verify identity --bundle hello.python.json --cert-identity "+who+" --cert-oidc-issuer "+b.state.Issuer+
		" hello.txt")
	line("model-signing", python+"model_signing sign sigstore --trust_config "+config+
		" --identity_token \"$TOKEN\" --signature model.sig .")
	line("sigstore-js, with the package that npm uses",
		"npm install --no-save sigstore && "+node+"TOKEN=$TOKEN node -e '"+
			"require(\"sigstore\").sign(fs.readFileSync(\"hello.txt\"), {fulcioURL: \""+url+"\", rekorURL: \""+url+
			"\", tsaServerURL: \""+url+tsa.Path+"\", identityToken: process.env.TOKEN})"+
			".then((b) => fs.writeFileSync(\"hello.npm.json\", JSON.stringify(b)))'")
	line("gitsign", golang+"gitsign initialize --mirror "+url+"/tuf --root "+tuf+" && export "+golang+
		"SIGSTORE_ID_TOKEN=$TOKEN GITSIGN_FULCIO_URL="+url+" GITSIGN_REKOR_URL="+url+" GITSIGN_REKOR_MODE=offline "+
		"GITSIGN_FULCIO_ROOT="+b.file("chain.pem")+" SIGSTORE_CT_LOG_PUBLIC_KEY_FILE="+b.file("ct/log.pub.pem")+
		" SIGSTORE_REKOR_PUBLIC_KEY="+b.file("rekor/log.pub.pem")+
		" && git -c gpg.format=x509 -c gpg.x509.program=gitsign commit --allow-empty -S -m \"signed by "+who+"\"")
	if b.flags.TLS {
		line("sigstore-java (with its other flags as usual)",
			"keytool -importcert -noprompt -alias mayfly -file "+b.file(certificateFile)+
				" -keystore mayfly.p12 -storetype PKCS12 -storepass changeit && export JAVA_TOOL_OPTIONS="+
				"\"-Djavax.net.ssl.trustStore=$PWD/mayfly.p12 -Djavax.net.ssl.trustStorePassword=changeit\"")
	} else {
		fmt.Fprintf(s, "  %s\n", st.Dim("# sigstore-java needs TLS: start \"mayfly dev --tls\""))
	}
}

// program returns the name with which this binary was called, for the printed commands.
func program() string {
	if strings.ContainsRune(os.Args[0], '/') {
		return os.Args[0]
	}
	return "mayfly"
}
