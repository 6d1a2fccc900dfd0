package shared_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/server/shared"
)

// G1: settings that contradict each other or would send data in plain text are refused, with what to write.
func TestCheck(t *testing.T) {
	t.Parallel()
	one := []string{"127.0.0.1:6379"}
	for name, c := range map[string]struct {
		config shared.ValkeyConfig
		want   string
	}{
		"loopback": {shared.ValkeyConfig{Addresses: one}, ""},
		"TLS": {
			shared.ValkeyConfig{Addresses: []string{"v.example.com:6379"}, TLS: &shared.TLSConfig{}},
			"",
		},
		"insecure":   {shared.ValkeyConfig{Addresses: []string{"10.0.0.1:6379"}, Insecure: true}, ""},
		"no address": {shared.ValkeyConfig{}, "addresses: is missing"},
		"no port":    {shared.ValkeyConfig{Addresses: []string{"localhost"}}, "write HOST:PORT"},
		"port 0":     {shared.ValkeyConfig{Addresses: []string{"localhost:0"}}, "write HOST:PORT"},
		"plain text": {shared.ValkeyConfig{Addresses: []string{"v.example.com:6379"}}, "unencrypted"},
		"both": {
			shared.ValkeyConfig{Addresses: one, TLS: &shared.TLSConfig{}, Insecure: true},
			"remove one",
		},
		"mode":              {shared.ValkeyConfig{Addresses: one, Mode: "clustered"}, "not a mode"},
		"two single":        {shared.ValkeyConfig{Addresses: append(one, one...)}, "has one address"},
		"sentinel":          {shared.ValkeyConfig{Addresses: one, Mode: "sentinel", MasterSet: "m"}, ""},
		"no master set":     {shared.ValkeyConfig{Addresses: one, Mode: "sentinel"}, "has a master_set"},
		"master set":        {shared.ValkeyConfig{Addresses: one, MasterSet: "m"}, "other modes have none"},
		"sentinel password": {shared.ValkeyConfig{Addresses: one, SentinelUsername: "x"}, "no sentinels"},
		"database":          {shared.ValkeyConfig{Addresses: one, Database: new(3)}, ""},
		"negative database": {shared.ValkeyConfig{Addresses: one, Database: new(-1)}, "not a database"},
		"cluster":           {shared.ValkeyConfig{Addresses: append(one, one...), Mode: "cluster"}, ""},
		"cluster database":  {shared.ValkeyConfig{Addresses: one, Mode: "cluster", Database: new(1)}, "not a database"},
		"prefix":            {shared.ValkeyConfig{Addresses: one, KeyPrefix: "{x}"}, "not a prefix"},
		"long prefix":       {shared.ValkeyConfig{Addresses: one, KeyPrefix: strings.Repeat("x", 65)}, "not a prefix"},
		"short timeout":     {shared.ValkeyConfig{Addresses: one, Timeout: time.Millisecond}, "out of range"},
		"long timeout":      {shared.ValkeyConfig{Addresses: one, Timeout: time.Minute}, "out of range"},
		"replicas":          {shared.ValkeyConfig{Addresses: one, WaitReplicas: new(-1)}, "number of replicas"},
		"password":          {shared.ValkeyConfig{Addresses: one, Password: &secret.Source{}}, "exactly one"},
		"half a pair": {
			shared.ValkeyConfig{Addresses: one, TLS: &shared.TLSConfig{Certificate: "c.pem"}}, "belong together",
		},
	} {
		err := (&shared.Config{Valkey: &c.config}).Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if (*shared.Config)(nil).Check() != nil || (&shared.Config{}).Check() == nil {
		t.Error("no store, or a store without settings")
	}
}

// G1: files that cannot be used are named before a connection is made.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for name, c := range map[string]shared.ValkeyConfig{
		"CA":          {TLS: &shared.TLSConfig{CACert: missing}},
		"certificate": {TLS: &shared.TLSConfig{Certificate: missing, Key: missing}},
		"password":    {Password: &secret.Source{File: missing}},
		"sentinels":   {SentinelPassword: &secret.Source{File: missing}},
	} {
		if _, err := shared.Open(shared.Config{Valkey: &c}, shared.Options{}); err == nil ||
			!strings.Contains(err.Error(), "missing.pem") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
