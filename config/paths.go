package config

import (
	"path/filepath"
	"reflect"
	"slices"
	"strconv"

	"github.com/mayfly-ca/mayfly/internal/secret"
	"github.com/mayfly-ca/mayfly/oidc"
)

// absoluteIssuers does the same for the issuer file, whose paths are relative to its own folder.
func (l *loader) absoluteIssuers(dir string) {
	for section, rows := range map[string]map[string]oidc.IssuerConfig{"oidc-issuers": l.config.Issuers.Issuers, "meta-issuers": l.config.Issuers.MetaIssuers} {
		for key, row := range rows {
			add := func(at *string, directory, secret bool, path ...string) {
				if *at == "" {
					return
				}
				if !filepath.IsAbs(*at) {
					*at = filepath.Join(dir, *at)
				}
				l.issuerPaths = append(l.issuerPaths, pathSetting{at: at, path: append([]string{section, key}, path...), dir: directory, secret: secret})
			}
			if s := row.StaticKeys; s != nil {
				add(&s.File, false, false, "static-keys", "file")
				add(&s.Dir, true, false, "static-keys", "dir")
			}
			if c := row.Outbound.ClientCertificate; c != nil {
				add(&c.Certificate, false, false, "outbound", "client-certificate", "certificate")
				add(&c.Key, false, true, "outbound", "client-certificate", "key")
			}
			bundle, token := row.Outbound.CABundle, row.Outbound.BearerTokenFile
			add(&bundle, false, false, "outbound", "ca-bundle")
			add(&token, false, true, "outbound", "bearer-token-file")
			row.Outbound.CABundle, row.Outbound.BearerTokenFile = bundle, token
			rows[key] = row
		}
	}
}

// absoluteAudit does the same for the journal.
func (l *loader) absoluteAudit(dir string, add func(pathSetting)) {
	a := l.config.Audit
	if a == nil {
		return
	}
	add(pathSetting{at: &a.File, path: []string{"audit", "file"}, made: true})
	for key, s := range map[string]*secret.Source{"key": a.Key, "salt": a.Salt} {
		if s != nil {
			add(pathSetting{at: &s.File, path: []string{"audit", key, "file"}, secret: true})
		}
	}
	if a.Syslog != nil {
		add(pathSetting{at: &a.Syslog.CACert, path: []string{"audit", "syslog", "ca_cert"}})
	}
	if a.Reconcile != nil { // patterns: what they match comes and goes
		for i, pattern := range a.Reconcile.Journals {
			if !filepath.IsAbs(pattern) {
				a.Reconcile.Journals[i] = filepath.Join(dir, pattern)
			}
		}
	}
	if a.Alarm != nil && a.Alarm.Webhook != nil {
		add(pathSetting{at: &a.Alarm.Webhook.CACert, path: []string{"audit", "alarm", "webhook", "ca_cert"}})
		if s := a.Alarm.Webhook.Bearer; s != nil {
			add(pathSetting{at: &s.File, path: []string{"audit", "alarm", "webhook", "bearer", "file"}, secret: true})
		}
	}
	if a.OTLP == nil {
		return
	}
	add(pathSetting{at: &a.OTLP.CACert, path: []string{"audit", "otlp", "ca_cert"}})
	for name, s := range a.OTLP.Headers {
		if s != nil {
			add(pathSetting{at: &s.File, path: []string{"audit", "otlp", "headers", name, "file"}, secret: true})
		}
	}
}

// pathSetting is a setting that names something in the file system.
type pathSetting struct {
	at     *string
	path   []string
	dir    bool // a directory, which need not exist
	spare  bool // one that the CA can do without
	made   bool // a file that the CA makes; only its directory has to exist
	secret bool // for the process only
}

// absolute finds the settings that are paths and makes them absolute, from the folder dir of the configuration file.
func (l *loader) absolute(dir string) {
	c := l.config
	add := func(p pathSetting) {
		if *p.at == "" {
			return
		}
		if !filepath.IsAbs(*p.at) {
			*p.at = filepath.Join(dir, *p.at)
		}
		l.paths = append(l.paths, p)
	}
	add(pathSetting{at: &c.Identity.File, path: []string{"identity", "file"}})
	tagged(reflect.ValueOf(&c.CA).Elem(), []string{"ca"}, add)
	for i := range c.CT.Logs {
		add(pathSetting{at: &c.CT.Logs[i].PublicKey, path: []string{"ct", "logs", strconv.Itoa(i), "public_key"}})
		add(pathSetting{at: &c.CT.Logs[i].CACert, path: []string{"ct", "logs", strconv.Itoa(i), "ca_cert"}})
		if pair := c.CT.Logs[i].ClientCertificate; pair != nil {
			add(pathSetting{at: &pair.Certificate, path: []string{"ct", "logs", strconv.Itoa(i), "client_certificate", "certificate"}})
			add(pathSetting{at: &pair.Key, path: []string{"ct", "logs", strconv.Itoa(i), "client_certificate", "key"}, secret: true})
		}
	}
	add(pathSetting{at: &c.CT.Policy.TrustedRoot, path: []string{"ct", "policy", "trusted_root"}})
	if c.CT.Embedded != nil {
		add(pathSetting{at: &c.CT.Embedded.Dir, path: []string{"ct", "embedded", "dir"}, dir: true})
	}
	l.absoluteAudit(dir, add)
	add(pathSetting{at: &c.StateDir, path: []string{"state_dir"}, dir: true, spare: true})
}

// tagged calls add for each setting in v that its struct tag calls a path: path:"read" is a file that is read, and
// path:"secret" one that only this process may read. v can be set; path leads to it.
func tagged(v reflect.Value, path []string, add func(pathSetting)) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return
	}
	for _, f := range fieldsOf(v.Type()) {
		field, at := v.FieldByIndex(f.index), append(slices.Clone(path), f.name)
		kind := v.Type().FieldByIndex(f.index).Tag.Get("path")
		switch {
		case kind == "":
			tagged(field, at, add)
		case field.Kind() == reflect.String:
			add(pathSetting{at: field.Addr().Interface().(*string), path: at, secret: kind == "secret"}) //nolint:forcetypeassert // the kind
		case field.Kind() == reflect.Slice:
			for i := range field.Len() {
				add(pathSetting{
					at:   field.Index(i).Addr().Interface().(*string), //nolint:forcetypeassert // a list of texts
					path: append(slices.Clone(at), strconv.Itoa(i)), secret: kind == "secret",
				})
			}
		}
	}
}
