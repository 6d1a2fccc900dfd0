package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/dev/tsa"
	"github.com/mayfly-ca/mayfly/internal/shell"
	"github.com/mayfly-ca/mayfly/server"
)

// banner is what "mayfly dev" prints when it can issue.
type banner struct {
	state     *devState
	listeners server.Listeners
	flags     *devFlags
	took      time.Duration
	chain     []*x509.Certificate
}

func (b banner) print(w io.Writer) error {
	st := styleFor(w)
	a := addresses(b.listeners)
	var s strings.Builder
	fmt.Fprintf(&s, "\n%s after %d ms: it issued a certificate to %s and verified chain, identity and SCT.\n",
		st.green(st.bold("mayfly is ready")), b.took.Milliseconds(), selfTestEmail)
	if b.state.fresh {
		fmt.Fprintf(&s, "New CA in %s.\n", b.flags.dir)
	} else {
		fmt.Fprintf(&s, "CA of %s, going on in %s.\n", b.state.Created.Local().Format("2006-01-02 15:04"), b.flags.dir)
	}

	fmt.Fprintf(&s, "\n%s\n", st.bold("Addresses"))
	var t table
	t.add("REST", "http://"+a.http)
	t.add("gRPC", a.grpc)
	t.add("log", "http://"+a.http+"/ct/checkpoint")
	t.add("sign-in", b.state.Issuer)
	t.add("timestamps", b.state.Issuer+tsa.Path)
	if b.listeners.Admin != nil {
		t.add("readiness", "http://"+a.admin+"/readyz")
		t.add("metrics", "http://"+a.admin+"/metrics")
	}
	if err := t.write(&s, st); err != nil {
		return err
	}

	fmt.Fprintf(&s, "\n%s\n", st.bold("Files"))
	t = table{}
	t.add(b.file("trusted_root.json"), "for verifiers: chain, log key, timestamp authority")
	t.add(b.file("signing_config.json"), "for signers: where to ask")
	t.add(b.file("chain.pem"), "issuing certificate, root")
	t.add(b.file("ct/log.pub.pem"), "public key of the log")
	t.add(b.file("journal.jsonl"), "every decision; \"mayfly audit\" reads it")
	t.add(b.file("mayfly.yaml"), "this configuration, for \"mayfly serve\"")
	if err := t.write(&s, st); err != nil {
		return err
	}
	b.lines(&s, st, a)
	_, err := io.WriteString(w, s.String())
	return err
}

func (b banner) file(name string) string {
	return shell.Quote(strings.TrimSuffix(b.flags.dir, "/") + "/" + name)
}

// lines prints commands that work as they stand, from the directory that mayfly was started in.
func (b banner) lines(s *strings.Builder, st style, a listenAddresses) {
	exe := shell.Quote(program())
	dir := ""
	if b.flags.dir != ".mayfly-dev" {
		dir = " --dir " + shell.Quote(b.flags.dir)
	}
	root, url := b.file("trusted_root.json"), "http://"+a.http
	section := func(title string, lines ...string) {
		fmt.Fprintf(s, "\n%s\n", st.bold(title))
		for _, l := range lines {
			fmt.Fprintf(s, "  %s\n", l)
		}
	}
	section("Get a token, then a certificate",
		"TOKEN=$("+exe+" dev token --email alice@example.com"+dir+")",
		"SIGSTORE_ID_TOKEN=$TOKEN "+exe+" request --url "+url+" --trusted-root "+root+" --out cert.pem",
		exe+" inspect cert.pem")
	section("Sign and verify with cosign 3.1.3 "+st.dim("(without --identity-token it signs you in in the browser)"),
		"echo hello > hello.txt",
		"cosign sign-blob --yes --signing-config "+b.file("signing_config.json")+" --trusted-root "+root+
			" --identity-token \"$TOKEN\" --bundle hello.bundle.json hello.txt",
		"cosign verify-blob --trusted-root "+root+" --bundle hello.bundle.json --certificate-identity alice@example.com"+
			" --certificate-oidc-issuer "+b.state.Issuer+" --insecure-ignore-tlog --use-signed-timestamps hello.txt",
		exe+" verify hello.bundle.json --trusted-root "+root+" --artifact hello.txt --identity alice@example.com --issuer "+b.state.Issuer+" --no-rekor",
		st.dim("# There is no Rekor here, hence --insecure-ignore-tlog and --no-rekor. The timestamp makes the signature verify for ever."))
	section("The API",
		"curl -s "+url+"/api/v2/configuration",
		"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -subj / -out csr.pem",
		"curl -s "+url+"/api/v2/signingCert -H \"Authorization: Bearer $TOKEN\" -d \"{\\\"certificateSigningRequest\\\": \\\"$(base64 < csr.pem | tr -d '\\n')\\\"}\"")
	if b.listeners.GRPC != nil {
		fmt.Fprintf(s, "  grpcurl -plaintext %s dev.sigstore.fulcio.v2.CA/GetTrustBundle\n", a.grpc)
	}
	fmt.Fprintf(s, "\n%s\n", st.dim("Tokens live 5 minutes. Ctrl-C stops; the next start goes on with the same CA and log."))
}

// program is how this binary was called, so that the printed lines call it the same way.
func program() string {
	if strings.ContainsRune(os.Args[0], '/') {
		return os.Args[0]
	}
	return "mayfly"
}
