package ship

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/httpclient"
)

const maxOTLPAnswer = 64 << 10 // bytes

// otlpReceiver sends records as OTLP logs over HTTP in the JSON encoding (OTLP 1.x, "OTLP/HTTP"), with the protocol's
// own types.
//
// It does not use OpenTelemetry's exporter. The exporter returns a partial success, which MUST NOT be sent again, as an
// error of an internal type, which only its text distinguishes from a failure; it reads headers and compression from
// environment variables in addition to our configuration; and it adds 20 packages to the program.
type otlpReceiver struct {
	url     string
	headers map[string]string
	client  *http.Client
}

func (c *OTLPConfig) open(io.Writer) (receiver, error) {
	headers, roots, err := c.Read()
	if err != nil {
		return nil, err
	}
	s := &otlpReceiver{url: c.Endpoint("/v1/logs"), headers: headers}
	s.client = httpclient.New(httpclient.Options{
		Timeout: sendTimeout, Roots: roots, IdleConns: 1,
		IdleTimeout: time.Minute,
	})
	return s, nil
}

// send posts one batch.
func (s *otlpReceiver) send(ctx context.Context, batch []Message) error {
	// OTLP/JSON encodes enums as numbers.
	body, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(otlpRequest(batch))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range s.headers {
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end or given up
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", resp.Status)
	}
	answer, err := httpclient.ReadBody(resp, maxOTLPAnswer)
	if _, ok := errors.AsType[*bounded.TooLargeError](err); ok {
		return nil // the collector accepted the batch, and a partial success is never longer than this
	}
	if err != nil {
		return err
	}
	return rejected(answer)
}

// rejected returns an error for a partial success. An answer that is not an ExportLogsServiceResponse reports none.
func rejected(answer []byte) error {
	var response collector.ExportLogsServiceResponse
	_ = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(answer, &response) // see above
	if n := response.GetPartialSuccess().GetRejectedLogRecords(); n > 0 {
		return fmt.Errorf("%w: %d of this batch", errRejected, n)
	}
	return nil
}

// otlpRequest returns the request for a batch: the body of each log record is the line of the journal, and the most
// searched members are attributes.
func otlpRequest(batch []Message) *collector.ExportLogsServiceRequest {
	records := make([]*logs.LogRecord, 0, len(batch))
	for _, m := range batch {
		at := uint64(m.Time.UnixNano()) //nolint:gosec // after 1970
		r := &logs.LogRecord{TimeUnixNano: at, ObservedTimeUnixNano: at, Body: otlpText(string(m.Line))}
		switch m.Severity {
		case Alert:
			r.SeverityNumber, r.SeverityText = logs.SeverityNumber_SEVERITY_NUMBER_FATAL, "FATAL"
		case Warning:
			r.SeverityNumber, r.SeverityText = logs.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
		case Notice:
			r.SeverityNumber, r.SeverityText = logs.SeverityNumber_SEVERITY_NUMBER_INFO, "INFO"
		}
		for _, a := range []struct{ key, value string }{
			{"mayfly.seq", strconv.FormatUint(m.Seq, 10)},
			{"mayfly.kind", m.Kind},
			{"mayfly.result", m.Result},
			{"mayfly.reason", m.Reason},
			{"mayfly.serial", m.Serial},
			{"mayfly.request_id", m.RequestID},
		} {
			if a.value != "" {
				r.Attributes = append(r.Attributes, &common.KeyValue{Key: a.key, Value: otlpText(a.value)})
			}
		}
		records = append(records, r)
	}
	return &collector.ExportLogsServiceRequest{ResourceLogs: []*logs.ResourceLogs{{
		Resource: &resource.Resource{Attributes: []*common.KeyValue{{Key: "service.name", Value: otlpText("mayfly")}}},
		ScopeLogs: []*logs.ScopeLogs{{
			Scope: &common.InstrumentationScope{Name: "mayfly/audit"}, LogRecords: records,
		}},
	}}}
}

func otlpText(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}

func (s *otlpReceiver) close() { s.client.CloseIdleConnections() }
