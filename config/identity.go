package config

import (
	"path/filepath"
	"reflect"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/oidc"
)

// LoadIdentity reads an issuer file: the file at path or, if that is a configuration, the file that it names. main is
// nil if path is the issuer file itself. The other settings of a configuration are decoded but not checked, so keys and
// chains need not exist.
func LoadIdentity(path string) (issuers *oidc.Config, main *Config, err error) {
	l := &loader{config: &Config{}, path: path}
	src, p := readSource(path, path, "name a configuration or an issuer file")
	if p != nil {
		return nil, nil, Problems{*p}
	}
	if !isIssuerFile(src) {
		l.main = decode(src, l.config, false)
		if len(l.main.problems) > 0 {
			return nil, nil, l.result()
		}
		dir, err := filepath.Abs(filepath.Dir(path))
		if err != nil {
			return nil, nil, err
		}
		l.paths = absolute(l.config, dir)
		l.defaults()
		main, l.config.dir, l.config.main = l.config, dir, l.main
		l.loadIssuers()
		l.config.issuers = l.issuers
	} else {
		l.issuers = decode(src, &l.config.Issuers, true)
		file, err := filepath.Abs(path)
		if err != nil {
			return nil, nil, err
		}
		l.checkIssuers(filepath.Dir(file))
	}
	if err := l.result(); err != nil {
		return nil, nil, err
	}
	return &l.config.Issuers, main, nil
}

// isIssuerFile reports whether the document has a key of an issuer file. A document that cannot be parsed counts as a
// configuration.
func isIssuerFile(src source) bool {
	root, p := src.parse()
	if p != nil || root.Kind != yaml.MappingNode {
		return false
	}
	if isConfigMap(root) {
		return true
	}
	known := fieldsOf(reflect.TypeFor[oidc.Config]())
	for i := 0; i < len(root.Content); i += 2 {
		if known.find(target(root.Content[i]).Value) != nil {
			return true
		}
	}
	return false
}
