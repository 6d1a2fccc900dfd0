package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/backup"
	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
	"github.com/mayfly-ca/mayfly/internal/version"
)

// standardStream is the name of a file that means standard input or output.
const standardStream = "-"

func newBackup() *cobra.Command {
	var path, to string
	var final, asJSON bool
	cmd := &cobra.Command{
		Use:   "backup --config FILE --out FILE",
		Short: "Write one consistent copy of an instance while it runs",
		Long: "backup writes a tar archive with the configuration, every file and directory that the configuration\n" +
			"names, the logs and the journal. The server may run and issue certificates meanwhile. Each log and the\n" +
			"journal are copied as of one moment, and the copy of the journal has the decision for every log\n" +
			"entry.\n\n" +
			"The archive contains private keys: encrypt it (--out - writes to standard output, for example for\n" +
			"age). It contains neither passwords from environment variables nor the uses of tokens.\n\n" +
			"--final moves an instance: no server may run during the backup, and none starts with the original\n" +
			"logs afterwards. When a final backup is restored, its logs continue with their keys.",
		Example: "  mayfly backup --config /etc/mayfly/mayfly.yaml --out /backup/mayfly.tar\n" +
			"  mayfly backup --config mayfly.yaml --out - | age -r age1... > mayfly.tar.age",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			switch {
			case path == "":
				return cli.Usage("--config is missing; write --config FILE")
			case to == "":
				return cli.Usage("--out is missing; write --out FILE, or - for standard output")
			case to == standardStream && final:
				return cli.Usage("--final needs a file: the originals are marked when the archive is on disk")
			case to == standardStream && asJSON:
				return cli.Usage("--json and --out - both write to standard output; write a file")
			}
			p := terminal.NewProgress(cmd.ErrOrStderr())
			o := backup.Options{
				Path: path, Final: final, Tool: "mayfly " + version.Read().Version,
				Progress: func(files int, size int64) {
					p.Showf("%s, %d MiB", human.Count(files, "file"), size>>20)
				},
			}
			m, err := writeBackup(cmd, to, o)
			p.Clear()
			if errors.Is(err, backup.ErrRunning) {
				return cli.Usage("--final: %w", err)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return cli.WriteJSON(cmd.OutOrStdout(), m)
			}
			if to == standardStream {
				return m.Write(cmd.ErrOrStderr(), "")
			}
			return m.Write(cmd.OutOrStdout(), to)
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&path, "config", "", "configuration file (required)")
	fl.StringVar(&to, "out", "", "file for the archive, which must not exist, or - for standard output (required)")
	fl.BoolVar(&final, "final", false,
		"move the instance: no server may run, and none starts with the originals afterwards")
	fl.BoolVar(&asJSON, "json", false, "print the manifest as JSON")
	return cmd
}

// writeBackup writes the archive to a file or to standard output.
func writeBackup(cmd *cobra.Command, to string, o backup.Options) (*backup.Manifest, error) {
	if to != standardStream {
		return backup.Create(cmd.Context(), to, o)
	}
	out, ok := terminal.Binary(cmd.OutOrStdout())
	if !ok {
		return nil, cli.Usage("--out -: standard output is a terminal, and the archive is not text; write a file")
	}
	m, _, err := backup.Write(cmd.Context(), out, o)
	return m, err
}

func newRestore() *cobra.Command {
	var from string
	var asJSON bool
	o := backup.RestoreOptions{}
	cmd := &cobra.Command{
		Use:   "restore --from FILE --to DIR",
		Short: "Restore an instance from a backup, and verify all of it",
		Long: "restore writes the instance into a new directory. Before that it verifies everything: the digest of\n" +
			"each file, the configuration, every hash, entry and signature of the logs, and the chain of the\n" +
			"journal. It overwrites no file. Run it as the user that the CA runs as.\n\n" +
			"A log must never sign two histories. After the backup of a running server, the server may have signed\n" +
			"more. The logs are therefore marked, and the server does not start, until \"mayfly log rotate\n" +
			"--restored\" has closed them and made logs with new keys. Earlier signatures still verify. After the\n" +
			"restore of a final backup (\"mayfly backup --final\"), the logs continue.",
		Example: "  mayfly restore --from mayfly.tar --to /var/lib/mayfly\n" +
			"  age -d -i key.txt mayfly.tar.age | mayfly restore --from - --to /var/lib/mayfly",
		Args: cobra.NoArgs,
		RunE: runs(func(cmd *cobra.Command, _ []string) error {
			if from == "" || o.Dir == "" {
				return cli.Usage("--from and --to are required; write --from FILE --to DIR")
			}
			in := cmd.InOrStdin()
			if from != standardStream {
				f, err := os.Open(from)
				if err != nil {
					return err
				}
				defer f.Close() //nolint:errcheck // only read
				in = f
			}
			p := terminal.NewProgress(cmd.ErrOrStderr())
			o.Progress = func(what string) { p.Showf("verifying %s", what) }
			r, err := backup.Restore(cmd.Context(), in, o)
			p.Clear()
			if _, wrong := errors.AsType[config.Problems](err); wrong {
				return fmt.Errorf("the configuration cannot be used on this machine: %w", err)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return cli.WriteJSON(cmd.OutOrStdout(), r)
			}
			return r.Write(cmd.OutOrStdout())
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&from, "from", "", "archive, or - for standard input (required)")
	fl.StringVar(&o.Dir, "to", "", "directory for the instance; it must not exist, or be empty (required)")
	fl.BoolVar(&o.Unchanged, "unchanged", false,
		"state that no server has signed anything since the backup, so that the logs continue; if that is wrong, "+
			"they sign a second history")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
