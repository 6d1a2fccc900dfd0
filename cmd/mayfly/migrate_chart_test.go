package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// helm-values writes values to standard output or to a new file, and reports what became of each value.
func TestMigrateHelmValues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole, err := filepath.Abs("../../migrate/chart/testdata/all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	few := filepath.Join(dir, "few.yaml")
	text := "server: {replicaCount: 2, args: {ct_log_url: 'https://ct.example.org'}}\n"
	if err := os.WriteFile(few, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (stdout, stderr string, status int) {
		cmd := exec.Command("mayfly", append([]string{"migrate", "helm-values"}, args...)...)
		cmd.Dir = dir
		var out, errOut strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errOut
		_ = cmd.Run() // the status says it
		return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
	}

	stdout, stderr, status := run(few)
	var values struct {
		Replicas int `yaml:"replicas"`
	}
	if err := yaml.Unmarshal([]byte(stdout), &values); err != nil || values.Replicas != 2 || status != 0 {
		t.Errorf("status %d, %v\n%s%s", status, err, stdout, stderr)
	}
	if !strings.Contains(stderr, "server.replicaCount") || !strings.Contains(stderr, "What is left to do") {
		t.Errorf("the report is\n%s", stderr)
	}

	stdout, stderr, status = run(whole, "--out", "values.yaml")
	if status != 3 || !strings.Contains(stdout, "server.extraArgs: mayfly migrate fulcio") ||
		!strings.Contains(stderr, "of the values cannot be carried over") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	before, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if _, stderr, status = run(few, "--out", "values.yaml"); status != 1 || !strings.Contains(stderr, "exists") {
		t.Errorf("an existing file: status %d\n%s", status, stderr)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "values.yaml")); err != nil || string(after) != string(before) {
		t.Error("the existing file was changed", err)
	}

	stdout, _, status = run(whole, "--json")
	var report struct {
		Lost, Carried, Unneeded []any
		Values                  map[string]any
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || status != 3 || len(report.Lost) == 0 ||
		len(report.Carried) == 0 || len(report.Unneeded) == 0 || len(report.Values) == 0 {
		t.Errorf("--json: status %d, %v\n%s", status, err, stdout)
	}
	if _, stderr, status = run(); status != 2 || !strings.Contains(stderr, "the file of values is missing") {
		t.Errorf("no file: status %d\n%s", status, stderr)
	}
}

// The configuration in deploy/kubernetes passes "mayfly config check", with files as its Secrets and ConfigMaps have
// them.
func TestKubernetesConfiguration(t *testing.T) {
	t.Parallel()
	manifest, err := os.Open("../../deploy/kubernetes/mayfly.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer manifest.Close()
	kit := newDocKit(t)
	for d := yaml.NewDecoder(manifest); ; {
		var o struct {
			Kind string            `yaml:"kind"`
			Data map[string]string `yaml:"data"`
		}
		if err := d.Decode(&o); err != nil {
			t.Fatal("no ConfigMap with mayfly.yaml: ", err)
		}
		if o.Kind != "ConfigMap" || o.Data["mayfly.yaml"] == "" {
			continue
		}
		dir := t.TempDir()
		main := strings.ReplaceAll(o.Data["mayfly.yaml"], "/var/lib/mayfly", t.TempDir())
		if !strings.Contains(main, "production: true") {
			t.Error("the configuration is not for production")
		}
		kit.key = kit.encrypted
		kit.write(t, dir, "ca/chain.pem")
		kit.write(t, dir, "ca/key.pem")
		kit.write(t, dir, "ct/tesseract.pem")
		certificate, key := tlsPair(t, 1)
		for name, text := range map[string]string{
			"ca/password": "password", "mayfly.yaml": main, "identity.yaml": o.Data["identity.yaml"],
			"tls/tls.crt": string(certificate), "tls/tls.key": string(key),
		} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		checkDocumented(t, dir, main)
		return
	}
}
