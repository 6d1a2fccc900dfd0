package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
)

const maxOTLPAnswer = 64 << 10 // bytes

// otlpSink sends records as OTLP logs over HTTP, in the JSON encoding (OTLP 1.x, "OTLP/HTTP").
type otlpSink struct {
	url     string
	headers map[string]string
	client  *http.Client
}

func newOTLP(c OTLPConfig) (*otlpSink, error) {
	s := &otlpSink{url: strings.TrimSuffix(c.URL, "/") + "/v1/logs", headers: map[string]string{}}
	for name, value := range c.Headers {
		text, err := value.Read()
		if err != nil {
			return nil, fault.Under(err, "headers", name)
		}
		if bytes.ContainsAny(text, "\r\n\x00") {
			return nil, fault.BadSetting("the value has a line end in it", "write one line", "headers", name)
		}
		s.headers[name] = string(text)
	}
	trusted, err := tlsConfig(c.CACert)
	if err != nil {
		return nil, err
	}
	s.client = &http.Client{
		Timeout: sendTimeout,
		// Nobody but the configured host sees the records, and the headers.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: sendTimeout / 2}).DialContext, TLSClientConfig: trusted, TLSHandshakeTimeout: sendTimeout / 2,
			MaxResponseHeaderBytes: 32 << 10, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 1, ForceAttemptHTTP2: true, DisableCompression: true,
		},
	}
	return s, nil
}

// errRejected is a receiver that is there and does not want some of the records. To send them again would change nothing.
var errRejected = errors.New("the collector rejected records")

// send posts one batch.
func (s *otlpSink) send(ctx context.Context, batch []message) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(encodeOTLP(batch)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "mayfly")
	for name, value := range s.headers {
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end or given up
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOTLPAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", resp.Status)
	}
	return rejected(body)
}

// rejected reads the partial success of an answer (ExportLogsServiceResponse). A number may be a string, as in all JSON of
// Protocol Buffers. An answer that is something else says nothing.
func rejected(body []byte) error {
	var answer struct {
		PartialSuccess struct {
			Rejected json.RawMessage `json:"rejectedLogRecords"`
		} `json:"partialSuccess"`
	}
	_ = json.Unmarshal(body, &answer) // as said above
	if n, _ := strconv.ParseInt(strings.Trim(string(answer.PartialSuccess.Rejected), `"`), 10, 64); n > 0 {
		return fmt.Errorf("%w: %d of this batch", errRejected, n)
	}
	return nil
}

// encodeOTLP writes an ExportLogsServiceRequest: the line is the body, what people search for are attributes.
func encodeOTLP(batch []message) []byte {
	b := make([]byte, 0, 1024+2048*len(batch))
	b = append(b, `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"mayfly"}}]},`+
		`"scopeLogs":[{"scope":{"name":"mayfly/audit"},"logRecords":[`...)
	for i, m := range batch {
		if i > 0 {
			b = append(b, ',')
		}
		number, text := m.record.otlpSeverity()
		at := strconv.FormatInt(m.record.Time.UnixNano(), 10)
		b = append(b, `{"timeUnixNano":"`+at+`","observedTimeUnixNano":"`+at+`","severityNumber":`+strconv.Itoa(number)+`,"severityText":"`+text+`","body":{"stringValue":`...)
		b = appendString(b, string(m.raw))
		b = append(b, `},"attributes":[`...)
		for k, a := range []struct{ key, value string }{
			{"mayfly.seq", strconv.FormatUint(m.record.Seq, 10)},
			{"mayfly.kind", string(m.record.Kind)},
			{"mayfly.result", string(m.record.Result)},
			{"mayfly.reason", m.record.Reason},
			{"mayfly.serial", m.record.Serial},
			{"mayfly.request_id", m.record.RequestID},
		} {
			if a.value == "" {
				continue
			}
			if k > 0 {
				b = append(b, ',')
			}
			b = appendString(append(b, `{"key":"`+a.key+`","value":{"stringValue":`...), a.value)
			b = append(b, `}}`...)
		}
		b = append(b, `]}`...)
	}
	return append(b, `]}]}]}`...)
}

// otlpSeverity maps a severity to the numbers of the OpenTelemetry log data model.
func (r *Record) otlpSeverity() (number int, text string) {
	switch r.severity() {
	case severityAlert:
		return 21, "FATAL"
	case severityWarning:
		return 13, "WARN"
	}
	return 9, "INFO"
}

func (s *otlpSink) close() { s.client.CloseIdleConnections() }
