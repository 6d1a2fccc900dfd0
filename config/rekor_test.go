package config_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/config"
)

// G1: mistakes in the block rekor are found, with the place and what to write.
func TestRekor(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{dir: r, origin: log.example.com}":                                              "",
		"{dir: r, origin: log.example.com, admit: any}":                                  "",
		"{dir: r, origin: log.example.com, key: {file: {key: key.pem}}}":                 "",
		"{dir: r, origin: log.example.com, rotate: yearly}":                              "",
		"{origin: log.example.com}":                                                      "rekor.dir: dir is missing",
		"{dir: r, origin: \"log.example.com:8080\"}":                                     "rekor.origin: invalid origin",
		"{dir: r, origin: log.example.com/rekor}":                                        "rekor.origin: invalid origin",
		"{dir: r, origin: log.example.com, admit: all}":                                  "rekor.admit: invalid value \"all\"",
		"{dir: r, origin: log.example.com, key: {}}":                                     "the key backend is missing",
		"{dir: r, origin: log.example.com, key: {ephemeral: {}}}":                        "rekor.key.ephemeral: the key is lost",
		"{dir: r, origin: log.example.com, key: {file: {key: key.pem, chain: c.pem}}}":   "rekor.key.file.chain: this key has no chain",
		"{dir: r, origin: log.example.com, key: {file: {password: {env: A, file: b}}}}":  "rekor.key.file.key: key is missing",
		"{dir: r, origin: log.example.com, key: {file: {key: key.pem}}, rotate: yearly}": "rekor.rotate: each shard needs a key",
		"{dir: r, origin: log.example.com, next_keys: [{file: {key: key.pem}}]}":         "rekor.next_keys: next_keys is set, but key is not",
	} {
		_, warnings, err := config.Load(write(t,
			"publish: {url: \"https://log.example.com:8443\"}\n"+identity+caFile+embedded+
				"rekor: "+text+"\n", issuers))
		if got := fmt.Sprint(err); err == nil && want != "" ||
			err != nil && (want == "" || !strings.Contains(got, want)) {
			t.Errorf("%s: %v", text, err)
		}
		if err == nil && strings.Contains(fmt.Sprint(warnings), "rekor.origin") {
			t.Errorf("%s: %v", text, warnings)
		}
	}
	_, warnings, err := config.Load(write(t, identity+caFile+embedded+
		"rekor: {dir: r, origin: log.example.com}\n", issuers))
	if err != nil || !strings.Contains(fmt.Sprint(warnings), "rekor.origin: clients compute the name") {
		t.Errorf("%v, %v", warnings, err)
	}
}
