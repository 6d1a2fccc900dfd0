package ct

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// Fault is a way in which the log misbehaves.
type Fault string

// Faults in the SCTs that the log signs.
const (
	None               Fault = ""
	BadSignature       Fault = "bad signature"
	OtherLog           Fault = "another log's id"
	OtherPrecert       Fault = "an SCT for another precertificate"
	OtherIssuer        Fault = "an SCT for another issuer"
	X509Entry          Fault = "an SCT for a certificate entry"
	Version2           Fault = "version 2"
	Future             Fault = "a timestamp of tomorrow"
	Past               Fault = "a timestamp of 1970"
	Replay             Fault = "the SCT of the precertificate before"
	UnsignedExtensions Fault = "extensions that were not signed"
)

// Faults in the HTTP responses of the log.
const (
	Garbage       Fault = "garbage"
	HTML          Fault = "HTML"
	EmptyObject   Fault = "an empty object"
	Huge          Fault = "a body of 100 KiB"
	Trailing      Fault = "a second JSON value"
	TrailingBytes Fault = "a byte after the signature"
	Redirect      Fault = "redirect to another host"
	SeeOther      Fault = "redirect to GET"
	Error400      Fault = "400"
	Error404      Fault = "404"
	Error408      Fault = "408"
	TooMany       Fault = "429"
	TooManyShort  Fault = "429 for a second"
	TooManyHuge   Fault = "429 for ever"
	TooManyPast   Fault = "429 with a negative delay"
	TooManyDate   Fault = "429 with a date"
	Error500      Fault = "error 500"
	Error502      Fault = "502"
	Error503      Fault = "503"
	Error503Long  Fault = "503 for a minute"
	Error504      Fault = "504"
	Hang          Fault = "hang"
	HangInBody    Fault = "hang in the body"
	SlowLoris     Fault = "a byte each 50 ms"
	Reset         Fault = "reset"
	ResetAfter    Fault = "reset after the entry was taken"
	UnknownRoot   Fault = "does not accept the root"
	Closed        Fault = "the shard is closed"
)

// Faults in the data that the log serves to readers. Submitters notice none of them.
const (
	Withhold   Fault = "an SCT without an entry"
	ForgedHead Fault = "a tree head of another key"
	StaleHead  Fault = "the tree head of when the fault began"
)

// Faults lists the faults that affect submitters. [None] and the faults that only readers see are not among them.
func Faults() []Fault {
	return []Fault{
		BadSignature, OtherLog, OtherPrecert, OtherIssuer, X509Entry, Version2, Future, Past, Replay,
		UnsignedExtensions,
		Garbage, HTML, EmptyObject, Huge, Trailing, TrailingBytes, Redirect, SeeOther, Error400, Error404, Error408,
		TooMany, TooManyShort, TooManyHuge, TooManyPast, TooManyDate, Error500, Error502, Error503,
		Error503Long, Error504,
		Hang, HangInBody, SlowLoris, Reset, ResetAfter, UnknownRoot, Closed,
	}
}

// canary is part of the body of every error: it must not reach a client of the CA.
const canary = "canary-of-the-log"

// instead sends a response in place of the log's, and reports whether the current fault does so.
func (l *Log) instead(w http.ResponseWriter, r *http.Request, f Fault) bool {
	refuse := func(code int, retryAfter string) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		http.Error(w, canary, code)
	}
	switch f {
	case Garbage:
		_, _ = w.Write([]byte(canary))
	case HTML:
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>" + canary))
	case EmptyObject:
		_, _ = w.Write([]byte("{}"))
	case Huge:
		_, _ = w.Write([]byte(`{"x":"` + strings.Repeat("a", 100<<10) + `"}`))
	case Redirect:
		http.Redirect(w, r, "http://localhost:1/ct/v1/add-pre-chain", http.StatusTemporaryRedirect)
	case SeeOther:
		http.Redirect(w, r, "/ct/v1/get-roots", http.StatusSeeOther)
	case Error400, UnknownRoot, Closed:
		refuse(http.StatusBadRequest, "")
	case Error404:
		refuse(http.StatusNotFound, "")
	case Error408:
		refuse(http.StatusRequestTimeout, "")
	case TooMany:
		refuse(http.StatusTooManyRequests, "60")
	case TooManyShort:
		refuse(http.StatusTooManyRequests, "1")
	case TooManyHuge:
		refuse(http.StatusTooManyRequests, "99999999999999999999")
	case TooManyPast:
		refuse(http.StatusTooManyRequests, "-5")
	case TooManyDate:
		refuse(http.StatusTooManyRequests, l.now().Add(time.Hour).UTC().Format(http.TimeFormat))
	case Error500:
		refuse(http.StatusInternalServerError, "")
	case Error502:
		refuse(http.StatusBadGateway, "")
	case Error503:
		refuse(http.StatusServiceUnavailable, "")
	case Error503Long:
		refuse(http.StatusServiceUnavailable, "60")
	case Error504:
		refuse(http.StatusGatewayTimeout, "")
	case Hang, HangInBody, SlowLoris:
		l.stall(w, r, f)
	case Reset:
		reset(w)
	default:
		return false
	}
	return true
}

// stall blocks until the client disconnects or the test ends.
func (l *Log) stall(w http.ResponseWriter, r *http.Request, f Fault) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	if f != Hang {
		_, _ = w.Write([]byte(`{"sct_version":0,`))
		_ = http.NewResponseController(w).Flush()
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-l.release:
			return
		case <-tick.C:
			if f == SlowLoris {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
			}
		}
	}
}

func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

// encode writes a response, with the faults of its encoding.
func encode(w http.ResponseWriter, answer any, f Fault) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(answer); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if f == Trailing {
		b.WriteString("{}")
	}
	_, _ = w.Write(b.Bytes())
}
