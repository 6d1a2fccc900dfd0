package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/trust"
)

// tufPasswordEnv is the environment variable with the password of the keys of a TUF repository.
const tufPasswordEnv = "MAYFLY_TUF_PASSWORD" //nolint:gosec // the name of a variable, not a secret

type tufFlags struct {
	dir  string
	days map[string]*int
}

func newTUF() *cobra.Command {
	f := &tufFlags{}
	cmd := &cobra.Command{
		Use:   "tuf",
		Short: "Make and maintain a TUF repository with the trusted root for clients",
		Long: "A TUF repository distributes trusted_root.json and signing_config.json, and their updates, to clients.\n" +
			"A client that was set up once with 1.root.json (cosign initialize --mirror URL --root 1.root.json)\n" +
			"follows every change on its own.\n\n" +
			"The CA serves DIR/repository (publish.tuf.serve), or a web server does. DIR/keys is secret;\n" +
			"MAYFLY_TUF_PASSWORD encrypts the keys. DIR/keys/published is a copy of what was published: each\n" +
			"command verifies DIR/repository against this copy, as a client does, and signs nothing else.",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	fl := cmd.PersistentFlags()
	fl.StringVar(&f.dir, "dir", "", "directory of the repository (required)")
	f.lives(fl)
	cmd.AddCommand(f.newInit(), f.newPublish(), f.newRequest(), f.newSign(), f.newRotate(), f.newShow(), f.newAdopt(),
		f.newRestore())
	return cmd
}

// lives adds a flag for the validity of the metadata of each role.
func (f *tufFlags) lives(fl *pflag.FlagSet) {
	f.days = map[string]*int{}
	for role, life := range trust.DefaultLives() {
		f.days[role] = fl.Int(role+"-days", int(life/(24*time.Hour)),
			"days that metadata of the role "+role+" is valid")
	}
}

func (f *tufFlags) options() (trust.TUFOptions, error) {
	o := trust.TUFOptions{Dir: f.dir, Password: []byte(os.Getenv(tufPasswordEnv)), Lives: trust.Lives{}}
	if f.dir == "" {
		return o, cli.Usage("--dir is missing; write --dir DIR, the directory of the repository")
	}
	for role, days := range f.days {
		if *days < 1 || *days > 3650 {
			return o, cli.Usage("--%s-days %d: write 1 to 3650", role, *days)
		}
		o.Lives[role] = time.Duration(*days) * 24 * time.Hour
	}
	return o, nil
}

func (f *tufFlags) open() (*trust.Repository, error) {
	o, err := f.options()
	if err != nil {
		return nil, err
	}
	return trust.OpenTUF(o)
}

func (f *tufFlags) newInit() *cobra.Command {
	var offline string
	cmd := &cobra.Command{
		Use:   "init --dir DIR [--offline DIR]",
		Short: "Make a repository with new keys",
		Long: "init makes the repository and a key for each role. With --offline, the keys of root and targets are\n" +
			"written to another directory, on a medium that you keep offline, and never to DIR: \"mayfly trust tuf\n" +
			"sign\" signs there what the CA asks for.",
		Example: "  " + tufPasswordEnv + "=... mayfly trust tuf init --dir tuf/ --offline /media/key/tuf/",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			o.Offline = offline
			r, err := trust.InitTUF(o)
			if err != nil {
				return err
			}
			st := terminal.StyleFor(cmd.ErrOrStderr())
			if len(o.Password) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(),
					st.Yellow("warning: the keys in "+f.dir+"/keys are not encrypted; set "+tufPasswordEnv+
						" to encrypt them"))
			}
			next := "move keys/root.pem and keys/targets.pem to a safe place. keys/published must stay."
			if offline != "" {
				next = "keep " + offline + " offline: it has the keys of root and targets."
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "Give clients %s/repository/1.root.json; %s\n",
				strings.TrimSuffix(f.dir, "/"), next)
			return showTUF(cmd.OutOrStdout(), r)
		}),
	}
	cmd.Flags().StringVar(&offline, "offline", "", "directory for the keys of root and targets (default: DIR)")
	return cmd
}

