package tsa

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/beevik/ntp"

	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// Network Time Security (RFC 8915): a TLS connection gives keys and cookies, and the packets of NTP are authenticated
// with them.

const (
	ntsPort     = "4460"
	ntsProtocol = "ntske/1"
	ntsLabel    = "EXPORTER-network-time-security"
	ntsAEAD     = 15       // AEAD_AES_SIV_CMAC_256
	maxKE       = 16 << 10 // bytes of an answer; a usual one has about 1000
	maxCookies  = 8
	maxCookie   = 1024 // bytes
)

// The records of NTS-KE (RFC 8915 §4.1).
const (
	recordEnd      = 0
	recordProtocol = 1
	recordError    = 2
	recordWarning  = 3
	recordAEAD     = 4
	recordCookie   = 5
	recordServer   = 6
	recordPort     = 7
	recordCritical = 0x8000
)

// The extension fields of NTP (RFC 8915 §5).
const (
	fieldID            = 0x0104
	fieldCookie        = 0x0204
	fieldAuthenticator = 0x0404
	ntpHeader          = 48 // bytes
)

// ntsSession has the keys and the unused cookies of a server.
type ntsSession struct {
	address  string // of the NTP server
	cookies  [][]byte
	c2s, s2c *siv
}

// establish makes the key exchange with a server (RFC 8915 §4).
func establish(ctx context.Context, address string, roots *x509.CertPool) (*ntsSession, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{ntsProtocol}, ServerName: host, RootCAs: roots,
	}}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("key exchange: %w", err)
	}
	defer c.Close() //nolint:errcheck // everything was read
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	state := c.(*tls.Conn).ConnectionState() //nolint:forcetypeassert // of a tls.Dialer
	if state.NegotiatedProtocol != ntsProtocol {
		return nil, errors.New("key exchange: the server does not speak NTS")
	}
	request := record(nil, recordCritical|recordProtocol, []byte{0, 0})
	request = record(request, recordCritical|recordAEAD, []byte{0, ntsAEAD})
	if _, err := c.Write(record(request, recordCritical|recordEnd, nil)); err != nil {
		return nil, fmt.Errorf("key exchange: %w", err)
	}
	s, err := parseKE(io.LimitReader(c, maxKE), host)
	if err != nil {
		return nil, fmt.Errorf("key exchange: %w", err)
	}
	for _, one := range []struct {
		to  **siv
		way byte
	}{{&s.c2s, 0}, {&s.s2c, 1}} {
		key, err := state.ExportKeyingMaterial(ntsLabel, []byte{0, 0, 0, ntsAEAD, one.way}, sivKeySize)
		if err != nil {
			return nil, fmt.Errorf("key exchange: %w", err)
		}
		if *one.to, err = newSIV(key); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// record appends a record of NTS-KE.
func record(to []byte, kind uint16, body []byte) []byte {
	to = binary.BigEndian.AppendUint16(to, kind)
	to = binary.BigEndian.AppendUint16(to, uint16(len(body))) //nolint:gosec // our own short bodies
	return append(to, body...)
}

// parseKE reads the answer of the key exchange. host is that of the server, which is the NTP server unless it names
// another one.
func parseKE(r io.Reader, host string) (*ntsSession, error) {
	s, port := &ntsSession{}, ntpPort
	protocol, aead := false, false
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, fmt.Errorf("the answer is cut off or too long: %w", err)
		}
		kind, body := binary.BigEndian.Uint16(head[:]), make([]byte, binary.BigEndian.Uint16(head[2:]))
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, fmt.Errorf("the answer is cut off or too long: %w", err)
		}
		switch kind &^ recordCritical {
		case recordEnd:
			if !protocol || !aead || len(s.cookies) == 0 {
				return nil, errors.New("the answer has no protocol, no algorithm or no cookie")
			}
			s.address = net.JoinHostPort(host, port)
			return s, nil
		case recordProtocol:
			protocol = bytes.Equal(body, []byte{0, 0})
		case recordAEAD:
			aead = bytes.Equal(body, []byte{0, ntsAEAD})
		case recordError, recordWarning:
			return nil, fmt.Errorf("the server answers with the error %x", body)
		case recordCookie:
			if len(body) > 0 && len(body) <= maxCookie && len(s.cookies) < maxCookies {
				s.cookies = append(s.cookies, body)
			}
		case recordServer:
			host = string(body)
			if net.ParseIP(host) == nil && !hostname.IsDNSName(host) {
				return nil, fmt.Errorf("the server names %q, which is not a host", printable.Escape(host))
			}
		case recordPort:
			if len(body) != 2 {
				return nil, errors.New("the port of the answer does not have two bytes")
			}
			port = strconv.Itoa(int(binary.BigEndian.Uint16(body)))
		default:
			if kind&recordCritical != 0 {
				return nil, fmt.Errorf("the answer has the unknown record %d", kind&^recordCritical)
			}
		}
	}
}

