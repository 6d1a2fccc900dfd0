package journal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	// zeroes are the Prev of a journal's first record.
	zeroes = "0000000000000000000000000000000000000000000000000000000000000000"

	sumMember = `,"sum":"`
	lineEnd   = "\"}\n"
	// tailSize is the length of the end of a line: its sum and the line feed.
	tailSize = len(sumMember) + 2*sha256.Size + len(lineEnd)
	// maxLine is the length of the longest line that is read, in bytes with its line feed. The record of a request is
	// much shorter.
	maxLine = 1 << 20
	// maxText bounds the free text of a record, in bytes, so that its line fits even if all of it is escaped.
	maxText = 128 << 10
)

// chain computes the sums that link records. A copy of a chain continues from the same record. Both share the hash, so
// they MUST NOT be used at the same time.
type chain struct {
	seq  uint64 // number of the last record; 0: none yet
	sum  string // sum of the last record, in hexadecimal
	hash hash.Hash
}

// newChain returns the chain of a journal without records. An empty key means SHA-256, else HMAC-SHA256 (RFC 2104).
func newChain(key []byte) chain {
	c := chain{sum: zeroes, hash: sha256.New()}
	if len(key) > 0 {
		c.hash = hmac.New(sha256.New, key)
	}
	return c
}

// digest returns the hexadecimal sum over the bytes of a line before its sum.
func (c *chain) digest(covered []byte) string {
	var sum [sha256.Size]byte
	c.hash.Reset()
	c.hash.Write(covered)
	return hex.EncodeToString(c.hash.Sum(sum[:0]))
}

// appendRecord appends r to b as the next line and sets its Seq, Format, Time, Prev and Sum.
func (c *chain) appendRecord(b []byte, r *Record, now time.Time) []byte {
	start := len(b)
	r.Seq, r.Format, r.Time, r.Prev = c.seq+1, Format, now.UTC().Truncate(time.Microsecond), c.sum
	b = r.appendCovered(b)
	r.Sum = c.digest(b[start:])
	c.seq, c.sum = r.Seq, r.Sum
	return appendSum(b, r.Sum)
}

func appendSum(b []byte, sum string) []byte {
	b = append(b, sumMember...)
	b = append(b, sum...)
	return append(b, lineEnd...)
}

// timeLayout is RFC 3339 and always has microseconds, so that lines sort as text.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// appendCovered appends the line without its sum, which covers exactly these bytes. A record has one encoding: members
// in the order of [Record], no white space, times in one form, and only those characters escaped that are special in
// JSON (RFC 8259 §7) or on a terminal.
func (r *Record) appendCovered(b []byte) []byte {
	b = strconv.AppendUint(append(b, `{"seq":`...), r.Seq, 10)
	b = appendInt(b, `,"format":`, int64(r.Format))
	b = r.Time.AppendFormat(append(b, `,"time":"`...), timeLayout)
	b = appendString(append(b, `","kind":`...), string(r.Kind))
	b = appendText(b, `,"request_id":`, r.RequestID)
	b = appendText(b, `,"transport":`, r.Transport)
	b = appendText(b, `,"source":`, r.Source)
	b = appendText(b, `,"issuer":`, r.Issuer)
	b = appendText(b, `,"subject":`, r.Subject)
	b = appendText(b, `,"san":`, r.SAN)
	b = appendText(b, `,"repository":`, r.Repository)
	b = appendText(b, `,"entry":`, r.Entry)
	b = appendText(b, `,"rule":`, r.Rule)
	b = appendText(b, `,"config":`, r.Config)
	b = appendText(b, `,"provider_key":`, r.ProviderKey)
	b = appendText(b, `,"key":`, r.Key)
	b = appendText(b, `,"key_type":`, r.KeyType)
	b = appendText(b, `,"issuer_key":`, r.IssuerKey)
	b = appendText(b, `,"serial":`, r.Serial)
	b = appendText(b, `,"tbs":`, r.TBS)
	b = appendText(b, `,"result":`, string(r.Result))
	b = appendText(b, `,"reason":`, r.Reason)
	b = appendSCTs(b, r.SCTs)
	b = appendText(b, `,"certificate":`, r.Certificate)
	b = appendLogEntry(b, r.LogEntry)
	b = appendText(b, `,"der":`, r.DER)
	b = appendText(b, `,"retry":`, r.Retry)
	b = appendInt(b, `,"signatures":`, int64(r.Signatures))
	b = appendInt(b, `,"micros":`, r.Micros)
	b = appendText(b, `,"instance":`, r.Instance)
	b = appendText(b, `,"version":`, r.Version)
	b = appendInt(b, `,"count":`, int64(r.Count))
	b = appendText(b, `,"text":`, r.Text)
	return appendString(append(b, `,"prev":`...), r.Prev)
}

func appendSCTs(b []byte, scts []SCT) []byte {
	if len(scts) == 0 {
		return b
	}
	b = append(b, `,"scts":[`...)
	for i, s := range scts {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, `{"log":`...), s.Log)
		b = strconv.AppendUint(append(b, `,"timestamp":`...), s.Timestamp, 10)
		b = append(appendText(b, `,"extensions":`, s.Extensions), '}')
	}
	return append(b, ']')
}

func appendLogEntry(b []byte, e LogEntry) []byte {
	if e == (LogEntry{}) {
		return b
	}
	b = appendString(append(b, `,"log_entry":{"kind":`...), e.Kind)
	b = appendString(append(b, `,"digest":`...), e.Digest)
	b = appendString(append(b, `,"leaf":`...), e.Leaf)
	b = appendString(append(b, `,"log":`...), e.Log)
	return append(strconv.AppendUint(append(b, `,"index":`...), e.Index, 10), '}')
}

func appendText(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(append(b, name...), value)
}

func appendInt(b []byte, name string, value int64) []byte {
	if value == 0 {
		return b
	}
	return strconv.AppendInt(append(b, name...), value, 10)
}

// appendString appends a JSON string. Invalid UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	plain := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 0x20 && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			b = append(b, s[plain:i]...)
			if c == '"' || c == '\\' {
				b = append(b, '\\', c)
			} else {
				b = appendEscape(b, rune(c))
			}
			i++
			plain = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(append(b, s[plain:i]...), "\uFFFD"...)
			plain = i + size
		case r < 0xa0 || r == '\u2028' || r == '\u2029': // C1 controls, line separator and paragraph separator
			b = appendEscape(append(b, s[plain:i]...), r)
			plain = i + size
		}
		i += size
	}
	return append(append(b, s[plain:]...), '"')
}

func appendEscape(b []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	return append(b, '\\', 'u', digits[r>>12&0xf], digits[r>>8&0xf], digits[r>>4&0xf], digits[r&0xf])
}
