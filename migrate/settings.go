package migrate

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mayfly-ca/mayfly/internal/bounded"
)

// maxFile is the size limit of a settings file.
const maxFile = 1 << 20

// Where Fulcio has a setting from.
const (
	fromFlag     = "flag"
	fromEnv      = "environment"
	fromSettings = "settings file"
	fromDefault  = "default"
)

// value is a setting as Fulcio sees it.
type value struct {
	text   string
	list   []string // of a flag with several values
	source string
	secret *File // where the value is if it is not known
}

// settings are the settings of a process, by the names of the flags.
type settings struct {
	values map[string]value
	// ignored are settings that look like Fulcio's and that Fulcio does not read, with the reason.
	ignored []Ignored
}

// get returns the text of a setting, with Fulcio's default.
func (s *settings) get(name string) string { return s.values[name].text }

// set reports whether a setting is set, as Fulcio requires it for the settings of a key.
func (s *settings) set(name string) bool { return s.values[name].source != fromDefault }

// placeholder stands for a value that is not known, inside of a text. A NUL cannot be in an argument.
const placeholder = "\x00secret"

// expand replaces $(NAME) by the values of the environment, as Kubernetes does in the arguments of a container.
func (p *Process) expand(arg string) (string, *File) {
	var out strings.Builder
	var secret *File
	for {
		before, rest, found := strings.Cut(arg, "$")
		out.WriteString(before)
		if !found {
			return out.String(), secret
		}
		if after, ok := strings.CutPrefix(rest, "$"); ok {
			out.WriteString("$")
			arg = after
			continue
		}
		name, after, closed := strings.Cut(strings.TrimPrefix(rest, "("), ")")
		v, known := p.Env[name]
		switch {
		case !strings.HasPrefix(rest, "(") || !closed || !known:
			out.WriteString("$")
			arg = rest
		case v.Secret != nil:
			out.WriteString(placeholder)
			secret, arg = v.Secret, after
		default:
			out.WriteString(v.Text)
			arg = after
		}
	}
}

// read returns the settings of a process.
func (p *Process) read() (*settings, error) {
	args, err := p.arguments()
	if err != nil {
		return nil, err
	}
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	table := Flags()
	for _, f := range table {
		f.register(fs)
	}
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		switch name {
		case "http-port", "http-host":
			name = strings.TrimPrefix(name, "http-")
		}
		return pflag.NormalizedName(name)
	})
	secrets := make(map[string]*File)
	if p.Container {
		for i, arg := range args {
			var secret *File
			if args[i], secret = p.expand(arg); secret != nil {
				secrets[args[i]] = secret
			}
		}
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			err = errors.New("the command line asks for help, and starts no server; write it without --help")
		}
		return nil, fmt.Errorf("%s: Fulcio 1.8 refuses the command line: %w", p.Name, err)
	}
	out := &settings{values: map[string]value{}}
	file, err := p.settingsFile(fs.Lookup("config").Value.String(), out)
	if err != nil {
		return nil, err
	}
	for _, f := range table {
		v, err := p.value(f, fs, file)
		if err != nil {
			return nil, err
		}
		if strings.Contains(v.text, placeholder) {
			if v.secret = secretOf(v.text, secrets); v.secret == nil || f.Name != "fileca-key-passwd" {
				return nil, fmt.Errorf("%s: the value of --%s is in a Secret that is not among the files; add the "+
					"manifest of the Secret with --from", p.Name, f.Name)
			}
			v.text = ""
		}
		out.values[f.Name] = v
	}
	p.ignoredVariables(out)
	return out, out.check(p.Name)
}

// secretOf finds the secret of an argument: the whole argument, or what follows the name of the flag.
func secretOf(text string, secrets map[string]*File) *File {
	if text != placeholder {
		return nil
	}
	for arg, f := range secrets {
		if arg == text || strings.HasSuffix(arg, "="+text) {
			return f
		}
	}
	return nil
}

// arguments returns the arguments after "serve".
func (p *Process) arguments() ([]string, error) {
	at := slices.Index(p.Args, "serve")
	if at < 0 {
		if len(p.Args) > 0 && strings.HasPrefix(p.Args[0], "-") {
			return slices.Clone(p.Args), nil
		}
		return nil, fmt.Errorf("%s: the command line of Fulcio has no \"serve\"; write it whole: fulcio serve "+
			"--ca=...", p.Name)
	}
	return slices.Clone(p.Args[at+1:]), nil
}

func (f Flag) register(fs *pflag.FlagSet) {
	short := ""
	if f.Name == "config" {
		short = "c"
	}
	switch f.kind {
	case boolean:
		if f.Name != "help" { // the library knows it
			fs.Bool(f.Name, f.Default == "true", "")
		}
	case unsigned:
		fs.Uint(f.Name, 0, "")
	case duration:
		fs.Duration(f.Name, 0, "")
	case list:
		fs.StringSlice(f.Name, nil, "")
	default:
		fs.StringP(f.Name, short, f.Default, "")
	}
}

// commandLineOnly reports whether Fulcio reads a flag neither from the environment nor from the settings file.
func (f Flag) commandLineOnly() bool { return f.Name == "config" || f.Name == "help" }

