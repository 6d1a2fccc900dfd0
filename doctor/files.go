package doctor

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/owner"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/server/servertls"
)

// inspect loads what the configuration names, as a start does.
func (e *exam) inspect(ctx context.Context, warnings []config.Warning) {
	e.files = problems{}
	e.begin("files")
	defer e.end("files")
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	more, err := node.Inspect(ctx, e.cfg)
	if err != nil {
		e.files.addError(err)
	}
	for _, w := range slices.Concat(warnings, more) {
		text, fix := w.Text, ""
		if i := strings.LastIndex(text, "; "); i > 0 {
			text, fix = text[:i], text[i+2:]
		}
		e.files.add(Warning, text, fix)
	}
}

// of returns the rows of the files, or one that says ok; skipped if a problem of another row came first.
func (e *exam) of(check, text string) []Row {
	if rows := e.files[check]; len(rows) > 0 {
		return rows
	}
	if e.files.broken() {
		return []Row{skipped(check, "not checked as a whole, because of another problem of the configuration",
			"fix the problem and run doctor again")}
	}
	return []Row{ok(check, text)}
}

func (e *exam) configuration(context.Context) []Row {
	return otherwise(e.files["configuration"], "configuration", "digest "+e.cfg.Digest)
}

// permissions finds files that other users of this machine can change, and says whether doctor runs as a user who does
// not own the CA's files.
func (e *exam) permissions(context.Context) []Row {
	const name = "permissions"
	var out []Row
	paths := slices.Clone(e.cfg.Files)
	for _, file := range e.cfg.Files {
		paths = append(paths, filepath.Dir(file))
	}
	paths = append(paths, e.directories()...)
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		st, err := os.Stat(path)
		if err != nil {
			continue // the row of its setting says so
		}
		if st.Mode().Perm()&0o002 != 0 && st.Mode()&fs.ModeSticky == 0 {
			out = append(out, problem(name, fmt.Sprintf("every user of this machine can write to %s (mode %04o)", path,
				st.Mode().Perm()), "chmod o-w "+path))
		}
	}
	st, err := os.Stat(e.Path)
	if err == nil && len(e.directories()) > 0 {
		st, err = os.Stat(e.directories()[0])
	}
	if uid, known := owner.Of(st); err == nil && known && uid != os.Geteuid() {
		out = append(out,
			warning(name, fmt.Sprintf("doctor runs as the user %d, and the files of the CA belong to the "+
				"user %d: what this user may read and write says little about the CA", os.Geteuid(), uid),
				"run doctor as the user that the CA runs as"))
	}
	return otherwise(out, name, fmt.Sprintf("no other user can change the files; user %d", os.Geteuid()))
}

