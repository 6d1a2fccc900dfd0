package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
)

// G1: an error that is found after the load has the position of its setting, in the right file.
func TestLocate(t *testing.T) {
	t.Parallel()
	path := write(t, identity+caFile+embedded, issuers)
	c, _, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	got := c.Locate(errors.Join(
		fault.BadSetting("is wrong", "write right", "ca", "file",
			"key").In(filepath.Join(filepath.Dir(path), "key.pem")),
		fault.Under(fault.BadSetting("is wrong", "", "client-id"), "oidc-issuers", "https://a.example.com"),
		errors.New("another"),
	))
	for _, want := range []string{
		"mayfly.yaml:4:33: ca.file.key: " + filepath.Join(filepath.Dir(path), "key.pem") + ": is wrong; write right",
		"identity.yaml:4:16: oidc-issuers.https://a.example.com.client-id: is wrong", "mayfly.yaml: another",
	} {
		if !strings.Contains(got.Error(), want) {
			t.Errorf("%q is not in\n%v", want, got)
		}
	}
	plain := errors.New("not of a setting")
	if err := c.Locate(plain); !errors.Is(err, plain) {
		t.Errorf("%v", err)
	}
	if err := new(config.Config).Locate(fault.BadSetting("is wrong", "")); err == nil {
		t.Error("an error is lost without a file")
	}
	if c.Locate(nil) != nil {
		t.Error("nil became an error")
	}
}

// G2: directories that cannot be created are errors. No directory is created.
func TestPlaces(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"state_dir: deep/state\naudit: {file: j}\n": "",
		"state_dir: late/deep/state\n":              "state_dir: ",
	} {
		path := write(t, identity+caFile+embedded+text, issuers)
		c, _, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		late := filepath.Join(filepath.Dir(path), "late")
		if err := os.WriteFile(late, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		err = c.Locate(c.Places())
		if (err == nil) != (want == "") || err != nil &&
			(!strings.Contains(err.Error(), "mayfly.yaml:7:12: "+want) || !strings.Contains(err.Error(), "; ")) {
			t.Errorf("%s: %v", text, err)
		}
		for _, name := range []string{"deep", "ct", "j"} {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), name)); err == nil {
				t.Errorf("%s was made", name)
			}
		}
	}
}

// G3: exactly the changed settings that need a restart are listed, with their positions.
func TestRestart(t *testing.T) {
	t.Parallel()
	base := identity + caFile + embedded
	for _, row := range []struct{ old, fresh, want string }{
		{base, base, ""},
		{base, base + "production: false\nclient_algorithms: [ed25519]\n", ""},
		{base, "listen: {http: \"127.0.0.1:5555\"}\n" + base, ""}, // the default
		{
			base, base + "listen: {http: off}\n",
			"mayfly.yaml:7:16: listen.http: 127.0.0.1:5555 → off; restart to apply it",
		},
		{base, base + "audit:\n  stdout: true\n", "mayfly.yaml:8:11: audit.stdout: true is new; restart to apply it"},
		{
			base + "audit:\n  stdout: true\n", base,
			"mayfly.yaml:1:1: audit.stdout: true was removed; restart to apply it",
		},
		{
			base, strings.Replace(base, "dir: ct", "lead: 0s, dir: ct", 1),
			"mayfly.yaml:6:20: ct.embedded.lead: 0s is new; restart to apply it",
		},
	} {
		var all [2]*config.Config
		for i, text := range []string{row.old, row.fresh} {
			c, _, err := config.Load(write(t, text, issuers))
			if err != nil {
				t.Fatal(err)
			}
			all[i] = c
		}
		var got []string
		for _, w := range all[0].Restart(all[1]) {
			w.File = filepath.Base(w.File)
			got = append(got, w.String())
		}
		if text := strings.Join(got, "\n"); text != row.want {
			t.Errorf("%q, want %q", text, row.want)
		}
		marked := false
		for _, c := range config.DiffMain(all[0], all[1]) {
			marked = marked || c.Restart
		}
		if marked != (row.want != "") {
			t.Errorf("the difference says %t: %q", marked, row.want)
		}
	}
}