// ntsPacket authenticates one request and its answer. It implements [ntp.Extension].
type ntsPacket struct {
	session *ntsSession
	id      [32]byte
}

var _ ntp.Extension = (*ntsPacket)(nil)

// ProcessQuery appends the fields of RFC 8915 §5.7: the identifier, a cookie that is used once, and the authenticator.
func (p *ntsPacket) ProcessQuery(buf *bytes.Buffer) error {
	s := p.session
	if len(s.cookies) == 0 {
		return errors.New("no cookie is left")
	}
	cookie := s.cookies[0]
	s.cookies = s.cookies[1:]
	_, _ = rand.Read(p.id[:]) // never an error
	buf.Write(field(fieldID, p.id[:]))
	buf.Write(field(fieldCookie, cookie))
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	sealed := s.c2s.seal(nil, buf.Bytes(), nonce[:])
	body := binary.BigEndian.AppendUint16(nil, uint16(len(nonce)))
	body = binary.BigEndian.AppendUint16(body, uint16(len(sealed))) //nolint:gosec // 16
	buf.Write(field(fieldAuthenticator, append(append(body, nonce[:]...), sealed...)))
	return nil
}

// ProcessResponse accepts an answer only if it has the identifier of the request and is authenticated. Fields behind
// the authenticator are ignored.
func (p *ntsPacket) ProcessResponse(packet []byte) error {
	same := false
	for at := ntpHeader; at < len(packet); {
		kind, body, next, err := nextField(packet, at)
		if err != nil {
			return err
		}
		switch kind {
		case fieldID:
			same = bytes.Equal(body, p.id[:])
		case fieldAuthenticator:
			if !same {
				return errors.New("the answer does not have the identifier of the request")
			}
			return p.session.accept(packet[:at], body)
		}
		at = next
	}
	return errors.New("the answer is not authenticated")
}

// accept verifies the authenticator of an answer, and keeps the cookies in it. before has the bytes of the packet that
// it authenticates.
func (s *ntsSession) accept(before, body []byte) error {
	if len(body) < 4 {
		return errSIV
	}
	n, c := int(binary.BigEndian.Uint16(body)), int(binary.BigEndian.Uint16(body[2:]))
	body = body[4:]
	padded := (n + 3) &^ 3
	if padded+c > len(body) {
		return errSIV
	}
	plaintext, err := s.s2c.open(body[padded:padded+c], before, body[:n])
	if err != nil {
		return err
	}
	for at := 0; at < len(plaintext); {
		kind, cookie, next, err := nextField(plaintext, at)
		if err != nil {
			return err
		}
		if kind == fieldCookie && len(cookie) > 0 && len(cookie) <= maxCookie && len(s.cookies) < maxCookies {
			s.cookies = append(s.cookies, bytes.Clone(cookie))
		}
		at = next
	}
	return nil
}

// field returns an extension field, padded to a multiple of 4 bytes (RFC 7822 §3).
func field(kind uint16, body []byte) []byte {
	size := 4 + (len(body)+3)&^3
	out := make([]byte, 4, size)
	binary.BigEndian.PutUint16(out, kind)
	binary.BigEndian.PutUint16(out[2:], uint16(size)) //nolint:gosec // a cookie has at most maxCookie bytes
	return append(out, body...)[:size]
}

// nextField returns the extension field at an index, and the index of the next one.
func nextField(packet []byte, at int) (kind uint16, body []byte, next int, err error) {
	if len(packet)-at < 4 {
		return 0, nil, 0, errors.New("an extension field of the answer is cut off")
	}
	size := int(binary.BigEndian.Uint16(packet[at+2:]))
	if size < 4 || size%4 != 0 || size > len(packet)-at {
		return 0, nil, 0, errors.New("an extension field of the answer has a wrong length")
	}
	return binary.BigEndian.Uint16(packet[at:]), packet[at+4 : at+size], at + size, nil
}
