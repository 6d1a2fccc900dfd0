package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/migrate"
	"github.com/mayfly-ca/mayfly/node"
)

func newMigrate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Move from Fulcio to mayfly",
		Args:  cobra.NoArgs,
		RunE:  runs(func(cmd *cobra.Command, _ []string) error { return cmd.Help() }),
	}
	cmd.AddCommand(newMigrateFulcio(), newMigrateHelmValues(), newMigrateTrust())
	return cmd
}

type migrateFlags struct {
	from              []string
	out, ctKey, chdir string
	workload          string
	http, grpc, admin string
	dry, asJSON       bool
}

func newMigrateFulcio() *cobra.Command {
	f := &migrateFlags{}
	cmd := &cobra.Command{
		Use:   "fulcio --out DIR {--from FILE... | -- COMMAND-LINE}",
		Short: "Translate the configuration of a Fulcio, and say what differs",
		Long: "fulcio writes DIR/mayfly.yaml with the settings of a Fulcio, and beside it the files that only a\n" +
			"manifest has: the issuer file, the chain, and in DIR/secrets what only their owner may read. It\n" +
			"replaces no file. Then it says what clients and operators notice, what is left to do, and what cannot\n" +
			"be carried over.\n\n" +
			"The settings are those of a command line after \"--\", with the environment variables FULCIO_SERVE_*\n" +
			"of this process and the settings file that the command line names. Or they are in files (--from, or a\n" +
			"directory of them): a Docker Compose file, Kubernetes manifests (Deployment, StatefulSet, Pod, with\n" +
			"their ConfigMaps and Secrets), values of Sigstore's Helm chart, a Securesign or Fulcio resource of Red\n" +
			"Hat Trusted Artifact Signer, or a settings file of Fulcio.\n\n" +
			"Exit status: 0 mayfly.yaml starts as it is, 2 the settings of Fulcio are wrong or not found, 3\n" +
			"something is left to do before mayfly.yaml starts.",
		Example: "  mayfly migrate fulcio --out mayfly/ -- fulcio serve --config-path=config.yaml --ca=fileca ...\n" +
			"  kubectl get deploy,cm,secret -n fulcio-system -o yaml | mayfly migrate fulcio --from - --out mayfly/",
		Args: cobra.ArbitraryArgs,
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 0 && len(args) > 0 {
				return cli.Usage("%q: write the command line of Fulcio after \"--\"", args[0])
			}
			if (len(args) == 0) == (len(f.from) == 0) {
				return cli.Usage("write the command line of Fulcio after \"--\", or --from FILE")
			}
			if f.out == "" {
				return cli.Usage("--out is missing; write --out DIR, a new directory")
			}
			return f.run(cmd, args)
		}),
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.from, "from", nil,
		"file or directory that describes the Fulcio (\"-\" is standard input); may be repeated")
	fl.StringVar(&f.out, "out", "", "directory for mayfly.yaml and the files beside it (required)")
	fl.StringVar(&f.ctKey, "ct-public-key", "",
		"public key of the CT log, in PEM, if Fulcio's settings do not have it")
	fl.StringVar(&f.chdir, "working-directory", ".", "directory in which Fulcio runs; its relative paths begin there")
	fl.StringVar(&f.workload, "workload", "", "name of the Deployment or service, if there are several")
	fl.StringVar(&f.http, "listen", "", "address of the REST API (default: that of Fulcio)")
	fl.StringVar(&f.grpc, "listen-grpc", "", "address of the gRPC API (default: that of Fulcio)")
	fl.StringVar(&f.admin, "listen-admin", "", "address of readiness and metrics (default: that of Fulcio's metrics)")
	fl.BoolVar(&f.dry, "dry-run", false, "write no file")
	fl.BoolVar(&f.asJSON, "json", false, "print JSON")
	return cmd
}

func (f *migrateFlags) run(cmd *cobra.Command, args []string) error {
	wd, err := filepath.Abs(f.chdir)
	if err != nil {
		return err
	}
	o := migrate.Options{HTTP: f.http, GRPC: f.grpc, Admin: f.admin}
	if o.Dir, err = filepath.Abs(f.out); err != nil {
		return err
	}
	if f.ctKey != "" {
		if o.CTKey, err = filepath.Abs(f.ctKey); err != nil {
			return err
		}
	}
	p, err := f.process(cmd, args, wd)
	if err != nil {
		return err
	}
	plan, err := migrate.Translate(p, o)
	if err != nil {
		return cli.Usage("%w", err)
	}
	r := plan.Report
	if !f.dry {
		if err := plan.Write(); err != nil {
			return err
		}
		if len(r.Problems) == 0 {
			if _, err := node.Check(cmd.Context(), filepath.Join(o.Dir, migrate.Main), false); err != nil {
				r.Problems = strings.Split(strings.TrimSpace(err.Error()), "\n")
			}
		}
	}
	if f.asJSON {
		err = cli.WriteJSON(cmd.OutOrStdout(), r)
	} else {
		err = r.Write(cmd.OutOrStdout(), f.out)
	}
	if err == nil && !r.Ready() {
		err = &cli.Error{
			Status: cli.ExitFound,
			Err:    errors.New("mayfly: something is left to do before mayfly.yaml starts"),
		}
	}
	return err
}

// process reads the description of the Fulcio.
func (f *migrateFlags) process(cmd *cobra.Command, args []string, wd string) (*migrate.Process, error) {
	variables := map[string]string{}
	for _, one := range os.Environ() {
		if name, text, ok := strings.Cut(one, "="); ok {
			variables[name] = text
		}
	}
	if len(args) > 0 {
		p := &migrate.Process{Name: "the command line", Args: args, Dir: wd, Env: map[string]migrate.Variable{}}
		for name, text := range variables {
			p.Env[name] = migrate.Variable{Text: text}
		}
		return p, nil
	}
	var inputs []migrate.Input
	for _, name := range f.from {
		found, err := readInputs(cmd, name)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, found...)
	}
	here, err := filepath.Abs(".")
	if err != nil {
		return nil, err
	}
	p, err := migrate.Parse(inputs, migrate.Where{Workload: f.workload, Dir: here, Variables: variables})
	if err != nil {
		return nil, cli.Usage("%w", err)
	}
	if !p.Container {
		p.Dir = wd
	}
	return p, nil
}

// maxInputs is the highest number of files of a directory that are read.
const maxInputs = 1000

// readInputs reads a file, or the YAML and JSON files of a directory.
func readInputs(cmd *cobra.Command, name string) ([]migrate.Input, error) {
	info, err := os.Stat(name)
	if err != nil && !(name == "-" && errors.Is(err, fs.ErrNotExist)) {
		return nil, err
	}
	if err != nil || !info.IsDir() {
		data, err := input.Read(cmd.InOrStdin(), name)
		return []migrate.Input{{Name: name, Data: data}}, err
	}
	var out []migrate.Input
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		switch filepath.Ext(path) {
		case ".yaml", ".yml", ".json":
		default:
			return nil
		}
		if len(out) == maxInputs {
			return fmt.Errorf("%s has more than %d files; name the files", name, maxInputs)
		}
		data, err := input.Read(nil, path)
		if err != nil {
			return err
		}
		out = append(out, migrate.Input{Name: path, Data: data})
		return nil
	})
	return out, err
}