// directories are those that the CA writes to and that exist.
func (e *exam) directories() (out []string) {
	add := func(dir string) {
		if st, err := os.Stat(dir); err == nil && st.IsDir() && !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	if a := e.cfg.Audit; a != nil && a.File != "" {
		add(filepath.Dir(a.File))
	}
	if c := e.cfg.CT.Embedded; c != nil {
		add(c.Dir)
	}
	if c := e.cfg.Rekor; c != nil {
		add(c.Dir)
	}
	if c := e.cfg.Find; c != nil {
		add(c.Dir)
	}
	if t := e.cfg.Publish.TUF; t != nil && t.Dir != "" {
		add(t.Dir)
	}
	if e.cfg.StateDir != "" {
		add(e.cfg.StateDir)
	}
	return out
}

func (e *exam) keyAndChain(context.Context) []Row {
	const name = "key and chain"
	text := "the key signs, and the chain is made when the CA starts"
	if chain, err := node.PublicChain(e.cfg); err == nil {
		text = fmt.Sprintf("the key signs for %s; %s", chain[0].Subject, chainEnd(chain))
	}
	return e.of(name, text)
}

// chainEnd says when the first certificate of a chain expires.
func chainEnd(chain []*x509.Certificate) string {
	end := slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	return fmt.Sprintf("the chain ends at %s, in %s", end.NotAfter.UTC().Format(time.RFC3339),
		human.Duration(time.Until(end.NotAfter).Truncate(time.Second)))
}

func (e *exam) trustMaterial(context.Context) []Row {
	return e.of("trust material",
		"what is published has the chain and the logs of the CA, as far as the configuration "+
			"names it")
}

// tls checks the certificates of the listeners.
func (e *exam) tls(context.Context) (out []Row) {
	const name = "TLS"
	out = slices.Clone(e.files[name])
	for key, c := range e.cfg.Listen.Secured() {
		if err := servertls.Verify(*c); err != nil {
			found := problems{}
			found.addError(e.cfg.Locate(fault.Under(err, "listen", key)))
			out = append(out, found[name]...)
			continue
		}
		if c.Certificate == "" {
			continue
		}
		out = append(out, e.tlsCertificate(key, c.Certificate)...)
	}
	text := "the listeners have no TLS"
	for key := range e.cfg.Listen.Secured() {
		text = "the certificates of the listeners can be used"
		_ = key
	}
	return otherwise(out, name, text)
}

// tlsCertificate checks the end and the names of the certificate of a listener. The certificate can be used now.
func (e *exam) tlsCertificate(key, file string) (out []Row) {
	const name = "TLS"
	data, err := os.ReadFile(file) //nolint:gosec // the file that the configuration names
	block, _ := pem.Decode(data)
	if err != nil || block == nil {
		return nil // it was there a moment ago; the row of a later run says what is wrong
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	if left := time.Until(leaf.NotAfter); left < ca.WarnBefore(leaf.NotAfter.Sub(leaf.NotBefore)) {
		out = append(out, warning(name, fmt.Sprintf("listen.%s: the certificate ends at %s, in %s", key,
			leaf.NotAfter.UTC().Format(time.RFC3339), human.Duration(left.Truncate(time.Second))),
			"renew the certificate"))
	}
	if u, err := url.Parse(e.cfg.Publish.URL); key == "tls" && err == nil && u.Scheme == "https" &&
		leaf.VerifyHostname(u.Hostname()) != nil {
		out = append(out,
			warning(name, fmt.Sprintf("listen.tls: the certificate is not for %s, the host of publish.url",
				u.Hostname()), "obtain a certificate with this name, unless a proxy in front has it"))
	}
	return out
}

func (e *exam) journal(context.Context) []Row {
	const name = "journal"
	rows := e.files[name]
	if a := e.cfg.Audit; a != nil && a.File != "" {
		if len(e.files[name]) == 0 && e.files.broken() { // the files were not checked up to here
			found := problems{}
			if err := a.Inspect(); err != nil {
				found.addError(e.cfg.Locate(fault.Under(err, "audit")))
			}
			rows = found[name]
		}
		rows = append(slices.Clone(rows), e.place(name, filepath.Dir(a.File))...)
		rows = append(rows, e.lock(name, a.File+".lock")...)
	}
	return otherwise(rows, name, "can be written, and its end is intact")
}

func (e *exam) stateDir(context.Context) []Row {
	const name = "state_dir"
	if e.cfg.StateDir == "" {
		return []Row{skipped(name, "is not set: after a restart, tokens of a provider that is down cannot be verified",
			"write state_dir: with a directory that only the CA may write to")}
	}
	rows := slices.DeleteFunc(slices.Clone(e.files[name]), func(r Row) bool { return r.State == Warning })
	rows = append(rows, e.place(name, e.cfg.StateDir)...)
	return otherwise(rows, name, "can be written")
}

// lock reports that another process has a lock that the CA needs, if no CA is known to run.
func (e *exam) lock(check, path string) []Row {
	if _, err := os.Stat(path); err != nil || len(e.running) > 0 {
		return nil
	}
	l, err := durable.TryLock(path)
	if errors.Is(err, durable.ErrLocked) {
		return []Row{problem(check, path+" is locked by another process, and no CA answers at the admin listener",
			"stop the process (fuser "+path+" shows it), or write --admin with the address of the CA that runs")}
	}
	if err == nil {
		err = l.Unlock()
	}
	if err != nil {
		return []Row{problem(check, err.Error(), fault.Advice(err))}
	}
	return nil
}

// What must be free where the CA writes.
const (
	leastBytes  = 256 << 20
	leastInodes = 1000
)

// place checks a directory that the CA writes to: that a file can be written there, and how much is free.
func (e *exam) place(check, dir string) []Row {
	st, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is made at the first start, or its setting has a problem of its own
	}
	if err == nil && !st.IsDir() {
		return nil // likewise
	}
	if err == nil {
		err = probe(dir)
	}
	if err != nil {
		return []Row{problem(check, "a file in "+dir+" cannot be written: "+cause(err), advice(err, dir))}
	}
	bytes, inodes, known := free(dir)
	switch {
	case !known:
	case bytes < leastBytes:
		return []Row{warning(check, fmt.Sprintf("%d MiB are free in %s", bytes>>20, dir),
			fmt.Sprintf("free or add space: the CA needs %d MiB", leastBytes>>20))}
	case inodes < leastInodes:
		return []Row{warning(check, fmt.Sprintf("%d files can still be made in %s", inodes, dir),
			"remove files, or create the file system again with more inodes")}
	}
	return nil
}

// probeSize is enough to need space of its own on every file system.
const probeSize = 64 << 10

// probe writes a file and removes it.
func probe(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".mayfly-doctor-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(make([]byte, probeSize))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// cause is the error of the system, without the name of the temporary file.
func cause(err error) string {
	if at, is := errors.AsType[*fs.PathError](err); is {
		return at.Err.Error()
	}
	return err.Error()
}

func advice(err error, dir string) string {
	if text := fault.Advice(err); text != "" {
		return text
	}
	return "make " + dir + " writable for the CA, with space left"
}

// hostPort splits an address that is listened on.
func hostPort(address string) (string, bool) {
	if address == config.Off || strings.HasPrefix(address, config.SystemdPrefix) {
		return "", false
	}
	_, port, err := net.SplitHostPort(address)
	return port, err == nil
}
