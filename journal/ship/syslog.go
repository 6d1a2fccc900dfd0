package journal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxDatagram bounds a message over UDP. What is longer is cut, so that something arrives; the file has it whole.
const maxDatagram = 60 << 10

// syslogSink sends records as syslog messages (RFC 5424). On a stream each has its length before it (RFC 6587 §3.4.1).
type syslogSink struct {
	network, address string
	tls              *tls.Config
	facility         int
	host             string
	conn             net.Conn
	stream           bool
}

func newSyslog(c SyslogConfig) (*syslogSink, error) {
	u, err := url.Parse(c.Address)
	if err != nil {
		return nil, err
	}
	s := &syslogSink{network: u.Scheme, address: u.Host, facility: facilities[c.facility()]}
	switch u.Scheme {
	case "unix":
		s.address = u.Path
	case "tls":
		s.network = "tcp"
		if s.tls, err = tlsConfig(c.CACert); err != nil {
			return nil, err
		}
	}
	if s.host, err = os.Hostname(); err != nil || s.host == "" || strings.ContainsAny(s.host, " \t\n") {
		s.host = "-"
	}
	return s, nil
}

func (s *syslogSink) send(ctx context.Context, batch []message) error {
	err := s.try(ctx, batch)
	if err != nil {
		s.close()
	}
	return err
}

func (s *syslogSink) try(ctx context.Context, batch []message) error {
	if s.conn != nil && s.stream && s.gone() {
		s.close()
	}
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return err
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	var out []byte
	for _, m := range batch {
		text := s.format(m)
		if s.stream {
			out = append(strconv.AppendInt(out, int64(len(text)), 10), ' ')
			out = append(out, text...)
			continue
		}
		if s.network == "udp" {
			text = text[:min(len(text), maxDatagram)]
		}
		if _, err := s.conn.Write(text); err != nil {
			return err
		}
	}
	if !s.stream {
		return nil
	}
	if _, err := s.conn.Write(out); err != nil {
		return err
	}
	return s.taken(ctx)
}

// dial connects. A local receiver takes datagrams, as /dev/log does, or else a stream.
func (s *syslogSink) dial(ctx context.Context) (err error) {
	d := &net.Dialer{Timeout: sendTimeout}
	switch s.network {
	case "unix":
		if s.conn, err = d.DialContext(ctx, "unixgram", s.address); err == nil {
			s.stream = false
			return nil
		}
		s.conn, err = d.DialContext(ctx, "unix", s.address)
	case "udp":
		s.conn, err = d.DialContext(ctx, "udp", s.address)
		s.stream = false
		return err
	default:
		if s.tls != nil {
			s.conn, err = (&tls.Dialer{NetDialer: d, Config: s.tls}).DialContext(ctx, "tcp", s.address)
		} else {
			s.conn, err = d.DialContext(ctx, "tcp", s.address)
		}
	}
	s.stream = true
	if err != nil {
		s.conn = nil
	}
	return err
}

// format is the message: PRI, version, time, host, program, process, type, no structured data, and the record.
func (s *syslogSink) format(m message) []byte {
	b := make([]byte, 0, len(m.raw)+128)
	b = fmt.Appendf(b, "<%d>1 %s %s mayfly %d %s - ", s.facility*8+m.record.severity(), m.record.Time.UTC().Format(timeLayout), s.host, os.Getpid(), m.record.Kind)
	return append(b, m.raw...)
}

// gone notices that the receiver has closed the connection, which a write would not: a receiver never sends anything.
func (s *syslogSink) gone() bool {
	if err := s.conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return true
	}
	_, err := s.conn.Read(make([]byte, 1))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// taken waits until the receiver's side has acknowledged every byte, where the system can tell. The protocol has no
// acknowledgement of its own.
func (s *syslogSink) taken(ctx context.Context) error {
	conn := s.conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		n, err := unsent(conn)
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%d bytes were not acknowledged: %w", n, ctx.Err())
		}
		if s.gone() {
			return errors.New("the receiver closed the connection")
		}
	}
}

func (s *syslogSink) close() {
	if s.conn != nil {
		_ = s.conn.Close() // what counts has been acknowledged
		s.conn = nil
	}
}
