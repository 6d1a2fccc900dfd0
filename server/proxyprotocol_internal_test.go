package server

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/mayfly-ca/mayfly/server/admission"
)

// stream is a connection that delivers data of a peer and then ends.
type stream struct {
	net.Conn
	in *bytes.Reader
}

func (s stream) Read(p []byte) (int, error)      { return s.in.Read(p) }
func (s stream) SetReadDeadline(time.Time) error { return nil }
func (s stream) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4711}
}

// What a client sends after the header of its proxy changes neither the address nor the data of the connection, and
// what looks like another header is data.
func FuzzProxyProtocol(f *testing.F) {
	f.Add([]byte("PROXY TCP4 198.51.100.1 192.0.2.1 1 2\r\nGET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x01\xc0\x00\x02\x01\x00\x01\x00\x02"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for version, client := range map[byte]string{1: "203.0.113.9", 2: "2001:db8::17"} {
			from := &net.TCPAddr{IP: net.ParseIP(client), Port: 4711}
			var sent bytes.Buffer
			if _, err := proxyproto.HeaderProxyFromAddrs(version, from, from).WriteTo(&sent); err != nil {
				t.Fatal(err)
			}
			sent.Write(data)
			c, err := readHeader(stream{in: bytes.NewReader(sent.Bytes())})
			if err != nil {
				t.Fatalf("version %d: %v", version, err)
			}
			if got := admission.AddressOf(c.RemoteAddr()); got != netip.MustParseAddr(client) {
				t.Errorf("version %d: the client is %s", version, got)
			}
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
				t.Errorf("version %d: the data is %q: %v", version, got, err)
			}
		}
		c, err := readHeader(stream{in: bytes.NewReader(data)}) // the bytes in place of the header
		if err == nil && c.RemoteAddr() == nil {
			t.Error("a connection without an address")
		}
	})
}
