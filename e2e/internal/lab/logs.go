package lab

import (
	"context"
	"strings"
)

// Log is a Certificate Transparency log.
type Log struct {
	Name   string
	URL    string // of submission and of reading
	Origin string // "" for an RFC 6962 log
	Key    KeyPair
	Server *Process // nil for the log inside mayfly

	start func(l *Lab) *Process
}

// Restart starts a log again that was killed. It runs until the test of l ends.
func (g *Log) Restart(l *Lab) {
	l.Helper()
	g.Server = g.start(l)
}

// TesseraCT starts a static-ct log.
func (l *Lab) TesseraCT(roots string) *Log {
	l.Helper()
	return l.TesseraCTIn(LogPlace{Name: "tesseract", Roots: roots})
}

// LogPlace says which of several logs of a kind is meant, and where its files are.
type LogPlace struct {
	Name  string
	Roots string // file
	Dir   string // "": a folder of the lab
}

// TesseraCTIn starts one of several static-ct logs.
func (l *Lab) TesseraCTIn(at LogPlace) *Log {
	l.Helper()
	address := l.Address()
	g := &Log{Name: at.Name, URL: "http://" + address, Origin: "e2e.test/" + at.Name, Key: l.LogKey(at.Name)}
	if at.Dir == "" {
		at.Dir = l.Mkdir(at.Name, "log")
	}
	g.start = func(l *Lab) *Process {
		return l.Start(at.Name, Command{Name: "tesseract", Args: []string{
			"-listen", address, "-origin", g.Origin, "-dir", at.Dir, "-key", g.Key.Private, "-roots", at.Roots,
		}}, func(ctx context.Context) error { return GetOK(ctx, g.URL+"/ct/v1/get-roots") })
	}
	g.Restart(l)
	return g
}

// CTFE starts an RFC 6962 log. Its entries are lost when it ends.
func (l *Lab) CTFE(roots string) *Log {
	l.Helper()
	return l.CTFEIn(LogPlace{Name: "ctfe", Roots: roots})
}

// CTFEIn starts one of several RFC 6962 logs; they keep nothing on disk.
func (l *Lab) CTFEIn(at LogPlace) *Log {
	l.Helper()
	roots := at.Roots
	address := l.Address()
	g := &Log{Name: at.Name, URL: "http://" + address + "/lab", Key: l.LogKey(at.Name)}
	g.start = func(l *Lab) *Process {
		return l.Start(at.Name, Command{Name: "ctfe", Args: []string{
			"-listen", address, "-prefix", "lab", "-key", g.Key.Private, "-roots", roots,
		}}, func(ctx context.Context) error { return GetOK(ctx, g.URL+"/ct/v1/get-sth") })
	}
	g.Restart(l)
	return g
}

// CheckLog verifies a whole static-ct log over HTTP and returns the checker's summary ("size=...").
func (l *Lab) CheckLog(g *Log) string {
	l.Helper()
	r := l.Run(Command{Name: "logcheck", Args: []string{"-url", g.URL, "-origin", g.Origin, "-key", g.Key.Public}})
	return strings.TrimSpace(r.Stdout)
}