func (f *tufFlags) newPublish() *cobra.Command {
	var signed string
	cmd := &cobra.Command{
		Use:   "publish --dir DIR [FILE...]",
		Short: "Publish a trusted root and a signing configuration, or only renew metadata that expires soon",
		Long: "publish adds the files (trusted_root.json, signing_config.json) to the repository and signs it.\n" +
			"Without files it only renews the metadata: run it daily with the keys of snapshot and timestamp alone.\n" +
			"Clients see either the old state or the new one; after a crash the next command completes the change.\n" +
			"A repository that someone else has changed is refused.\n\n" +
			"With --signed it publishes what \"mayfly trust tuf sign\" wrote. A running CA with publish.tuf.update\n" +
			"does this itself.",
		Example: "  mayfly trust tuf publish --dir tuf/ trust/trusted_root.json trust/signing_config.json\n  mayfly " +
			"trust tuf publish --dir tuf/",
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if signed != "" && len(args) > 0 {
				return cli.Usage("--signed has the files already; write --signed FILE alone")
			}
			r, err := f.open()
			if err != nil {
				return err
			}
			if signed != "" {
				data, err := bounded.ReadFile(signed, trust.MaxRequest)
				if err != nil {
					return err
				}
				if _, err := r.PublishSigned(data); err != nil {
					return err
				}
				return showTUF(cmd.OutOrStdout(), r)
			}
			contents, err := readAll(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			if _, err := r.Publish(contents...); err != nil {
				return err
			}
			return showTUF(cmd.OutOrStdout(), r)
		}),
	}
	cmd.Flags().StringVar(&signed, "signed", "", "response of \"mayfly trust tuf sign\" to publish")
	return cmd
}

func readAll(stdin io.Reader, names []string) ([][]byte, error) {
	var out [][]byte
	for _, name := range names {
		data, err := input.Read(stdin, name)
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

func (f *tufFlags) newRequest() *cobra.Command {
	return &cobra.Command{
		Use:   "request --dir DIR [FILE...]",
		Short: "Ask the holder of the offline keys to sign",
		Long: "request writes DIR/request.json for \"mayfly trust tuf sign\": to publish the files that differ from\n" +
			"the published ones, and to renew metadata of root and targets that expires soon. It needs no key. A\n" +
			"running CA with publish.tuf.update writes this file itself.",
		Example: "  mayfly trust tuf request --dir tuf/ trust/trusted_root.json trust/signing_config.json",
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			r, err := f.open()
			if err != nil {
				return err
			}
			contents, err := readAll(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			data, err := r.Request(contents...)
			if err != nil {
				return err
			}
			if data == nil {
				fmt.Fprintln(cmd.ErrOrStderr(),
					"Nothing must be signed: the files are published, and no metadata of root "+
						"and targets expires soon.")
				return nil
			}
			name := filepath.Join(f.dir, trust.RequestName)
			if err := durable.WriteFile(name, data, 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), name)
			return err
		}),
	}
}

