package setup

import (
	"bytes"
	_ "embed" // the templates
	"encoding/json"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

//go:embed mayfly.yaml.tmpl
var configTemplate string

//go:embed identity.yaml.tmpl
var issuersTemplate string

// texts are the two files of a configuration.
type texts struct{ config, issuers []byte }

// render returns the texts of the configuration, which [config.Draft] accepts.
func (p *Plan) render() (texts, []config.Warning, error) {
	v, err := p.values()
	if err != nil {
		return texts{}, nil, err
	}
	var out texts
	if out.config, err = execute(configTemplate, v); err != nil {
		return texts{}, nil, err
	}
	if out.issuers, err = execute(issuersTemplate, v); err != nil {
		return texts{}, nil, err
	}
	warnings, err := config.Draft{Path: ConfigFile, Main: out.config, Issuers: out.issuers}.Review()
	return out, warnings, err
}

// values are what the templates read.
type values struct {
	*Plan
	HTTP, GRPC string
	Issuers    []issuerValues
	CA, TSA    string // the blocks of the key backends
	TUF        string // the password of the TUF repository, in a block
	Origin     string // of the log of certificates
}

type issuerValues struct {
	Issuer
	Rule, Expression, Web string
}

func (p *Plan) values() (*values, error) {
	named := *p
	var err error
	for _, path := range []*string{
		&named.State, &named.TLS.Certificate, &named.TLS.Key, &named.TLS.CABundle,
	} {
		if *path, err = absolute(*path); err != nil {
			return nil, err
		}
	}
	if named.Password, err = forConfig(p.Password); err != nil {
		return nil, err
	}
	v := &values{Plan: &named, Origin: p.Host() + "/ct"}
	v.HTTP, v.GRPC = p.Listener()
	for _, i := range p.Issuers {
		i = i.withDefaults()
		name, expression := i.Rule()
		v.Issuers = append(v.Issuers, issuerValues{i, name, expression, i.parameter()})
	}
	if v.CA, err = block(named.key(p.CAKey, CADir)); err != nil || p.Private == nil {
		return v, err
	}
	if v.TSA, err = block(named.key(p.Private.TSAKey, TSADir)); err != nil {
		return nil, err
	}
	if named.Password != nil {
		v.TUF, err = block(struct {
			Password *secret.Source `yaml:"password"`
		}{named.Password})
	}
	return v, err
}

// Writable returns a path of what the server writes, in YAML: relative to the directory of the configuration, unless
// the plan names another directory.
func (v *values) Writable(name string) (string, error) {
	if v.State == "" {
		return name, nil
	}
	return quote(filepath.Join(v.State, filepath.FromSlash(name)))
}

// key returns the key backend of a key at a URI, or in a file of the directory if the URI is empty.
func (p *Plan) key(uri, dir string) backends.Table {
	chain, keyFile := dir+"/chain.pem", dir+"/"+dir+"-key.pem"
	if uri != "" {
		return backends.Table{KMS: &kms.Settings{Chain: chain, Key: uri}}
	}
	return backends.Table{File: &file.Settings{Chain: chain, Key: keyFile, Password: p.Password}}
}

// forConfig returns the source of a password for a configuration.
func forConfig(s *secret.Source) (*secret.Source, error) {
	if s == nil {
		return nil, nil //nolint:nilnil // no password
	}
	path, err := absolute(s.File)
	return &secret.Source{Env: s.Env, File: path}, err
}

// block returns settings in YAML.
func block(settings any) (string, error) {
	data, err := config.Encode(settings)
	return strings.TrimRight(string(data), "\n"), err
}

func execute(text string, v *values) ([]byte, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"quote": quote,
		"indent": func(n int, text string) string {
			return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", n))
		},
	}).Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, v)
	return out.Bytes(), err
}

// quote returns a text as YAML: a string of JSON is one of YAML.
func quote(text string) (string, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(text)
	return strings.TrimSuffix(out.String(), "\n"), err
}
