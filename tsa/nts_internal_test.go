package tsa

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	out, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The examples of RFC 5297, appendix A.
func TestSIV(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key, plaintext, sealed string
		associated             []string
	}{
		"A.1": {
			"fffefdfc fbfaf9f8 f7f6f5f4 f3f2f1f0 f0f1f2f3 f4f5f6f7 f8f9fafb fcfdfeff",
			"11223344 55667788 99aabbcc ddee",
			"85632d07 c6e8f37f 950acd32 0a2ecc93 40c02b96 90c4dc04 daef7f6a fe5c",
			[]string{"10111213 14151617 18191a1b 1c1d1e1f 20212223 24252627"},
		},
		"A.2": {
			"7f7e7d7c 7b7a7978 77767574 73727170 40414243 44454647 48494a4b 4c4d4e4f",
			"74686973 20697320 736f6d65 20706c61 696e7465 78742074 6f20656e 63727970 74207573 696e6720 5349562d 414553",
			"7bdb6e3b 432667eb 06f4d14b ff2fbd0f cb900f2f ddbe4043 26601965 c889bf17 dba77ceb " +
				"094fa663 b7a3f748 ba8af829 " +
				"ea64ad54 4a272e9c 485b62a3 fd5c0d",
			[]string{
				"00112233 44556677 8899aabb ccddeeff deaddada deaddada ffeeddcc bbaa9988 77665544 33221100",
				"10203040 50607080 90a0", "09f91102 9d74e35b d84156c5 635688c0",
			},
		},
	} {
		s, err := newSIV(unhex(t, c.key))
		if err != nil {
			t.Fatal(err)
		}
		var associated [][]byte
		for _, one := range c.associated {
			associated = append(associated, unhex(t, one))
		}
		if got := s.seal(unhex(t, c.plaintext), associated...); !bytes.Equal(got, unhex(t, c.sealed)) {
			t.Errorf("%s: %x", name, got)
		}
		sealed := unhex(t, c.sealed)
		if got, err := s.open(sealed, associated...); err != nil || !bytes.Equal(got, unhex(t, c.plaintext)) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
		for i := range sealed {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1
			if _, err := s.open(changed, associated...); err == nil {
				t.Errorf("%s: byte %d may be changed", name, i)
			}
		}
	}
	if _, err := newSIV(make([]byte, 16)); err == nil {
		t.Error("a short key is accepted")
	}
}

// ntsServer is an NTS server on loopback: key exchange over TLS, and NTP over UDP.
type ntsServer struct {
	address string
	roots   *x509.CertPool
	offset  time.Duration

	mu        sync.Mutex
	keys      map[string][2]*siv // by cookie
	exchanges int
	answer    func(records []byte) []byte // changes the answer of the key exchange
	packet    func(reply []byte) []byte   // changes an answer of NTP
}

func newNTSServer(t *testing.T) *ntsServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := &ntsServer{
		roots: x509.NewCertPool(), keys: map[string][2]*siv{},
		answer: func(b []byte) []byte { return b }, packet: func(b []byte) []byte { return b },
	}
	s.roots.AddCert(leaf)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{ntsProtocol}, MinVersion: tls.VersionTLS13,
	})
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.exchange(c.(*tls.Conn), u.LocalAddr().(*net.UDPAddr).Port)
		}
	})
	all.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := s.reply(bytes.Clone(buf[:n])); reply != nil {
				_, _ = u.WriteTo(reply, from)
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		u.Close()
		all.Wait()
	})
	return s
}

func (s *ntsServer) exchange(c *tls.Conn, port int) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	request := make([]byte, 16)
	if _, err := io.ReadFull(c, request); err != nil {
		return
	}
	state := c.ConnectionState()
	var keys [2]*siv
	for i := range keys {
		key, err := state.ExportKeyingMaterial(ntsLabel, []byte{0, 0, 0, ntsAEAD, byte(i)}, sivKeySize)
		if err != nil {
			return
		}
		keys[i], _ = newSIV(key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exchanges++
	out := record(nil, recordCritical|recordProtocol, []byte{0, 0})
	out = record(out, recordAEAD, []byte{0, ntsAEAD})
	out = record(out, recordPort, binary.BigEndian.AppendUint16(nil, uint16(port)))
	for range 2 {
		out = record(out, recordCookie, s.cookie(keys))
	}
	_, _ = c.Write(s.answer(record(out, recordCritical|recordEnd, nil)))
}

// cookie returns a new cookie for keys. The caller holds the lock.
func (s *ntsServer) cookie(keys [2]*siv) []byte {
	c := "cookie " + strconv.Itoa(len(s.keys))
	s.keys[c] = keys
	return []byte(c)
}

func (s *ntsServer) reply(query []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var id []byte
	var keys [2]*siv
	for at := ntpHeader; at < len(query); {
		kind, body, next, err := nextField(query, at)
		if err != nil {
			return nil
		}
		switch kind {
		case fieldID:
			id = body
		case fieldCookie:
			name := strings.TrimRight(string(body), "\x00")
			keys = s.keys[name]
			delete(s.keys, name) // a cookie is used once
			s.keys["used "+name] = keys
		case fieldAuthenticator:
			if keys[0] == nil {
				return nil
			}
			if _, err := keys[0].open(body[20:36], query[:at], body[4:20]); err != nil {
				return nil
			}
		}
		at = next
	}
	out := make([]byte, ntpHeader)
	out[0], out[1], out[2], out[3] = 4<<3|4, 1, 6, 0xec
	stamp := func(at int, t time.Time) {
		binary.BigEndian.PutUint32(out[at:], uint32(t.Unix()+2208988800))
		binary.BigEndian.PutUint32(out[at+4:], uint32(int64(t.Nanosecond())<<32/1e9))
	}
	now := time.Now().Add(s.offset)
	stamp(16, now.Add(-time.Second))
	copy(out[24:32], query[40:48])
	stamp(32, now)
	stamp(40, now)
	out = slices.Concat(out, field(fieldID, id))
	nonce := make([]byte, 16)
	sealed := keys[1].seal(field(fieldCookie, s.cookie(keys)), out, nonce)
	body := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, 16), uint16(len(sealed)))
	return s.packet(slices.Concat(out, field(fieldAuthenticator, slices.Concat(body, nonce, sealed))))
}