func (f *tufFlags) newSign() *cobra.Command {
	var out string
	var yes, again bool
	cmd := &cobra.Command{
		Use:   "sign --dir DIR --out FILE REQUEST",
		Short: "Sign a request with the offline keys of root and targets",
		Long: "sign runs on the machine that holds the keys of root and targets. DIR is the directory that \"mayfly\n" +
			"trust tuf init --offline\" wrote: DIR/keys has the keys, and DIR/keys/published a copy of what was\n" +
			"published. The request must follow from this copy and must not be older. sign shows every entry that\n" +
			"is added and removed, and asks before it signs. Copy FILE to signed.json in the directory of the\n" +
			"repository: the CA publishes it.",
		Example: "  mayfly trust tuf sign --dir /media/key/tuf/ --out signed.json request.json",
		Args:    cobra.ExactArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			if out == "" {
				return cli.Usage("--out is missing; write --out FILE, the file for the signed metadata")
			}
			data, err := bounded.ReadFile(args[0], trust.MaxRequest)
			if err != nil {
				return err
			}
			v, err := trust.ReviewRequest(o, data, again)
			if err != nil {
				return err
			}
			if err := showReview(cmd.OutOrStdout(), v); err != nil {
				return err
			}
			if !yes {
				if ok, err := confirmed(cmd); err != nil || !ok {
					return err
				}
			}
			signed, err := v.Sign()
			if err != nil {
				return err
			}
			if err := durable.WriteFile(out, signed, 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), "Signed: "+out)
			return err
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "file for the signed metadata (required)")
	cmd.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	cmd.Flags().BoolVar(&again, "again", false,
		"sign although the last response is not published, because it was lost")
	return cmd
}

// showReview prints what a request changes.
func showReview(w io.Writer, v *trust.Review) error {
	st := terminal.StyleFor(w)
	for _, role := range v.Roles {
		if _, err := fmt.Fprintf(w, "%s is signed, valid until %s\n", role,
			v.Expires[role].Format("2006-01-02 15:04")); err != nil {
			return err
		}
	}
	for _, line := range v.Changes {
		line = terminal.Printable(line)
		switch line[0] {
		case '-':
			line = st.Red(line)
		case '+':
			line = st.Green(line)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	if len(v.Changes) == 0 {
		_, err := fmt.Fprintln(w, "no file changes")
		return err
	}
	return nil
}

// confirmed asks whether to sign. Only the answer "yes" signs.
func confirmed(cmd *cobra.Command) (bool, error) {
	fmt.Fprint(cmd.ErrOrStderr(), "Sign this? Write yes: ")
	answer, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if strings.TrimSpace(answer) != "yes" {
		return false, errors.New("nothing was signed")
	}
	return true, nil
}

func (f *tufFlags) newRotate() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:     "rotate --dir DIR --role ROLE",
		Short:   "Give a role a new key",
		Long:    "rotate needs the root key. Clients follow on their own: each root is signed by the previous one.",
		Example: "  mayfly trust tuf rotate --dir tuf/ --role timestamp",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(trust.Roles(), role) {
				return cli.Usage("--role %q: write one of %s", role, strings.Join(trust.Roles(), ", "))
			}
			r, err := f.open()
			if err != nil {
				return err
			}
			if err := r.Rotate(role); err != nil {
				return err
			}
			return showTUF(cmd.OutOrStdout(), r)
		}),
	}
	cmd.Flags().StringVar(&role, "role", "", strings.Join(trust.Roles(), ", ")+" (required)")
	return cmd
}

