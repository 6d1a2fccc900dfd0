package config

import (
	"path/filepath"
	"strconv"
)

// pathSetting is a setting that names something in the file system.
type pathSetting struct {
	at     *string
	path   []string
	dir    bool // a directory, which need not exist
	secret bool // for the process only
}

// absolute finds the settings that are paths and makes them absolute, from the folder dir of the configuration file.
func (l *loader) absolute(dir string) {
	c := l.config
	add := func(p pathSetting) {
		if *p.at == "" {
			return
		}
		p.shown = *p.at
		if !filepath.IsAbs(*p.at) {
			p.shown = filepath.Join(shownDir, *p.at)
			*p.at = filepath.Join(dir, *p.at)
		}
		l.paths = append(l.paths, p)
	}
	add(pathSetting{at: &c.Identity.File, path: []string{"identity", "file"}})
	if f := c.CA.File; f != nil {
		add(pathSetting{at: &f.Chain, path: []string{"ca", "file", "chain"}})
		add(pathSetting{at: &f.Key, path: []string{"ca", "file", "key"}, secret: true})
		if f.Password != nil {
			add(pathSetting{at: &f.Password.File, path: []string{"ca", "file", "password", "file"}, secret: true})
		}
	}
	for i := range c.CA.Trust {
		add(pathSetting{at: &c.CA.Trust[i], path: []string{"ca", "trust", strconv.Itoa(i)}})
	}
	for i := range c.CT.Logs {
		add(pathSetting{at: &c.CT.Logs[i].PublicKey, path: []string{"ct", "logs", strconv.Itoa(i), "public_key"}})
		add(pathSetting{at: &c.CT.Logs[i].CACert, path: []string{"ct", "logs", strconv.Itoa(i), "ca_cert"}})
	}
	if c.CT.Embedded != nil {
		add(pathSetting{at: &c.CT.Embedded.Dir, path: []string{"ct", "embedded", "dir"}, dir: true})
	}
	add(pathSetting{at: &c.StateDir, path: []string{"state_dir"}, dir: true})
}

// checkPaths says which files cannot be read. It looks at no content, and opens regular files only: a pipe holds its
// content once.
func (l *loader) checkPaths() {
	for _, p := range l.paths {
		if p.at == &l.config.Identity.File {
			continue // loadIssuers reads it
		}
		info, err := os.Stat(*p.at)
		switch {
		case p.dir && os.IsNotExist(err):
			continue // made at the start
		case err != nil:
			l.setting(fault.BadSetting(p.shown+" cannot be read: "+cause(err), "write the path of a file, relative to the folder of this file", p.path...))
			continue
		case p.dir && !info.IsDir():
			l.setting(fault.BadSetting(p.shown+" is a file", "write the path of a directory, which need not exist", p.path...))
			continue
		case p.dir:
			continue
		case info.IsDir():
			l.setting(fault.BadSetting(p.shown+" is a directory", "write the path of a file", p.path...))
			continue
		}
		if info.Mode().IsRegular() {
			if err := readable(*p.at); err != nil {
				l.setting(fault.BadSetting(p.shown+" cannot be read: "+cause(err), "let the user that mayfly runs as read it", p.path...))
				continue
			}
		}
		if others := info.Mode().Perm() & 0o007; p.secret && others != 0 {
			l.warning(l.main, p.shown+" is open to every user of this host; take the permissions away with chmod o=", p.path...)
		}
	}
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