// An answer counts only if it is authenticated with the keys of the exchange. One exchange is enough for many requests.
func TestNTS(t *testing.T) {
	t.Parallel()
	s := newNTSServer(t)
	s.offset = 40 * time.Second
	source := &timeSource{address: s.address, nts: true, roots: s.roots}
	for range 5 {
		r, err := source.request(t.Context(), time.Now)
		if err != nil || r.ClockOffset.Round(time.Second) != s.offset {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if s.exchanges != 1 {
		t.Errorf("%d key exchanges", s.exchanges)
	}
	for name, damage := range map[string]func([]byte) []byte{
		"the time is changed":         func(b []byte) []byte { b[43] ^= 1; return b },
		"the authenticator is absent": func(b []byte) []byte { return b[:ntpHeader+36] },
		"plain NTP":                   func(b []byte) []byte { return b[:ntpHeader] },
		"another identifier":          func(b []byte) []byte { b[ntpHeader+4] ^= 1; return b },
		"a field is cut off":          func(b []byte) []byte { return b[:len(b)-4] },
		"a field without a length":    func(b []byte) []byte { b[ntpHeader+3] = 0; return b },
	} {
		s.mu.Lock()
		s.packet = damage
		s.mu.Unlock()
		if r, err := source.request(t.Context(), time.Now); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	s.mu.Lock()
	s.packet = func(b []byte) []byte { return b }
	s.mu.Unlock()
	if _, err := source.request(t.Context(), time.Now); err != nil {
		t.Error(err)
	}
}

// An answer to another request does not count, although it is authenticated.
func TestNTSReplay(t *testing.T) {
	t.Parallel()
	key, err := newSIV(make([]byte, sivKeySize))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(id []byte) []byte {
		packet := slices.Concat(make([]byte, ntpHeader), field(fieldID, id))
		nonce := make([]byte, 16)
		sealed := key.seal(field(fieldCookie, []byte("cookie")), packet, nonce)
		return slices.Concat(packet, field(fieldAuthenticator,
			slices.Concat([]byte{0, 16, 0, byte(len(sealed))}, nonce, sealed)))
	}
	p := &ntsPacket{session: &ntsSession{s2c: key}}
	if err := p.ProcessResponse(answer(p.id[:])); err != nil || len(p.session.cookies) != 1 {
		t.Errorf("%v, %d cookies", err, len(p.session.cookies))
	}
	if err := p.ProcessResponse(answer(bytes.Repeat([]byte{1}, 32))); err == nil {
		t.Error("the answer to another request is accepted")
	}
}

// A key exchange that is not complete is an error.
func TestNTSExchange(t *testing.T) {
	t.Parallel()
	s := newNTSServer(t)
	for name, c := range map[string]struct {
		answer func([]byte) []byte
		want   string
	}{
		"no cookie": {func([]byte) []byte { return record(nil, recordEnd, nil) }, "no cookie"},
		"an error":  {func([]byte) []byte { return record(nil, recordError, []byte{0, 1}) }, "error 0001"},
		"unknown":   {func([]byte) []byte { return record(nil, recordCritical|99, nil) }, "unknown record 99"},
		"no host":   {func([]byte) []byte { return record(nil, recordServer, []byte("a b")) }, "not a host"},
		"cut off":   {func(b []byte) []byte { return b[:10] }, "cut off"},
		"too long":  {func([]byte) []byte { return bytes.Repeat(record(nil, 99, make([]byte, 1000)), 20) }, "too long"},
		"another algorithm": {func(b []byte) []byte {
			return bytes.Replace(b, []byte{0, ntsAEAD}, []byte{0, 16}, 1)
		}, "no algorithm"},
	} {
		s.mu.Lock()
		s.answer = c.answer
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if _, err := establish(ctx, s.address, s.roots); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if _, err := establish(t.Context(), s.address, x509.NewCertPool()); err == nil {
		t.Error("an unknown certificate is accepted")
	}
}

func FuzzKE(f *testing.F) {
	ok := record(nil, recordCritical|recordProtocol, []byte{0, 0})
	ok = record(ok, recordAEAD, []byte{0, ntsAEAD})
	ok = record(ok, recordServer, []byte("ntp.example.com"))
	ok = record(record(ok, recordPort, []byte{0, 123}), recordCookie, []byte("cookie"))
	f.Add(record(ok, recordEnd, nil))
	f.Fuzz(func(t *testing.T, answer []byte) {
		s, err := parseKE(bytes.NewReader(answer), "127.0.0.1")
		if err == nil && (len(s.cookies) == 0 || s.address == "") {
			t.Errorf("%x: %+v", answer, s)
		}
	})
}

func FuzzNTSAnswer(f *testing.F) {
	key, err := newSIV(make([]byte, sivKeySize))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(make([]byte, ntpHeader), field(fieldID, make([]byte, 32))...))
	f.Add(append(make([]byte, ntpHeader), field(fieldAuthenticator, make([]byte, 36))...))
	f.Fuzz(func(t *testing.T, packet []byte) {
		p := &ntsPacket{session: &ntsSession{s2c: key}}
		if p.ProcessResponse(packet) == nil {
			t.Errorf("%x is accepted", packet)
		}
	})
}
