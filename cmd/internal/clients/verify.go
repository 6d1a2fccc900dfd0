package clients

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/inspect"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/trust"
)

type verifyFlags struct {
	trustedRoot, tuf, tufRoot string
	artifact                  string
	expect                    trust.Expectation
	asJSON                    bool
}

// NewVerify returns "mayfly verify".
func NewVerify() *cobra.Command {
	f := &verifyFlags{}
	cmd := &cobra.Command{
		Use:   "verify BUNDLE --trusted-root FILE --artifact FILE --identity SAN --issuer URL",
		Short: "Verify a Sigstore bundle: who signed what, and when",
		Long: "verify checks a Sigstore bundle against a trusted root. The certificate must chain to an authority\n" +
			"that was trusted and valid when it signed. If the trusted root has Certificate Transparency logs, one\n" +
			"of them must have signed an SCT for the certificate. The signature must be in a trusted Rekor log\n" +
			"(with --no-rekor: have a trusted timestamp instead) and must be over the artifact. Identity and issuer\n" +
			"must be the expected ones.\n\n" +
			"The exit status is 3 if a check fails. The numbers in the output count verified items only.",
		Example: "  mayfly verify app.sigstore.json --trusted-root trusted_root.json --artifact app.tar.gz \\\n" +
			"    --identity alice@example.com --issuer https://login.example.com\n" +
			"  mayfly verify app.sigstore.json --tuf https://tuf.example.com --tuf-root 1.root.json " +
			"--digest sha256:0123... \\\n" +
			"    --identity-regexp 'https://github.com/example/.*' " +
			"--issuer https://token.actions.githubusercontent.com",
		Args: cobra.ExactArgs(1),
		RunE: cli.Perform(func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, args[0])
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.trustedRoot, "trusted-root", "", "trusted_root.json to verify against")
	fl.StringVar(&f.tuf, "tuf", "", "URL of a TUF repository that has the trusted root (instead of --trusted-root)")
	fl.StringVar(&f.tufRoot, "tuf-root", "", "root.json of that repository, from a source that you trust")
	fl.StringVar(&f.artifact, "artifact", "", "file that was signed; \"-\" is standard input")
	fl.StringVar(&f.expect.Digest, "digest", "", "digest of the artifact, instead of the file: sha256:HEX")
	fl.StringVar(&f.expect.Identity, "identity", "",
		"the signer: an address, URI or name, exactly as in the certificate")
	fl.StringVar(&f.expect.IdentityRegexp, "identity-regexp", "",
		"regular expression that must match the whole identity")
	fl.StringVar(&f.expect.Issuer, "issuer", "", "the OpenID Connect issuer that vouched for the signer")
	fl.StringVar(&f.expect.IssuerRegexp, "issuer-regexp", "", "regular expression that must match the whole issuer")
	fl.BoolVar(&f.expect.NoRekor, "no-rekor", false, "require a timestamp instead of an entry in a Rekor log")
	fl.BoolVar(&f.asJSON, "json", false, "print what was verified as JSON")
	return cmd
}

func (f *verifyFlags) run(cmd *cobra.Command, name string) error {
	if name == "-" && f.artifact == "-" {
		return cli.Usage("the bundle and --artifact are both \"-\"; only one of them can be standard input")
	}
	root, err := f.root(cmd)
	if err != nil {
		return err
	}
	if f.artifact != "" {
		in := cmd.InOrStdin()
		if f.artifact != "-" {
			file, err := os.Open(f.artifact)
			if err != nil {
				return err
			}
			defer file.Close() //nolint:errcheck // only read
			in = file
		}
		f.expect.Artifact = in
	}
	data, err := input.Read(cmd.InOrStdin(), name)
	if err != nil {
		return err
	}
	v, err := trust.VerifyBundle(root, data, f.expect)
	var failed *trust.Failure
	switch {
	case errors.Is(err, trust.ErrUsage):
		return cli.Usage("%v", err)
	case errors.As(err, &failed):
		text := name + " does not verify: " + terminal.Printable(failed.Error())
		if failed.Hint != "" {
			text += "\n  " + failed.Hint
		}
		return &cli.Error{Status: cli.ExitFound, Err: errors.New(text)}
	case err != nil:
		return fmt.Errorf("%s: %s", name, terminal.Printable(err.Error()))
	}
	if f.asJSON {
		return f.json(cmd.OutOrStdout(), v)
	}
	warnSkipped(cmd.ErrOrStderr(), f.trustedRoot+f.tuf, v.Skipped)
	names, err := inspect.LogNames(root)
	if err != nil {
		return err
	}
	return PrintVerified(cmd.OutOrStdout(), v, names)
}

