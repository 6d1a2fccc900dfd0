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
	fmt.Fprintf(&s, "\n%s after %d ms: it issued a certificate to %s and verified chain, identity and SCT.\n",
		st.Green(st.Bold("mayfly is ready")), b.took.Milliseconds(), selfTestEmail)
	if b.state.fresh {
		fmt.Fprintf(&s, "New CA in %s.\n", b.flags.Dir)
	} else {
		fmt.Fprintf(&s, "Using the CA of %s in %s.\n", b.state.Created.Local().Format("2006-01-02 15:04"), b.flags.Dir)
	}

	fmt.Fprintf(&s, "\n%s\n", st.Bold("Addresses"))
	url := b.flags.scheme() + "://" + a.http
	var t terminal.Table
	t.Add("REST", url)
	t.Add("gRPC", a.grpc)
	t.Add("log", url+"/ct/checkpoint")
	t.Add("sign-in", b.state.Issuer)
	t.Add("timestamps", url+tsa.Path)
	if b.listeners.Admin != nil {
		t.Add("readiness", "http://"+a.admin+"/readyz")
		t.Add("metrics", "http://"+a.admin+"/metrics")
	}
	if err := t.Write(&s, st); err != nil {
		return err
	}

	fmt.Fprintf(&s, "\n%s\n", st.Bold("Files"))
	t = terminal.Table{}
	t.Add(b.file("trusted_root.json"), "for verifiers: chain, log key, timestamp authority")
	t.Add(b.file("signing_config.json"), "for signers: URLs of the services")
	t.Add(b.file("chain.pem"), "issuing certificate, root")
	if b.flags.TLS {
		t.Add(b.file(certificateFile), "for clients: the TLS certificate")
	}
	t.Add(b.file("ct/log.pub.pem"), "public key of the log")
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
	root, url := b.file("trusted_root.json"), b.flags.scheme()+"://"+a.http
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
	section("Get a token, then a certificate",
		"TOKEN=$("+exe+" dev token --email alice@example.com"+dir+")",
		"SIGSTORE_ID_TOKEN=$TOKEN "+exe+" request --url "+url+tlsCA+" --trusted-root "+root+" --out cert.pem",
		exe+" inspect cert.pem")
	section("Sign and verify with cosign 3.1.3 "+st.Dim("(without --identity-token it signs you in in the browser)"),
		"echo hello > hello.txt",
		sslCert+"cosign sign-blob --yes --signing-config "+b.file("signing_config.json")+" --trusted-root "+root+
			" --identity-token \"$TOKEN\" --bundle hello.bundle.json hello.txt",
		"cosign verify-blob --trusted-root "+root+
			" --bundle hello.bundle.json --certificate-identity alice@example.com"+
			" --certificate-oidc-issuer "+b.state.Issuer+" --insecure-ignore-tlog --use-signed-timestamps hello.txt",
		exe+" verify hello.bundle.json --trusted-root "+root+
			" --artifact hello.txt --identity alice@example.com --issuer "+b.state.Issuer+" --no-rekor",
		st.Dim("# There is no Rekor here, hence --insecure-ignore-tlog and --no-rekor. Because of the timestamp, the "+
			"signature verifies after the certificate has expired."))
	section("The API",
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
		". Ctrl-C stops; the next start uses the same CA and log."))
}

// program returns the name with which this binary was called, for the printed commands.
func program() string {
	if strings.ContainsRune(os.Args[0], '/') {
		return os.Args[0]
	}
	return "mayfly"
}
