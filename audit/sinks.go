package audit

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Inspect finds what would stop [Open] and can be seen without touching the journal: a place that cannot hold one, secrets and
// certificates that cannot be read.
func (c Config) Inspect() error {
	if c.File != "" {
		if err := checkPlace(c.File); err != nil {
			return fmt.Errorf("file: %w", err)
		}
	}
	if _, err := c.Key.Read(); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if c.Subjects == SubjectsDigest {
		if _, err := c.ReadSalt(); err != nil && (c.Salt != nil || !errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("salt: %w", err)
		}
	}
	_, sinks, err := c.sinks()
	for _, s := range sinks {
		s.close()
	}
	return err
}

// openStore opens the place where records are durable, and the copies of it.
func (j *Journal) openStore(c Config, o Options) (cut string, err error) {
	names, sinks, err := c.sinks()
	if err != nil {
		return "", err
	}
	out := io.Writer(os.Stdout)
	if o.Stdout != nil {
		out = o.Stdout
	}
	if c.File == "" {
		if c.Stdout {
			names, sinks = append([]string{"stdout"}, names...), append([]sink{streamSink{out}}, sinks...)
		}
		j.store = &sinkStore{names, sinks}
		return "", nil
	}
	if c.Stdout {
		j.out = out
	}
	size, err := c.maxSize()
	if err != nil {
		return "", err
	}
	j.file = &fileStore{path: c.File, maxSize: size, wrap: o.Disk, now: o.Now}
	j.store = j.file
	if cut, err = openFile(j.file, j.chain); err != nil {
		return "", fmt.Errorf("file: %w", err)
	}
	j.chain = j.file.last
	for i, one := range sinks {
		j.copies = append(j.copies, newCopier(copierOptions{name: names[i], path: c.File, sink: one, log: j.log, metrics: j.metrics}))
	}
	return cut, nil
}

func (j *Journal) closeStore() {
	switch s := j.store.(type) {
	case *fileStore:
		s.close()
	case *sinkStore:
		s.close()
	}
}

// stdout writes the copy for standard output, which waits for whoever reads it. The file is what counts.
func (j *Journal) stdout(lines []byte) {
	if j.out == nil {
		return
	}
	if _, err := j.out.Write(lines); err != nil {
		j.metrics.copyFailures.WithLabelValues("stdout").Inc()
		j.log.Warn("journal: the copy on standard output failed", "cause", err.Error())
	}
}

// sinks opens the configured sinks. None connects before it has something to send.
func (c Config) sinks() (names []string, sinks []sink, err error) {
	if c.Syslog != nil {
		s, err := newSyslog(*c.Syslog)
		if err != nil {
			return nil, nil, fmt.Errorf("syslog: %w", err)
		}
		names, sinks = append(names, "syslog"), append(sinks, s)
	}
	if c.OTLP != nil {
		s, err := newOTLP(*c.OTLP)
		if err != nil {
			return nil, nil, fmt.Errorf("otlp: %w", err)
		}
		names, sinks = append(names, "otlp"), append(sinks, s)
	}
	return names, sinks, nil
}

// streamSink writes lines to a stream.
type streamSink struct{ out io.Writer }

func (s streamSink) send(_ context.Context, batch []message) error {
	var b bytes.Buffer
	for _, m := range batch {
		b.Write(m.raw)
		b.WriteByte('\n')
	}
	_, err := s.out.Write(b.Bytes())
	return err
}

func (s streamSink) close() {}

// tlsConfig trusts the certificates of the file, or the system's where none is named.
func tlsConfig(file string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return t, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca_cert: %w", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(data) {
		return nil, errors.New("ca_cert: " + filepath.Base(file) + " holds no certificate in PEM")
	}
	return t, nil
}