// root returns the trusted root that the flags name.
func (f *verifyFlags) root(cmd *cobra.Command) ([]byte, error) {
	switch {
	case (f.trustedRoot == "") == (f.tuf == ""):
		return nil, cli.Usage("write one source of the trusted root: --trusted-root FILE, or --tuf URL with " +
			"--tuf-root FILE")
	case f.trustedRoot != "":
		return input.Read(nil, f.trustedRoot)
	case f.tufRoot == "":
		return nil, cli.Usage("--tuf needs --tuf-root: the root.json of the repository, from a source that you trust")
	}
	pinned, err := input.Read(nil, f.tufRoot)
	if err != nil {
		return nil, err
	}
	return trust.Fetch(cmd.Context(), f.tuf, pinned, version.UserAgent())
}

// PrintVerified writes what was verified, for a terminal.
func PrintVerified(w io.Writer, v *trust.Verified, logs map[[32]byte]string) error {
	st := terminal.StyleFor(w)
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n", st.Green(st.Bold("verified")))
	var t terminal.Table
	t.Add("identity", terminal.Printable(v.Identity))
	t.Add("issuer", terminal.Printable(v.Issuer))
	for _, at := range v.Times {
		t.Add("signed", at.At.UTC().Format(time.RFC3339)+" "+
			st.Dim("("+terminal.Printable(strings.TrimSpace(at.Kind+" "+at.Source))+")"))
	}
	switch {
	case v.LogEntries > 0:
		t.Add("log entries", fmt.Sprint(v.LogEntries))
	default:
		t.Add("log entries", st.Yellow("none")+" "+st.Dim("(--no-rekor)"))
	}
	switch {
	case v.SCTs > 0:
		t.Add("transparency", human.Count(v.SCTs, "SCT")+" of trusted logs")
	case v.Demanded == 0:
		t.Add("transparency", st.Yellow("not required")+" "+
			st.Dim("(the trusted root has no Certificate Transparency log)"))
	}
	if v.Statement != "" {
		t.Add("statement", terminal.Printable(v.Statement))
	}
	if err := t.Write(&s, st); err != nil {
		return err
	}
	view, err := inspect.Describe(v.Leaf, time.Now(), logs)
	if err != nil {
		return err
	}
	s.WriteString("\n")
	if err := view.Write(&s, st); err != nil {
		return err
	}
	_, err = io.WriteString(w, s.String())
	return err
}

func (f *verifyFlags) json(w io.Writer, v *trust.Verified) error {
	view, err := inspect.Describe(v.Leaf, time.Now(), nil)
	if err != nil {
		return err
	}
	type at struct {
		Kind   string    `json:"kind"`
		Source string    `json:"source"`
		Time   time.Time `json:"time"`
	}
	times := []at{}
	for _, t := range v.Times {
		times = append(times, at{t.Kind, t.Source, t.At.UTC()})
	}
	return cli.WriteJSON(w, struct {
		Verified    bool                `json:"verified"`
		Identity    string              `json:"identity"`
		Issuer      string              `json:"issuer"`
		Signed      []at                `json:"signed"`
		LogEntries  int                 `json:"log_entries"`
		SCTs        int                 `json:"scts"`
		Demanded    int                 `json:"scts_demanded"`
		Statement   string              `json:"statement,omitempty"`
		Certificate inspect.Certificate `json:"certificate"`
	}{true, v.Identity, v.Issuer, times, v.LogEntries, v.SCTs, v.Demanded, v.Statement, view})
}
