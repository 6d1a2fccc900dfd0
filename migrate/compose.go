package migrate

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/bounded"
)

// compose returns the services of a Docker Compose file (compose-spec) that run "fulcio serve".
func compose(d document, w Where) ([]candidate, error) {
	dir := filepath.Dir(d.file)
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(w.Dir, dir)
	}
	c := &composer{dir: dir, doc: d.v, variables: w.Variables}
	services, _ := at(d.v, "services").(map[string]any)
	var out []candidate
	for _, name := range slices.Sorted(maps.Keys(services)) {
		c.unknown = ""
		p, err := c.service(services[name])
		if err != nil {
			return nil, fmt.Errorf("%s: service %s: %w", d.file, name, err)
		}
		if !p.serves(textAt(services[name], "image") + " " + name) {
			continue
		}
		if c.unknown != "" {
			return nil, fmt.Errorf("%s: service %s: %s is not evaluated by this command; write the value there, or "+
				"use the output of \"docker compose config\"", d.file, name, c.unknown)
		}
		p.Name = d.file + ": service " + name
		out = append(out, candidate{name, p})
	}
	return out, nil
}

// serves reports whether a container runs "fulcio serve". about is its name and image.
func (p *Process) serves(about string) bool {
	if !slices.Contains(p.Args, "serve") {
		return false
	}
	if strings.Contains(about, "fulcio") || strings.Contains(strings.Join(p.Args, " "), "fulcio") {
		return true
	}
	for name := range p.Env {
		if strings.HasPrefix(name, envPrefix) {
			return true
		}
	}
	return false
}

type composer struct {
	dir       string
	doc       any
	variables map[string]string
	// unknown is an expression ${…} that replaced could not evaluate.
	unknown string
}

func (c *composer) service(s any) (*Process, error) {
	p := &Process{Container: true, Env: map[string]Variable{}}
	for _, key := range []string{"entrypoint", "command"} {
		words, err := c.words(at(s, key))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		p.Args = append(p.Args, words...)
	}
	if err := c.environment(s, p); err != nil {
		return nil, err
	}
	for _, v := range listAt(s, "volumes") {
		if m, ok := c.volume(v); ok {
			p.Mounts = append(p.Mounts, m)
		}
	}
	p.Mounts = append(p.Mounts, c.objects(s, "secrets", "/run/secrets/")...)
	p.Mounts = append(p.Mounts, c.objects(s, "configs", "/")...)
	// Compose has replaced the variables already, and a container runtime replaces none.
	for i, a := range p.Args {
		p.Args[i] = strings.ReplaceAll(a, "$", "$$")
	}
	return p, nil
}

// words returns a command, which is a list or a line of shell words.
func (c *composer) words(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return splitWords(c.replaced(v))
	case []any:
		var out []string
		for _, one := range v {
			out = append(out, c.replaced(textAt(one)))
		}
		return out, nil
	}
	return nil, fmt.Errorf("the value is neither a text nor a list")
}

// splitWords splits a line into words as a shell does, with quotes and backslashes.
func splitWords(line string) ([]string, error) {
	var out []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				out = append(out, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("a quotation mark or a backslash is not closed")
	}
	if inWord {
		out = append(out, word.String())
	}
	return out, nil
}

// replaced replaces $NAME, ${NAME}, ${NAME:-default}, ${NAME-default}, and ${NAME:?text} and ${NAME?text} if the variable
// is set; $$ is a dollar sign. Of other expressions, it sets unknown.
func (c *composer) replaced(s string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		switch {
		case strings.HasPrefix(rest, "$"):
			out.WriteString("$")
			s = rest[1:]
		case strings.HasPrefix(rest, "{"):
			inner, after, closed := strings.Cut(rest[1:], "}")
			if !closed {
				out.WriteString("$" + rest)
				return out.String()
			}
			out.WriteString(c.variable(inner))
			s = after
		default:
			n := nameLength(rest)
			if n == 0 {
				out.WriteString("$")
			} else {
				out.WriteString(c.variables[rest[:n]])
			}
			s = rest[n:]
		}
	}
}

