package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/oidc"
)

// tagged lists the settings below t, blocks included, with the given struct tag: "ct.logs[].key secret". The tag of a
// block applies to the settings in the block.
func tagged(t reflect.Type, path, tag string, all func(path string, f reflect.StructField)) (out []string) {
	switch t.Kind() {
	case reflect.Pointer:
		return tagged(t.Elem(), path, tag, all)
	case reflect.Slice:
		return tagged(t.Elem(), path+"[]", tag, all)
	case reflect.Map:
		return tagged(t.Elem(), path+".NAME", tag, all)
	case reflect.Struct:
		for _, f := range fieldsOf(t) {
			field, at := t.FieldByIndex(f.index), strings.TrimPrefix(path+"."+f.name, ".")
			if all != nil {
				all(at, field)
			}
			if value := field.Tag.Get(tag); value != "" {
				out = append(out, at+" "+value)
			} else {
				out = append(out, tagged(field.Type, at, tag, all)...)
			}
		}
	}
	return out
}

// The settings that are paths, and what is expected there. A setting without the tag whose name or description mentions
// a file is an error: its path would be relative to the directory of the process, and the file would not be watched.
func TestPathTags(t *testing.T) {
	t.Parallel()
	want := []string{
		"audit.alarm.webhook.bearer.file secret",
		"audit.alarm.webhook.ca_cert read",
		"audit.file write",
		"audit.key.file secret",
		"audit.otlp.ca_cert read",
		"audit.otlp.headers.NAME.file secret",
		"audit.reconcile.journals pattern",
		"audit.salt.file secret",
		"audit.syslog.ca_cert read",
		"ca.file.age_identity secret",
		"ca.file.chain read",
		"ca.file.key secret",
		"ca.file.password.file secret",
		"ca.kms.chain read",
		"ca.kms.vault.approle.secret_id.file secret",
		"ca.kms.vault.ca_cert read",
		"ca.kms.vault.jwt.token.file secret",
		"ca.kms.vault.kubernetes.token.file secret",
		"ca.kms.vault.token.file secret",
		"ca.pkcs11.chain read",
		"ca.rotation.renew.dir dir",
		"ca.rotation.renew.password.file secret",
		"ca.state kept",
		"ca.tink.chain read",
		"ca.tink.key secret",
		"ca.tink.vault.approle.secret_id.file secret",
		"ca.tink.vault.ca_cert read",
		"ca.tink.vault.jwt.token.file secret",
		"ca.tink.vault.kubernetes.token.file secret",
		"ca.tink.vault.token.file secret",
		"ca.trust read",
		"ct.embedded.dir dir",
		"ct.logs[].ca_cert read",
		"ct.logs[].client_certificate.certificate read",
		"ct.logs[].client_certificate.key secret",
		"ct.logs[].public_key read",
		"ct.policy.trusted_root read", "find.dir dir",
		"identity.file read",
		"listen.admin_tls.acme.ca_bundle live", "listen.admin_tls.acme.dir dir", "listen.admin_tls.certificate live",
		"listen.admin_tls.client_ca live", "listen.admin_tls.key live-secret", "listen.tls.acme.ca_bundle live",
		"listen.tls.acme.dir dir", "listen.tls.certificate live", "listen.tls.client_ca live",
		"listen.tls.key live-secret",
		"meta-issuers.NAME.outbound.bearer-token-file secret",
		"meta-issuers.NAME.outbound.ca-bundle read",
		"meta-issuers.NAME.outbound.client-certificate.certificate read",
		"meta-issuers.NAME.outbound.client-certificate.key secret",
		"meta-issuers.NAME.static-keys.dir dir",
		"meta-issuers.NAME.static-keys.file read",
		"oidc-issuers.NAME.outbound.bearer-token-file secret",
		"oidc-issuers.NAME.outbound.ca-bundle read",
		"oidc-issuers.NAME.outbound.client-certificate.certificate read",
		"oidc-issuers.NAME.outbound.client-certificate.key secret",
		"oidc-issuers.NAME.static-keys.dir dir",
		"oidc-issuers.NAME.static-keys.file read",
		"publish.rekor[].public_key read",
		"publish.trusted_root kept",
		"publish.tsa[].chain read",
		"publish.tuf.dir optional-dir",
		"publish.tuf.password.file secret",
		"publish.tuf.root read", "rekor.dir dir", "shared.valkey.password.file secret",
		"shared.valkey.sentinel_password.file secret", "shared.valkey.tls.ca_cert read",
		"shared.valkey.tls.certificate read", "shared.valkey.tls.key secret",
		"state_dir optional-dir",
		"tracing.otlp.ca_cert read",
		"tracing.otlp.headers.NAME.file secret",
		"tsa.clock.ca_cert read",
	}
	inline := []string{ // texts of PEM and keys, names in them, and URIs of keys, not paths of files
		"ca.kms.key",
		"ca.pkcs11.key",
		"ct.embedded.witnesses[].public_key", "rekor.witnesses[].public_key", "oidc-issuers.NAME.ca-cert",
		"meta-issuers.NAME.ca-cert",
	}
	looksLikePath := regexp.MustCompile(`(^|[-_.])(file|dir|key|chain|bundle|certificate|trust|journals|trusted_root|ca_cert|ca-cert)$`)
	kinds := []string{
		pathRead, pathSecret, pathWrite, pathKept, pathDir, pathOptionalDir, pathPattern,
		pathLive, pathLiveSecret,
	}
	look := func(path string, f reflect.StructField) {
		for _, again := range backendsAgain() {
			if rest, ok := strings.CutPrefix(path, again); ok && rest != "name" {
				path = "ca." + rest
			}
		}
		text := f.Type.Kind() == reflect.String || f.Type == reflect.TypeFor[[]string]()
		tag, has := f.Tag.Lookup("path")
		switch {
		case has && (!text || !slices.Contains(kinds, tag)):
			t.Errorf("%s: %s cannot have the tag path:%q", path, f.Type, tag)
		case !has && text && looksLikePath.MatchString(path) && !slices.Contains(inline, path):
			t.Errorf("%s is a path without the struct tag path", path)
		}
	}
	got := slices.Concat(tagged(reflect.TypeFor[Config](), "", "path", look),
		tagged(reflect.TypeFor[oidc.Config](), "", "path", look))
	got = slices.DeleteFunc(got, func(one string) bool { // the table of key backends again
		for _, again := range backendsAgain() {
			if rest, ok := strings.CutPrefix(one, again); ok {
				return slices.Contains(want, "ca."+rest)
			}
		}
		return false
	})
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// backendsAgain are the blocks that have the table of key backends again.
func backendsAgain() []string {
	return []string{
		"ca.chains[].", "ca.rotation.renew.parent.", "experimental.mldsa_chain.", "rekor.key.", "rekor.next_keys[].",
		"tsa.",
	}
}

// The settings that need a restart, and keep their values in a reload.
func TestRestartTags(t *testing.T) {
	t.Parallel()
	want := []string{
		"audit", "ct.embedded", "find", "limits.connections", "limits.connections_per_source", "limits.requests",
		"limits.wait", "listen", "rekor", "shared", "state_dir", "tracing", "tsa",
	}
	var got []string
	for _, one := range tagged(reflect.TypeFor[Config](), "", "restart", nil) {
		path, _, _ := strings.Cut(one, " ")
		got = append(got, path)
		if !needsRestart(append(strings.Split(path, "."), "below")) {
			t.Errorf("%s needs no restart", path)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{"ct", "ct.logs.0.url", "ca.file.key", "api.v1", "identity", "unknown.key"} {
		if needsRestart(strings.Split(path, ".")) {
			t.Errorf("%s needs a restart", path)
		}
	}
	running := filled(reflect.TypeFor[Config](), "running").Interface().(Config)
	next := filled(reflect.TypeFor[Config](), "next").Interface().(Config)
	next.Issuers, running.Issuers = oidc.Config{}, oidc.Config{}
	next.KeepUntilRestart(&running)
	for key, text := range flatten(reflect.ValueOf(next), "") {
		path := strings.Split(key, "\x00")
		if kept := strings.Contains(text, "running"); kept != needsRestart(path) &&
			(kept || strings.Contains(text, "next")) {
			t.Errorf("%s is %q after a reload", strings.Join(path, "."), text)
		}
	}
}

// A path in an entry of a map is made absolute in the map.
func TestAbsolute(t *testing.T) {
	t.Parallel()
	issuers := oidc.Config{Issuers: map[string]oidc.IssuerConfig{"https://a": {}, "https://b": {}}}
	for key, row := range issuers.Issuers {
		row.Outbound.CABundle = "ca.pem"
		issuers.Issuers[key] = row
	}
	paths := absolute(&issuers, "/etc/mayfly")
	if len(paths) != 2 {
		t.Fatal(paths)
	}
	for i, key := range []string{"https://a", "https://b"} {
		want := []string{"oidc-issuers", key, "outbound", "ca-bundle"}
		if at := issuers.Issuers[key].Outbound.CABundle; at != "/etc/mayfly/ca.pem" || *paths[i].at != at ||
			!slices.Equal(paths[i].path, want) {
			t.Errorf("%s: %q, %v", key, at, paths[i])
		}
	}
}
