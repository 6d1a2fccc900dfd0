package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/input"
)

func newCAReplay() *cobra.Command {
	var asJSON bool
	var plan string
	cmd := &cobra.Command{
		Use:   "replay TRANSCRIPT",
		Short: "Verify that the certificates of a ceremony are what its plan says",
		Long: "replay builds each certificate of a transcript again from its profile, its serial number and the\n" +
			"public keys, and compares the bytes. It verifies all signatures, and compares the plan, the inputs and\n" +
			"the outputs with their digests in the transcript. If the file TRANSCRIPT.sig exists, replay also\n" +
			"verifies that signature of the transcript. It needs no private key.\n\n" +
			"Exit status: 0 everything matches, 1 a file cannot be read, 3 something differs.",
		Example: "  mayfly ca replay ca/transcript.json --plan reviewed-plan.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			lines, err := replayed(cmd, args[0], plan)
			if err != nil {
				return err
			}
			return printLines(cmd.OutOrStdout(), lines, asJSON)
		}),
	}
	cmd.Flags().StringVar(&plan, "plan", "",
		"the reviewed plan; the plan in the transcript must be the same, byte for byte")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// replayed replays the transcript in a file. plan is the path of the reviewed plan; it may be empty.
func replayed(cmd *cobra.Command, path, plan string) ([]ceremony.Line, error) {
	data, err := input.Read(cmd.InOrStdin(), path)
	if err != nil {
		return nil, err
	}
	t, err := ceremony.ParseTranscript(data)
	if err != nil {
		return nil, err
	}
	o := ceremony.ReplayOptions{Data: data, Dir: filepath.Dir(path)}
	if o.Signature, err = os.ReadFile(path + ceremony.SignatureSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var lines []ceremony.Line
	if t.Plan != nil {
		o.Plan = &ceremony.Plan{}
		if _, err := config.Decode(config.File{Path: t.Plan.Path, Data: []byte(t.Plan.Content)}, o.Plan,
			o.Plan.Check); err != nil {
			return nil, err
		}
	}
	if plan != "" {
		reviewed, err := input.Read(cmd.InOrStdin(), plan)
		if err != nil {
			return nil, err
		}
		l := ceremony.Line{Check: "the plan of the transcript is " + plan, Result: ceremony.OK}
		if t.Plan == nil || !bytes.Equal(reviewed, []byte(t.Plan.Content)) {
			l.Result, l.Detail = ceremony.Wrong, "they differ"
			l.Fix = "do not use the certificates: another plan was carried out"
		}
		lines = append(lines, l)
	}
	return append(lines, t.Replay(o)...), nil
}