// nameLength returns the length of the name of a variable at the beginning of s.
func nameLength(s string) int {
	return len(s) - len(strings.TrimLeft(s, "_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
}

// variable evaluates the inside of ${…}.
func (c *composer) variable(inner string) string {
	n := nameLength(inner)
	v, set := c.variables[inner[:n]]
	operator, empty := strings.CutPrefix(inner[n:], ":") // an empty value counts as not set
	set = set && (v != "" || !empty)
	fallback, hasFallback := strings.CutPrefix(operator, "-")
	switch {
	case n == 0:
	case inner[n:] == "", set && (hasFallback || strings.HasPrefix(operator, "?")):
		return v
	case hasFallback && !strings.Contains(fallback, "$"):
		return fallback
	}
	c.unknown = "${" + inner + "}"
	return ""
}

func (c *composer) environment(s any, p *Process) error {
	files := textsAt(s, "env_file")
	if one := textAt(s, "env_file"); one != "" {
		files = []string{one}
	}
	for _, name := range files {
		data, err := bounded.ReadFile(c.path(c.replaced(name)), maxFile)
		if err != nil {
			return fmt.Errorf("env_file: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			if name, text, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
				p.Env[strings.TrimSpace(name)] = Variable{Text: strings.Trim(strings.TrimSpace(text), `"'`)}
			}
		}
	}
	if m, ok := at(s, "environment").(map[string]any); ok {
		for name, v := range m {
			if v == nil {
				p.Env[name] = Variable{Text: c.variables[name]}
			} else {
				p.Env[name] = Variable{Text: c.replaced(textAt(v))}
			}
		}
	}
	for _, one := range textsAt(s, "environment") {
		name, text, ok := strings.Cut(one, "=")
		if !ok {
			text = "$" + name
		}
		p.Env[name] = Variable{Text: c.replaced(text)}
	}
	return nil
}

// path returns the absolute path of a file that the Compose file names.
func (c *composer) path(name string) string {
	if home, ok := strings.CutPrefix(name, "~/"); ok {
		return filepath.Join(c.variables["HOME"], home)
	}
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(c.dir, name)
}

// volume returns a bind mount or a named volume.
func (c *composer) volume(v any) (Mount, bool) {
	source, target := c.replaced(textAt(v, "source")), c.replaced(textAt(v, "target"))
	if s, ok := v.(string); ok {
		parts := strings.Split(c.replaced(s), ":")
		if len(parts) < 2 {
			return Mount{}, false
		}
		source, target = parts[0], parts[1]
	}
	if target == "" || source == "" {
		return Mount{}, false
	}
	if strings.ContainsAny(source[:1], "./~") {
		return Mount{At: target, Host: c.path(source)}, true
	}
	return Mount{At: target, Unknown: func(name string) File {
		return File{From: "the file " + name + " of the volume " + source}
	}}, true
}

// objects returns the secrets or configs of a service.
func (c *composer) objects(s any, kind, below string) []Mount {
	var out []Mount
	for _, one := range listAt(s, kind) {
		source, target := textAt(one), textAt(one, "target")
		if source == "" {
			source = textAt(one, "source")
		}
		if target == "" {
			target = source
		}
		if !strings.HasPrefix(target, "/") {
			target = below + target
		}
		m := Mount{At: target, Unknown: func(string) File {
			return File{From: "the entry " + source + " of " + kind}
		}}
		if file := textAt(c.doc, kind, source, "file"); file != "" {
			m.Host = c.path(c.replaced(file))
		} else if content := textAt(c.doc, kind, source, "content"); content != "" {
			m.Files = map[string]File{"": {Data: []byte(c.replaced(content))}}
		}
		out = append(out, m)
	}
	return out
}
