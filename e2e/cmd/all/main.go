// All runs every real client and every walk-through, one after the other, and writes the matrix of
// docs/compatibility.md.
//
// A client that passed is not run again until that client, its tests or mayfly change, so an interrupted run resumes
// where it stopped. -only NAME runs one client, -force discards earlier results. Run it from the e2e folder.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/binaries"
	"github.com/mayfly-ca/mayfly/e2e/internal/matrix"
)

func main() {
	only := flag.String("only", "", "name of the one to run")
	force := flag.Bool("force", false, "run also what passed before")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, *only, *force); err != nil {
		fmt.Fprintln(os.Stderr, "e2e-all:", err)
		os.Exit(1)
	}
}

// result is the saved result of a client's test.
type result struct {
	Passed bool     `json:"passed"`
	Proven []string `json:"proven"` // the features that the test exercised, for the matrix
	Took   string   `json:"took"`
}

func run(ctx context.Context, only string, force bool) error {
	clients := matrix.Table()
	if only != "" {
		clients = slices.DeleteFunc(clients, func(c matrix.Client) bool { return c.Name != only })
		if len(clients) == 0 {
			return fmt.Errorf("no client or walk-through %q", only)
		}
	}
	if err := matrix.Install(ctx, os.Stderr, matrix.NeedsOf(clients)); err != nil {
		return err
	}
	b, err := binaries.New(".", os.Stderr)
	if err != nil {
		return err
	}
	if _, err := b.All(ctx); err != nil {
		return err
	}
	own, err := b.Mayfly(ctx)
	if err != nil {
		return err
	}
	digest, err := state(filepath.Join(own, "mayfly"))
	if err != nil {
		return err
	}
	dir := filepath.Join(b.Cache(), "results")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	results := map[string]result{}
	failed := 0
	for i, c := range matrix.Table() {
		path := filepath.Join(dir, c.Name+"-"+digest+".json")
		r, known := remembered(path)
		switch {
		case only != "" && c.Name != only:
		case known && r.Passed && !force:
			fmt.Fprintf(os.Stderr, "[%2d/%d] %-20s passed before\n", i+1, len(matrix.Table()), c.Name)
		default:
			fmt.Fprintf(os.Stderr, "[%2d/%d] %-20s ", i+1, len(matrix.Table()), c.Name)
			var output []byte
			r, output = runOne(ctx, c)
			if ctx.Err() != nil {
				return errors.New("interrupted; run it again to go on")
			}
			if !r.Passed {
				failed++
				fmt.Fprintf(os.Stderr, "FAILED after %s\n%s\n", r.Took, output)
				break
			}
			fmt.Fprintf(os.Stderr, "passed in %s\n", r.Took)
			if err := remember(path, r); err != nil {
				return err
			}
		}
		results[c.Name] = r
	}
	if failed > 0 {
		return fmt.Errorf("%d failed; -only NAME runs one again", failed)
	}
	if only != "" {
		return nil
	}
	return writeMatrix("../docs/compatibility.md", results)
}

// state is a digest of mayfly and of the tests.
func state(program string) (string, error) {
	h := sha256.New()
	add := func(path string) error {
		data, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s", filepath.Base(path), len(data), data)
		return err
	}
	if err := add(program); err != nil {
		return "", err
	}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "." {
			return fs.SkipDir
		}
		if d.IsDir() || path == filepath.Join("cmd", "all", "main.go") {
			return nil
		}
		return add(path)
	})
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
}

func remembered(path string) (r result, ok bool) {
	data, err := os.ReadFile(path)
	return r, err == nil && json.Unmarshal(data, &r) == nil
}

func remember(path string, r result) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// runOne runs the test of c and returns the features that the test recorded.
func runOne(ctx context.Context, c matrix.Client) (result, []byte) {
	start := time.Now()
	record, err := os.CreateTemp("", "mayfly-e2e-*")
	if err != nil {
		return result{}, []byte(err.Error())
	}
	_ = record.Close()
	defer os.Remove(record.Name())
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout", "20m", "-tags", "all", "-run",
		"^TestAll$/^"+c.Name+"$", ".")
	cmd.Env = append(os.Environ(), matrix.RecordEnv+"="+record.Name())
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	r := result{Passed: err == nil, Took: time.Since(start).Round(time.Second).String()}
	data, e := os.ReadFile(record.Name())
	if e == nil && len(bytes.TrimSpace(data)) > 0 {
		r.Proven = strings.Split(strings.TrimSpace(string(data)), "\n")
	}
	r.Passed = r.Passed && len(r.Proven) > 0 // a test that recorded no feature has not passed
	return r, out
}

const (
	begin = "<!-- clients: written by make e2e-all -->\n"
	end   = "<!-- end of clients -->\n"
)

// writeMatrix writes the table of results between its markers in the documentation.
func writeMatrix(path string, results map[string]result) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok1 := strings.Cut(string(data), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for the matrix", path)
	}
	var b strings.Builder
	b.WriteString(head + begin + "\n| client | version | what passed |\n|---|---|---|\n")
	for _, c := range matrix.Table() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.Title, c.Version, strings.Join(results[c.Name].Proven, "; "))
	}
	b.WriteString("\n" + end + tail)
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