func (f *tufFlags) newShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show --dir DIR",
		Short: "Show roles, keys, expiry and files, and check the repository as a client would",
		Long: "show prints the state of the repository and changes nothing. It exits with 3, and says what is wrong,\n" +
			"if a client would refuse the repository, if the repository does not follow from the copy in\n" +
			"DIR/keys/published, or if that copy is missing. In that case it prints the state of the copy.",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			r, wrong := trust.InspectTUF(o)
			if errors.Is(wrong, trust.ErrNoRepository) {
				return wrong
			}
			if asJSON {
				err = jsonTUF(cmd.OutOrStdout(), r, wrong)
			} else if r != nil {
				err = showTUF(cmd.OutOrStdout(), r)
			}
			if err == nil && wrong != nil {
				return &cli.Error{Status: cli.ExitFound, Err: fmt.Errorf("mayfly: %w", wrong)}
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func (f *tufFlags) newAdopt() *cobra.Command {
	var fingerprint string
	cmd := &cobra.Command{
		Use:   "adopt --dir DIR --root-sha256 HEX",
		Short: "Accept a repository without a copy in DIR/keys/published as authentic",
		Long: "adopt makes DIR/keys/published from DIR/repository: once for a repository of an earlier version of\n" +
			"mayfly, or when the copy was lost. Nothing in DIR/keys then shows which metadata is authentic.\n" +
			"Therefore you give the SHA-256 of the 1.root.json that clients have (--root-sha256), taken from a\n" +
			"client. adopt verifies that everything else follows from that root.",
		Example: "  sha256sum 1.root.json   # of a client\n  mayfly trust tuf adopt --dir tuf/ --root-sha256 0123...",
		Args:    cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			if fingerprint == "" {
				_, err := trust.InspectTUF(o)
				if none := (*trust.NoAnchorError)(nil); errors.As(err, &none) {
					return cli.Usage("%v", err)
				}
				return cli.Usage("--root-sha256 is missing: write the SHA-256 of the 1.root.json " +
					"that clients were given")
			}
			r, err := trust.AdoptTUF(o, fingerprint)
			if err != nil {
				return err
			}
			return showTUF(cmd.OutOrStdout(), r)
		}),
	}
	cmd.Flags().StringVar(&fingerprint, "root-sha256", "",
		"SHA-256 of the 1.root.json that clients have, in hexadecimal (required)")
	return cmd
}

func (f *tufFlags) newRestore() *cobra.Command {
	return &cobra.Command{
		Use:   "restore --dir DIR",
		Short: "Restore the repository as it was published",
		Long: "restore writes each file of DIR/repository that is missing or differs from the copy in\n" +
			"DIR/keys/published, and removes root metadata that does not follow from the copy. It needs no key.\n" +
			"First find out who changed the directory: publish and rotate refuse to work on such a repository.",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			changed, err := trust.RestoreTUF(o)
			if err != nil {
				return err
			}
			for _, name := range changed {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), terminal.Printable(name)); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), human.Count(len(changed), "file")+" restored.")
			return err
		}),
	}
}

func showTUF(w io.Writer, r *trust.Repository) error {
	st := terminal.StyleFor(w)
	g := terminal.Grid{Head: []string{"role", "version", "expires", "key", "private key"}, Spare: []string{"key"}}
	for _, i := range r.Info() {
		expires := i.Expires.Format("2006-01-02 15:04")
		if i.Soon {
			expires = st.Yellow(expires)
		}
		here := "here"
		if !i.HasKey {
			here = st.Dim("elsewhere")
		}
		var ids []string
		for _, id := range i.Keys {
			ids = append(ids, id[:min(len(id), 12)])
		}
		g.Add(i.Role, fmt.Sprint(i.Version), expires, strings.Join(ids, " "), here)
	}
	if err := g.Write(w, st); err != nil {
		return err
	}
	targets := r.Targets()
	if len(targets) == 0 {
		_, err := fmt.Fprintln(w, st.Yellow("\nno files yet: publish trusted_root.json and signing_config.json"))
		return err
	}
	var t terminal.Table
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		t.Add(terminal.Printable(name), "sha256:"+targets[name])
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return t.Write(w, st)
}

func jsonTUF(w io.Writer, r *trust.Repository, wrong error) error {
	type role struct {
		Role    string    `json:"role"`
		Version int64     `json:"version"`
		Expires time.Time `json:"expires"`
		Keys    []string  `json:"keys"`
		HasKey  bool      `json:"private_key"`
		Soon    bool      `json:"renew"`
	}
	out := struct {
		Roles   []role            `json:"roles"`
		Targets map[string]string `json:"targets"`
		Error   string            `json:"error,omitempty"`
	}{Roles: []role{}, Targets: map[string]string{}}
	if r != nil {
		out.Targets = r.Targets()
		for _, i := range r.Info() {
			out.Roles = append(out.Roles, role(i))
		}
	}
	if wrong != nil {
		out.Error = wrong.Error()
	}
	return cli.WriteJSON(w, out)
}
