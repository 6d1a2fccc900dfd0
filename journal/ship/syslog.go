package ship

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

const (
	// timeLayout is RFC 3339 with microseconds, as in RFC 5424 §6.2.3.
	timeLayout = "2006-01-02T15:04:05.000000Z"
	// maxDatagram bounds a message over UDP. A longer one is truncated, so that part of it arrives; the file has the
	// whole record.
	maxDatagram = 60 << 10
	// sendBuffer is the size that the kernel's send buffer of a stream is set to; Linux doubles it. tailSize is how
	// many bytes of messages are kept to be sent again. It MUST be larger than the buffer.
	sendBuffer = 128 << 10
	tailSize   = 512 << 10
	// deliveredAfter is the time after which the bytes of a write count as delivered to the receiver's kernel, if an
	// orderly end of the connection shows that the network works.
	deliveredAfter = 10 * time.Second
)

// facilities are the codes of RFC 5424 table 1, by their names in syslog.conf.
var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
	"authpriv": 10, "ftp": 11,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

// syslogReceiver sends records as syslog messages (RFC 5424). On a stream, each is preceded by its length (RFC 6587
// §3.4.1).
//
// The protocol has no acknowledgement: a write to a stream succeeds when the bytes are in the kernel's send buffer.
// Therefore the size of that buffer is bounded, and the messages that may still be in it are kept in memory. After a
// connection is lost they are sent again on the next one. A receiver therefore gets each record that was written to the
// stream while this process runs, unless the connection is lost after the receiver's kernel accepted it and before the
// receiver read it.
type syslogReceiver struct {
	network, address string
	tls              *tls.Config // nil: plain text
	facility         int
	host             string

	conn    net.Conn // nil: none
	stream  bool     // conn is a stream socket, not a datagram socket
	tail    [][]byte // the last messages that were written to a stream, with their lengths
	written time.Time
}

func (c *SyslogConfig) open(io.Writer) (receiver, error) {
	u, err := url.Parse(c.Address)
	if err != nil {
		return nil, err
	}
	s := &syslogReceiver{network: u.Scheme, address: u.Host, facility: facilities[c.facility()]}
	switch u.Scheme {
	case "unix":
		s.address = u.Path
	case "tls":
		s.network = "tcp"
		roots, err := pemfile.LoadPool(c.CACert, "ca_cert")
		if err != nil {
			return nil, err
		}
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	}
	if s.host, err = os.Hostname(); err != nil || s.host == "" || strings.ContainsAny(s.host, " \t\n") {
		s.host = "-"
	}
	return s, nil
}

func (s *syslogReceiver) send(ctx context.Context, batch []Message) error {
	err := s.try(ctx, batch)
	if err != nil {
		s.close()
	}
	return err
}

func (s *syslogReceiver) try(ctx context.Context, batch []Message) error {
	if s.conn != nil && s.stream && s.lost() {
		s.close()
	}
	resend := s.conn == nil
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
	if !s.stream {
		return s.sendDatagrams(batch)
	}
	frames := make([][]byte, 0, len(s.tail)+len(batch))
	if resend {
		frames = append(frames, s.tail...)
	}
	for _, m := range batch {
		text := s.format(m)
		frames = append(frames, append(strconv.AppendInt(nil, int64(len(text)), 10), append([]byte{' '}, text...)...))
	}
	if _, err := s.conn.Write(bytes.Join(frames, nil)); err != nil {
		return err
	}
	s.keep(frames[len(frames)-len(batch):])
	return nil
}

func (s *syslogReceiver) sendDatagrams(batch []Message) error {
	for _, m := range batch {
		text := s.format(m)
		if s.network == "udp" {
			text = text[:min(len(text), maxDatagram)]
		}
		if _, err := s.conn.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// keep adds written messages to the tail, and drops the oldest ones beyond its size.
func (s *syslogReceiver) keep(frames [][]byte) {
	s.tail, s.written = append(s.tail, frames...), time.Now()
	size, from := 0, len(s.tail)
	for from > 0 && size < tailSize {
		from--
		size += len(s.tail[from])
	}
	s.tail = slices.Clone(s.tail[from:]) // so that the garbage collector can free the dropped ones
}

// dial connects. A Unix socket is a datagram socket, such as /dev/log, or else a stream socket.
func (s *syslogReceiver) dial(ctx context.Context) error {
	d := &net.Dialer{Timeout: sendTimeout}
	networks := []string{s.network}
	if s.network == "unix" {
		networks = []string{"unixgram", "unix"}
	}
	var conn net.Conn
	var err error
	for _, network := range networks {
		s.stream = network == "tcp" || network == "unix"
		if conn, err = d.DialContext(ctx, network, s.address); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	if c, ok := conn.(interface{ SetWriteBuffer(bytes int) error }); ok && s.stream {
		err = c.SetWriteBuffer(sendBuffer)
	}
	if err == nil && s.tls != nil {
		config := s.tls.Clone()
		if config.ServerName, _, err = net.SplitHostPort(s.address); err == nil {
			secured := tls.Client(conn, config)
			conn, err = secured, secured.HandshakeContext(ctx)
		}
	}
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	s.conn = conn
	return nil
}

// format returns the message: PRI, version, time, host, program, process, type, no structured data, and the record.
func (s *syslogReceiver) format(m Message) []byte {
	b := make([]byte, 0, len(m.Line)+128)
	b = fmt.Appendf(b, "<%d>1 %s %s mayfly %d %s - ", s.facility*8+int(m.Severity), m.Time.UTC().Format(timeLayout),
		s.host, os.Getpid(), m.Kind)
	return append(b, m.Line...)
}

// lost reports whether the receiver has closed the connection, which a write would not show. A receiver never sends
// anything, so a read that does not time out is the end.
func (s *syslogReceiver) lost() bool {
	if err := s.conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return true
	}
	_, err := s.conn.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if errors.Is(err, io.EOF) && time.Since(s.written) > deliveredAfter {
		s.tail = nil // an idle connection was closed: all messages had arrived
	}
	return true
}

func (s *syslogReceiver) close() {
	if s.conn != nil {
		_ = s.conn.Close() // messages that may not have arrived are in the tail, or are sent again with their batch
		s.conn = nil
	}
}
