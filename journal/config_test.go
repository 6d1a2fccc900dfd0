package journal_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/journal"
	"github.com/mayfly-ca/mayfly/journal/ship"
)

func TestConfigCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config journal.Config
		want   string
	}{
		"nothing":           {journal.Config{}, "has no destination"},
		"file":              {journal.Config{File: "x"}, ""},
		"size":              {journal.Config{File: "x", MaxSize: "1GiB"}, ""},
		"size without unit": {journal.Config{File: "x", MaxSize: "100"}, "max_size"},
		"size too small":    {journal.Config{File: "x", MaxSize: "1KiB"}, "max_size"},
		"size too large":    {journal.Config{File: "x", MaxSize: "9999999999999GiB"}, "max_size"},
		"subjects":          {journal.Config{File: "x", Subjects: "secret"}, "subjects"},
		"salt for nothing":  {journal.Config{File: "x", Salt: &secret.Source{Env: "A"}}, "salt"},
		"no salt":           {journal.Config{Config: ship.Config{Stdout: true}, Subjects: "digest"}, "salt"},
		"two keys":          {journal.Config{File: "x", Key: &secret.Source{Env: "A", File: "b"}}, "key"},
		"datagrams only": {journal.Config{Config: ship.Config{
			Syslog: &ship.SyslogConfig{Address: "udp://127.0.0.1:514"},
		}}, "datagram"},
		"unencrypted": {journal.Config{
			File:   "x",
			Config: ship.Config{Syslog: &ship.SyslogConfig{Address: "tcp://log.example.com:514"}},
		}, "insecure"},
		"wanted": {journal.Config{
			File:   "x",
			Config: ship.Config{Syslog: &ship.SyslogConfig{Address: "tcp://log.example.com:514", Insecure: true}},
		}, ""},
		"tls": {journal.Config{
			File:   "x",
			Config: ship.Config{Syslog: &ship.SyslogConfig{Address: "tls://log.example.com:6514"}},
		}, ""},
		"ca without tls": {journal.Config{
			File:   "x",
			Config: ship.Config{Syslog: &ship.SyslogConfig{Address: "unix:///dev/log", CACert: "x"}},
		}, "ca_cert"},
		"facility": {
			journal.Config{
				File:   "x",
				Config: ship.Config{Syslog: &ship.SyslogConfig{Address: "unix:///dev/log", Facility: "local8"}},
			},
			"facility",
		},
		"no port": {journal.Config{
			File:   "x",
			Config: ship.Config{Syslog: &ship.SyslogConfig{Address: "tls://log.example.com"}},
		}, "HOST:PORT"},
		"otlp unencrypted": {journal.Config{
			File:   "x",
			Config: ship.Config{OTLP: &ship.OTLPConfig{URL: "http://otel.example.com"}},
		}, "insecure"},
		"otlp header": {journal.Config{
			File: "x",
			Config: ship.Config{OTLP: &ship.OTLPConfig{
				URL:     "https://otel.example.com",
				Headers: map[string]*secret.Source{"a b": nil},
			}},
		}, "header"},
	} {
		err := c.config.Check()
		if err = errors.Join(err); (err == nil) != (c.want == "") ||
			err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
