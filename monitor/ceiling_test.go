package monitor

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
)

// allocated returns the number of bytes that f allocates. A test that uses it MUST NOT run in parallel with others.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// For every response of a log, the allocated memory is at most 64 times the size of the response, plus a constant.
func TestAllocationCeiling(t *testing.T) { //nolint:paralleltest // it counts what the process allocates
	const fixed, times = 4 << 20, 64
	zip := func(data []byte) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(data)
		_ = z.Close()
		return b.Bytes()
	}
	zeros := make([]byte, maxBundle)
	leaf := append(make([]byte, 2+8), 0, 0, 0, 0, 0, 0, 0) // an entry with an empty certificate
	pin, s := sample(t)
	rows := []struct {
		name string
		wire int
		read func() error
	}{
		{"a bundle of zeros", len(zeros), func() error { _, err := ParseDataTile(zeros, 0, tileWidth); return err }},
		{
			"a bundle of one entry too many", minTileEntry * 257,
			func() error { _, err := ParseDataTile(zeros[:minTileEntry*257], 0, tileWidth); return err },
		},
		{"a chain of empty certificates", 3 << 20, func() error {
			extra := append([]byte{0x30, 0, 0}, zeros[:3<<20]...)
			_, err := ParseLeafEntry(0, leaf, extra)
			return err
		}},
		{"a chain of short certificates", 3 << 20, func() error {
			_, err := ParseLeafEntry(0, leaf, append([]byte{0x30, 0, 0}, bytes.Repeat([]byte{0, 0, 1, 0}, 3<<18)...))
			return err
		}},
		{"entries without content", 3 << 20, func() error {
			_, err := parseEntries([]byte(`{"entries":[`+strings.TrimSuffix(strings.Repeat(`{},`, 1<<20), ",")+`]}`), 0,
				batch)
			return err
		}},
		{"more entries than asked for", 60 * 300, func() error {
			one := `{"leaf_input":"AAAAAAAAAAAAAQAAAAADYWJjAAA=","extra_data":"AAAA"},`
			_, err := parseEntries([]byte(`{"entries":[`+strings.TrimSuffix(strings.Repeat(one, batch+1), ",")+`]}`), 0,
				batch)
			return err
		}},
		{"a checkpoint of line feeds", maxHead, func() error {
			_, _, err := pin.checkpoint(append(read(t, s, "checkpoint"), bytes.Repeat([]byte("\n"), maxHead)...))
			return err
		}},
		{
			"a head of nothing", maxHead,
			func() error { _, err := pin.sth(bytes.Repeat([]byte("["), maxHead)); return err },
		},
	}
	for _, size := range []int{1 << 20, 2 * maxBundle} {
		packed := zip(make([]byte, size))
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed)
		}))
		t.Cleanup(srv.Close)
		w, err := newWeb(srv.URL, Transport{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.client.CloseIdleConnections)
		rows = append(rows, struct {
			name string
			wire int
			read func() error
		}{fmt.Sprintf("%d bytes of zeros, packed", size), len(packed), func() error {
			_, _, err := w.once(t.Context(), "x", maxBundle)
			return err
		}})
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var err error
			if got, most := allocated(func() { err = row.read() }), uint64(fixed+times*row.wire); got > most {
				t.Errorf("%d bytes of %d on the wire, more than %d", got, row.wire, most)
			}
			if err == nil {
				t.Error("it passes")
			}
		})
	}
}