// value returns one setting: flag before environment, settings file and default, as the library viper has it. The
// environment variable has the prefix and the name of the flag in upper case, with its hyphens; an empty one counts as
// not set.
func (p *Process) value(f Flag, fs *pflag.FlagSet, file map[string]any) (value, error) {
	if flag := fs.Lookup(f.Name); flag != nil && flag.Changed {
		v := value{text: flag.Value.String(), source: fromFlag}
		if s, ok := flag.Value.(pflag.SliceValue); ok {
			v.list = s.GetSlice()
			v.text = strings.Join(v.list, ",")
		}
		return v, nil
	}
	if f.commandLineOnly() {
		return value{source: fromDefault}, nil
	}
	if e, ok := p.Env[envPrefix+strings.ToUpper(f.Name)]; ok && (e.Text != "" || e.Secret != nil) {
		v := value{text: e.Text, source: fromEnv, secret: e.Secret, list: strings.Fields(e.Text)}
		if e.Secret != nil && f.Name != "fileca-key-passwd" {
			return v, fmt.Errorf("%s: the value of %s is in an object that is not among the files; add its "+
				"manifest with --from", p.Name, envPrefix+strings.ToUpper(f.Name))
		}
		return v, nil
	}
	if raw, ok := find(file, f.Name); ok {
		v := value{source: fromSettings}
		switch raw := raw.(type) {
		case []any:
			for _, one := range raw {
				v.list = append(v.list, fmt.Sprint(one))
			}
			v.text = strings.Join(v.list, ",")
		case map[string]any:
			return v, fmt.Errorf("%s: %s in the settings file is a mapping; write a text", p.Name, f.Name)
		default:
			v.text = fmt.Sprint(raw)
			v.list = strings.Fields(v.text)
		}
		return v, nil
	}
	return value{text: f.Default, source: fromDefault}, nil
}

// find returns a key of the settings file; the one key with a dot may also be nested.
func find(file map[string]any, name string) (any, bool) {
	if v, ok := file[name]; ok {
		return v, v != nil
	}
	first, rest, dotted := strings.Cut(name, ".")
	if inner, ok := file[first].(map[string]any); ok && dotted {
		return find(inner, rest)
	}
	return nil, false
}

const envPrefix = "FULCIO_SERVE_"

// ignoredVariables reports variables with Fulcio's prefix that Fulcio does not read, such as those with an underscore
// in place of the hyphen.
func (p *Process) ignoredVariables(s *settings) {
	read := map[string]bool{}
	hyphens := map[string]string{}
	for _, f := range Flags() {
		upper := strings.ToUpper(f.Name)
		read[envPrefix+upper] = !f.commandLineOnly()
		hyphens[strings.NewReplacer("-", "_", ".", "_").Replace(upper)] = upper
	}
	for _, name := range slices.Sorted(maps.Keys(p.Env)) {
		rest, ours := strings.CutPrefix(name, envPrefix)
		if !ours || read[name] {
			continue
		}
		why := "Fulcio has no flag of this name"
		if with := hyphens[rest]; with != "" && with != rest {
			why = "Fulcio reads it only under the name " + envPrefix + with
		}
		s.ignored = append(s.ignored, Ignored{name, why})
	}
}

// settingsFile reads the file of --config.
func (p *Process) settingsFile(name string, s *settings) (map[string]any, error) {
	if name == "" {
		return nil, nil
	}
	f := p.lookup(name)
	data, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("%s: the settings file %s: %w", p.Name, name, err)
	}
	all, err := parseSettings(data, path.Ext(name))
	if err != nil {
		return nil, fmt.Errorf("the settings file %s: %w", name, err)
	}
	known := map[string]bool{}
	for _, flag := range Flags() {
		known[flag.Name] = !flag.commandLineOnly()
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		_, nested := all[key].(map[string]any)
		switch {
		case known[key], key == "ct-log" && nested:
		case key == "http-host", key == "http-port":
			s.ignored = append(s.ignored, Ignored{
				key, "in a settings file, Fulcio reads it only under the name " + strings.TrimPrefix(key, "http-"),
			})
		default:
			s.ignored = append(s.ignored, Ignored{key, "Fulcio has no flag of this name"})
		}
	}
	return all, nil
}

// read returns the content of a file.
func (f File) read() ([]byte, error) {
	if f.Data != nil {
		return f.Data, nil
	}
	if f.Path == "" {
		return nil, errors.New("the object is not among the files: " + f.From + "; add its manifest with --from")
	}
	return bounded.ReadFile(f.Path, maxFile)
}

// check returns what Fulcio itself refuses at start.
func (s *settings) check(name string) error {
	required, known := map[string][]string{
		"pkcs11ca":    {"hsm-caroot-id"},
		"googleca":    {"gcp_private_ca_parent"},
		"fileca":      {"fileca-cert", "fileca-key", "fileca-key-passwd"},
		"kmsca":       {"kms-resource", "kms-cert-chain-path"},
		"tinkca":      {"tink-kms-resource", "tink-cert-chain-path", "tink-keyset-path"},
		"ephemeralca": nil,
	}[s.get("ca")]
	if !s.set("ca") {
		return fmt.Errorf("%s: Fulcio refuses to start without --ca; write the whole command line, or the environment "+
			"and the settings file, too", name)
	}
	if !known {
		return fmt.Errorf("%s: Fulcio has no --ca=%s; it has fileca, kmsca, pkcs11ca, tinkca, googleca and "+
			"ephemeralca", name, s.get("ca"))
	}
	for _, flag := range required {
		if !s.set(flag) {
			return fmt.Errorf("%s: Fulcio refuses to start: --ca=%s needs --%s", name, s.get("ca"), flag)
		}
	}
	for _, flag := range []string{"port", "grpc-port", "metrics-port"} {
		if n, ok := number(s.get(flag)); !ok || n > 65535 {
			return fmt.Errorf("%s: --%s=%s is not a port; write a number up to 65535", name, flag, s.get(flag))
		}
	}
	for _, flag := range []string{"gcp-kms-retries", "gcp-kms-timeout"} {
		if _, ok := number(s.get(flag)); !ok {
			return fmt.Errorf("%s: --%s=%s is not a number", name, flag, s.get(flag))
		}
	}
	return nil
}

// number parses a decimal number of at most nine digits.
func number(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && len(s) <= 9
}
