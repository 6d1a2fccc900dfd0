package journal

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// Inspect finds what would stop [Open] and can be seen without changing anything: a place that cannot hold a journal, a file that is
// none or is damaged, secrets and certificates that cannot be read. Its errors are [fault.Setting] values. Another process may have the
// journal and write to it.
func (c Config) Inspect() error {
	var errs []error
	key, err := c.Key.Read()
	if err != nil {
		errs = append(errs, fault.Under(err, "key"))
	} else if c.File != "" {
		if err := inspectFile(c.File, newChain(key)); err != nil {
			errs = append(errs, badJournal(err))
		}
	}
	if c.Subjects == SubjectsDigest {
		if _, err := c.ReadSalt(); err != nil && (c.Salt != nil || !errors.Is(err, fs.ErrNotExist)) {
			errs = append(errs, c.badSalt(err))
		}
	}
	_, sinks, err := c.sinks()
	for _, s := range sinks {
		s.close()
	}
	return errors.Join(append(errs, err)...)
}

// badJournal is an error about a journal's file, as a setting. Most of them name the file and say what to do.
func badJournal(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return fault.BadFile(at.Path, err, "file")
	}
	return fault.BadSetting(err.Error(), "", "file")
}

func (c Config) badSalt(err error) error {
	var at *fs.PathError
	switch {
	case c.Salt != nil:
		return fault.Under(err, "salt")
	case errors.As(err, &at):
		return fault.BadFile(c.File+saltSuffix, err, "subjects")
	}
	return fault.BadSetting(err.Error(), "", "subjects")
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
			names, sinks = append([]string{"stdout"}, names...), append([]sink{&streamSink{out: out}}, sinks...)
		}
		j.store = &sinkStore{names, sinks}
		return "", nil
	}
	size, err := c.maxSize()
	if err != nil {
		return "", err
	}
	j.file = &fileStore{path: c.File, maxSize: size, wrap: o.Disk, now: o.Now, notice: j.wasChanged}
	j.store = j.file
	if cut, err = openFile(j.file, j.chain); err != nil {
		return "", fmt.Errorf("file: %w", err)
	}
	j.chain = j.file.last
	for i, one := range sinks {
		j.copies = append(j.copies, newCopier(copierOptions{name: names[i], path: c.File, sink: one, log: j.log, metrics: j.metrics}))
	}
	if c.Stdout { // whoever reads it for the first time wants what happens now, not all that ever happened
		j.copies = append(j.copies, newCopier(copierOptions{
			name: "stdout", path: c.File, sink: &streamSink{out: out}, log: j.log, metrics: j.metrics,
			fresh: j.chain.seq,
		}))
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

// sinks opens the configured sinks. None connects before it has something to send.
func (c Config) sinks() (names []string, sinks []sink, err error) {
	if c.Syslog != nil {
		s, err := newSyslog(*c.Syslog)
		if err != nil {
			return nil, nil, fault.Under(err, "syslog")
		}
		names, sinks = append(names, "syslog"), append(sinks, s)
	}
	if c.OTLP != nil {
		s, err := newOTLP(*c.OTLP)
		if err != nil {
			return nil, nil, fault.Under(err, "otlp")
		}
		names, sinks = append(names, "otlp"), append(sinks, s)
	}
	return names, sinks, nil
}

// streamSink writes lines to a stream. A write that nobody reads goes on beside the sink, as nothing can end it:
// whoever sends the same messages again waits for it, and is not told of another one.
type streamSink struct {
	out     io.Writer
	pending chan error // of the write that is under way; nil: none is
	last    uint64     // the last record of it
}

func (s *streamSink) send(ctx context.Context, batch []message) error {
	last := batch[len(batch)-1].record.Seq
	for {
		same := s.pending != nil && s.last == last
		if s.pending == nil {
			var b bytes.Buffer
			for _, m := range batch {
				b.Write(m.raw)
				b.WriteByte('\n')
			}
			pending := make(chan error, 1)
			go func() {
				_, err := s.out.Write(b.Bytes())
				pending <- err
			}()
			s.pending, s.last, same = pending, last, true
		}
		select {
		case err := <-s.pending:
			s.pending = nil
			if same {
				return err
			}
		case <-ctx.Done():
			return errors.New("no process reads standard output")
		}
	}
}

func (s *streamSink) close() {}

// tlsConfig trusts the certificates of the file, or the system's where none is named.
func tlsConfig(file string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return t, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.BadFile(file, err, "ca_cert")
	}
	if t.RootCAs, err = pemfile.Pool(data); err != nil {
		return nil, fault.BadContent(err, "write the path of CA certificates in PEM", "ca_cert").In(file)
	}
	return t, nil
}
