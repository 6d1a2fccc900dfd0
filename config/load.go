package config

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/fault"
)

// Load reads the configuration file at path and the issuer file that it names. The error is [Problems]: all errors,
// each with file, line and column. The warnings are valid whether or not there is an error, and in the order of the
// file.
func Load(path string) (*Config, []Warning, error) {
	return (&loader{config: &Config{}, path: path}).load()
}

// LoadPublic is [Load] on a machine without secrets: private keys and passwords need not exist.
func LoadPublic(path string) (*Config, []Warning, error) {
	return (&loader{config: &Config{}, path: path, public: true}).load()
}

// Draft is a configuration that is not on disk yet.
type Draft struct {
	// Path is where the configuration will be. Messages begin with it.
	Path string
	// Main is the text of the configuration, Issuers that of the issuer file that it names.
	Main, Issuers []byte
}

// Review finds what [Load] would refuse in the two texts. It does not look for the files that they name.
func (d Draft) Review() ([]Warning, error) {
	_, warnings, err := (&loader{config: &Config{}, path: d.Path, draft: &d}).load()
	return warnings, err
}

func (l *loader) load() (*Config, []Warning, error) {
	path := l.path
	l.main, l.mainSource = l.readMain(path)
	if l.main == nil || len(l.main.problems) > 0 {
		return nil, nil, l.result()
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		l.problems = append(l.problems, Problem{File: path, What: "its directory is unknown: " + cause(err)})
		return nil, nil, l.result()
	}
	l.defaults()
	l.paths = absolute(l.config, dir)
	l.checkSettings()
	if l.draft == nil {
		l.checkPaths()
	}
	l.loadIssuers()
	l.checkProduction()
	l.warn()
	if err := l.result(); err != nil {
		return nil, l.warnings, err
	}
	a, b := sha256.Sum256(l.mainSource), sha256.Sum256(l.issuerSource)
	sum := sha256.Sum256(slices.Concat(a[:], b[:]))
	l.config.Digest = hex.EncodeToString(sum[:])
	l.config.dir, l.config.main, l.config.issuers, l.config.places = dir, l.main, l.issuers, l.paths
	l.config.issuerPlaces = l.issuerPaths
	l.config.Files = l.files(filepath.Join(dir, filepath.Base(path)))
	return l.config, l.warnings, nil
}

// Named lists the configuration file and, as far as it can be parsed, the files that it names, as absolute paths. It
// also works for a configuration that [Load] refuses, so that its correction is noticed.
func Named(path string) []string {
	main, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	l := &loader{config: &Config{}, path: path}
	if t, _ := l.readMain(path); t != nil {
		l.paths = absolute(l.config, filepath.Dir(main))
	}
	return l.files(main)
}

// files lists main and every file that a setting names and the CA reads.
func (l *loader) files(main string) []string {
	out := []string{main}
	for _, p := range slices.Concat(l.paths, l.issuerPaths) {
		if p.isWatched() {
			out = append(out, *p.at)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// loader is one run of [Load].
type loader struct {
	config                   *Config
	path                     string // as the operator wrote it
	public                   bool   // files with secrets need not exist
	draft                    *Draft // the texts; nil: they are read from files
	main, issuers            *tree  // nil: the file could not be read
	mainSource, issuerSource []byte
	paths, issuerPaths       []pathSetting
	problems                 Problems
	warnings                 []Warning
}

// readMain decodes the configuration file. If the tree has problems, the configuration must not be used.
func (l *loader) readMain(path string) (*tree, []byte) {
	src, p := source{name: path}, (*Problem)(nil)
	if l.draft != nil {
		src.data = l.draft.Main
	} else {
		src, p = readSource(path, path, "name the configuration file with --config")
	}
	if p != nil {
		l.problems = append(l.problems, *p)
		return nil, nil
	}
	return decode(src, l.config, false), src.data
}

// result returns the problems of both files.
func (l *loader) result() error {
	var all Problems
	for _, t := range []*tree{l.main, l.issuers} {
		if t != nil {
			all = append(all, t.problems...)
		}
	}
	return append(all, l.problems...).orNil()
}

func (l *loader) defaults() {
	for _, d := range []struct {
		at    *string
		value string
	}{
		{&l.config.Listen.HTTP, DefaultHTTP},
		{&l.config.Listen.GRPC, DefaultGRPC},
		{&l.config.Listen.Admin, DefaultAdmin},
	} {
		if *d.at == "" {
			*d.at = d.value
		}
	}
}

// loadIssuers reads and checks the issuer file. Its problems have positions in that file.
func (l *loader) loadIssuers() {
	file := l.config.Identity.File
	if file == "" {
		return // reported by checkSettings
	}
	name := shown(l.path, file)
	src, p := source{name: name}, (*Problem)(nil)
	if l.draft != nil {
		src.data = l.draft.Issuers
	} else {
		src, p = readSource(file, name, "write the path of the issuer file, relative to this file")
	}
	if p != nil {
		l.setting(fault.BadSetting(name+" "+p.What, p.Fix, "identity", "file"))
		return
	}
	l.issuers, l.issuerSource = decode(src, &l.config.Issuers, true), src.data
	l.checkIssuers(filepath.Dir(file))
}

// checkIssuers checks the decoded issuer file, whose paths are relative to dir.
func (l *loader) checkIssuers(dir string) {
	if len(l.issuers.problems) > 0 {
		return
	}
	l.issuerPaths = absolute(&l.config.Issuers, dir)
	l.issuers.add(l.config.Issuers.Check())
	l.issuers.add(l.checkKeyAlgorithms())
	if l.draft == nil {
		l.checkPathSettings(l.issuers, l.issuerPaths)
	}
}

// setting adds a problem of the main file.
func (l *loader) setting(s *fault.Setting) { l.main.add(s) }

// add adds a problem for every [fault.Setting] in err, at the position of the setting or of the closest block around
// it.
func (t *tree) add(err error) {
	settings(err, func(s *fault.Setting, leaf error) {
		if s == nil {
			t.report(t.marks[""].value, leaf.Error(), "")
			return
		}
		t.problems = append(t.problems, t.problem(s))
	})
}

// problem returns s as a problem at its position.
func (t *tree) problem(s *fault.Setting) Problem {
	what := s.Problem
	if s.File != "" {
		what = shown(t.src.name, s.File) + ": " + what
	}
	if len(s.Path) > 0 {
		what = strings.Join(s.Path, ".") + ": " + what
	}
	return t.src.problem(t.position(s.Path), what, s.Fix)
}

// position returns the position of a setting: of its value; of its key, if the value is a block; or of the key of the
// closest block around it that the file contains.
func (t *tree) position(path []string) place {
	for n := len(path); n > 0; n-- {
		m, ok := t.marks[pathKey(path[:n])]
		switch {
		case !ok:
			continue
		case n == len(path) && target(m.value).Kind != yaml.MappingNode:
			return place{m.value.Line, m.value.Column}
		}
		return place{m.key.Line, m.key.Column}
	}
	root := t.marks[""].key
	return place{root.Line, root.Column}
}

// warning adds a warning about a setting of t.
func (l *loader) warning(t *tree, text string, path ...string) {
	at := t.position(path)
	l.warnings = append(l.warnings, Warning{
		File: t.src.name, Line: at.line, Column: at.column,
		Text: strings.Join(path, ".") + ": " + text,
	})
}
