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
		if !filepath.IsAbs(*p.at) {
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
