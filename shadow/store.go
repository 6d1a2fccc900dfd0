package shadow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
)

// Outcome is how one comparison ended.
type Outcome string

// The closed set of outcomes.
const (
	Equal     Outcome = "equal"
	Explained Outcome = "explained" // each difference has a row of docs/compatibility.md
	Different Outcome = "different"
	Failed    Outcome = "upstream_failed" // the upstream gave no whole answer
	Dropped   Outcome = "dropped"         // the queue was full
	Late      Outcome = "late"            // the token expired between the two decisions
	Panicked  Outcome = "panicked"
	Served    Outcome = "served"  // by the candidate: there is no answer of the upstream
	started   Outcome = "started" // no comparison: the process began
)

// Outcomes lists the outcomes of comparisons.
func Outcomes() []Outcome {
	return []Outcome{Equal, Explained, Different, Failed, Dropped, Late, Panicked, Served}
}

// Record is one line of a store.
type Record struct {
	Time        int64        `json:"t"` // milliseconds since 1970
	API         API          `json:"a,omitempty"`
	Outcome     Outcome      `json:"o"`
	Count       int64        `json:"n,omitempty"` // of requests; 0 is 1
	Subject     string       `json:"s,omitempty"` // digest of issuer and subject of the token, for differences
	Config      string       `json:"c,omitempty"` // of a start: digest of the configuration
	Differences []Difference `json:"d,omitempty"`
}

// The files of a store: numbered segments with one record per line, and the sums of the segments that were removed.
const (
	segmentSuffix = ".jsonl"
	totalsName    = "totals.json"
	lockName      = "lock"
)

// Format is the version of the files of a store. A newer one is refused.
const Format = 1

// The bounds of a store. A segment is summed up and removed when it is full.
const (
	segmentSize = 4 << 20
	maxRows     = 500 // different kinds and fields that are counted apart
	maxExamples = 3   // of each
	maxShown    = 512 // bytes of a value
	maxConfigs  = 10
)

// Store writes the records of one process to a directory. It is safe for concurrent use.
type Store struct {
	dir  string
	lock *durable.FileLock

	mu     sync.Mutex
	number uint64 // of the open segment
	file   *os.File
	size   int64
	limit  int64 // of a segment
}

// ErrInUse is the error of a store that another process writes.
var ErrInUse = errors.New("another process writes this directory")

// OpenStore opens the directory of a store, which it makes if necessary. What another process wrote before stays
// readable, even if it was killed: a store never continues a segment.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := durable.TryLock(filepath.Join(dir, lockName))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fault.Cure(fmt.Errorf("%s: %w", dir, ErrInUse), "give each process its own directory; \"mayfly "+
			"shadow report\" reads several")
	}
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, lock: lock, limit: segmentSize}
	sums, err := readTotals(dir)
	if err == nil {
		s.number = sums.Through
		var segments []uint64
		if segments, err = segmentsOf(dir); err == nil {
			for _, n := range segments {
				s.number = max(s.number, n)
			}
			err = s.next()
		}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return s, nil
}

// next begins a segment, and sums up the older ones.
func (s *Store) next() error {
	if s.file != nil {
		if err := s.file.Close(); err != nil {
			return err
		}
		s.file = nil
	}
	if err := s.fold(); err != nil {
		return err
	}
	s.number++
	name := filepath.Join(s.dir, segmentName(s.number))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	s.file, s.size = f, 0
	return nil
}

// fold adds all segments to the totals and removes them. The totals name the last segment that they have, so that a
// crash between the two counts nothing twice.
func (s *Store) fold() error {
	segments, err := segmentsOf(s.dir)
	if err != nil || len(segments) == 0 {
		return err
	}
	sums, err := readTotals(s.dir)
	if err != nil {
		return err
	}
	for _, n := range segments {
		if n <= sums.Through {
			continue
		}
		if err := sums.readSegment(filepath.Join(s.dir, segmentName(n))); err != nil {
			return err
		}
		sums.Through = n
	}
	data, err := json.Marshal(sums)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(s.dir, totalsName), append(data, '\n'), 0o600); err != nil {
		return err
	}
	for _, n := range segments {
		if err := os.Remove(filepath.Join(s.dir, segmentName(n))); err != nil {
			return err
		}
	}
	return nil
}

// Add writes one record. When Add returns nil, the record survives the end of the process, though not that of the
// machine.
func (s *Store) Add(r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil || s.size+int64(len(line)) >= s.limit {
		if err := s.next(); err != nil {
			return err
		}
	}
	n, err := s.file.Write(append(line, '\n'))
	s.size += int64(n)
	if err != nil { // the line may be torn: the next record begins a new segment
		s.size = s.limit
	}
	return err
}

// Close ends the store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.file != nil {
		err = s.file.Close()
		s.file = nil
	}
	return errors.Join(err, s.lock.Unlock())
}

func segmentName(n uint64) string { return fmt.Sprintf("%08d%s", n, segmentSuffix) }

// segmentsOf returns the numbers of the segments in a directory, sorted.
func segmentsOf(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []uint64
	for _, e := range entries {
		if base, ok := strings.CutSuffix(e.Name(), segmentSuffix); ok {
			if n, err := strconv.ParseUint(base, 10, 64); err == nil {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// totals are the sums of records.
type totals struct {
	Format   int               `json:"format"`
	Through  uint64            `json:"through"` // the last segment in the sums
	First    int64             `json:"first"`   // milliseconds since 1970
	Last     int64             `json:"last"`
	Outcomes map[Outcome]int64 `json:"outcomes"`
	APIs     map[API]int64     `json:"apis"`
	Rows     []*total          `json:"rows"`
	Configs  []string          `json:"configs"`
	Starts   int64             `json:"starts"`
	Damaged  int64             `json:"damaged"` // lines that are no records, such as one that was cut off by a crash

	by map[string]*total
}

// total counts one kind and field of difference.
type total struct {
	Kind     Kind      `json:"kind"`
	Field    string    `json:"field,omitempty"`
	Rows     []string  `json:"rows,omitempty"`
	Count    int64     `json:"count"`
	First    int64     `json:"first"`
	Last     int64     `json:"last"`
	Examples []Example `json:"examples"`
}

// Example is one occurrence of a difference.
type Example struct {
	Time     time.Time `json:"time"`
	API      API       `json:"api"`
	Subject  string    `json:"subject,omitempty"` // digest
	Upstream string    `json:"upstream"`
	Own      string    `json:"own"`
}

func newTotals() *totals {
	return &totals{Format: Format, Outcomes: map[Outcome]int64{}, APIs: map[API]int64{}, by: map[string]*total{}}
}

// NewerFormatError is the error of a store that a later version wrote.
type NewerFormatError struct {
	File   string
	Format int
}

// Error says what to do.
func (e *NewerFormatError) Error() string {
	return fmt.Sprintf("%s has format %d, and this version reads formats up to %d; use the version that wrote it",
		e.File, e.Format, Format)
}

func readTotals(dir string) (*totals, error) {
	t := newTotals()
	name := filepath.Join(dir, totalsName)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	if err := t.decode(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if t.Format > Format {
		return nil, &NewerFormatError{name, t.Format}
	}
	return t, nil
}

func (t *totals) decode(data []byte) error {
	if err := json.Unmarshal(data, t); err != nil {
		return err
	}
	if t.Outcomes == nil {
		t.Outcomes = map[Outcome]int64{}
	}
	if t.APIs == nil {
		t.APIs = map[API]int64{}
	}
	rows := t.Rows
	t.Rows, t.by = nil, map[string]*total{}
	for _, r := range rows {
		if r != nil && t.by[keyOf(r.Kind, r.Field, r.Rows)] == nil {
			t.Rows = append(t.Rows, r)
			t.by[keyOf(r.Kind, r.Field, r.Rows)] = r
		}
	}
	return nil
}

func keyOf(k Kind, field string, rows []string) string {
	return string(k) + "\x00" + field + "\x00" + strings.Join(rows, "\x00")
}

// readSegment adds the records of a file.
func (t *totals) readSegment(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, 2*segmentSize))
	if err != nil {
		return err
	}
	t.readLines(data)
	return nil
}

// readLines adds records. It counts lines that are none.
func (t *totals) readLines(data []byte) {
	for len(data) > 0 {
		line, rest, whole := bytes.Cut(data, []byte{'\n'})
		data = rest
		var r Record
		if !whole || json.Unmarshal(line, &r) != nil || r.Outcome == "" {
			t.Damaged++
			continue
		}
		t.add(r)
	}
}

// add adds one record.
func (t *totals) add(r Record) {
	if t.First == 0 || r.Time < t.First {
		t.First = r.Time
	}
	t.Last = max(t.Last, r.Time)
	if r.Outcome == started {
		t.Starts++
		if !slices.Contains(t.Configs, r.Config) && len(t.Configs) < maxConfigs {
			t.Configs = append(t.Configs, r.Config)
		}
		return
	}
	t.Outcomes[r.Outcome] += max(1, r.Count)
	if r.API != other {
		t.APIs[r.API] += max(1, r.Count)
	}
	for _, d := range r.Differences {
		row := t.row(d.Kind, d.Field, d.Rows)
		row.count(1, r.Time, r.Time)
		row.example(Example{time.UnixMilli(r.Time).UTC(), r.API, r.Subject, d.Upstream, d.Own})
	}
}

// row returns the row of a difference. When there are too many rows, all others are counted in one per kind.
func (t *totals) row(k Kind, field string, rows []string) *total {
	key := keyOf(k, field, rows)
	if t.by[key] == nil && len(t.Rows) >= maxRows {
		field, rows = "others", nil
		key = keyOf(k, field, rows)
	}
	if t.by[key] == nil {
		t.by[key] = &total{Kind: k, Field: field, Rows: rows}
		t.Rows = append(t.Rows, t.by[key])
	}
	return t.by[key]
}

func (t *total) count(n, first, last int64) {
	if t.Count == 0 || first < t.First {
		t.First = first
	}
	t.Count += n
	t.Last = max(t.Last, last)
}

func (t *total) example(e Example) {
	if len(t.Examples) < maxExamples {
		t.Examples = append(t.Examples, e)
	}
}

// merge adds other sums.
func (t *totals) merge(o *totals) {
	if o.First != 0 && (t.First == 0 || o.First < t.First) {
		t.First = o.First
	}
	t.Last = max(t.Last, o.Last)
	for k, n := range o.Outcomes {
		t.Outcomes[k] += n
	}
	for k, n := range o.APIs {
		t.APIs[k] += n
	}
	t.Damaged += o.Damaged
	t.Starts += o.Starts
	for _, c := range o.Configs {
		if !slices.Contains(t.Configs, c) && len(t.Configs) < maxConfigs {
			t.Configs = append(t.Configs, c)
		}
	}
	for _, r := range o.Rows {
		row := t.row(r.Kind, r.Field, r.Rows)
		row.count(r.Count, r.First, r.Last)
		for _, e := range r.Examples {
			row.example(e)
		}
	}
}

// readStore sums up the records in a directory, also while a process writes them.
func readStore(dir string) (*totals, error) {
	const tries = 5 // a segment may be removed between two steps, when it is in the totals
	for try := 1; ; try++ {
		t, err := readOnce(dir)
		if err == nil || try == tries || !errors.Is(err, fs.ErrNotExist) {
			return t, err
		}
	}
}

func readOnce(dir string) (*totals, error) {
	segments, err := segmentsOf(dir)
	if err != nil {
		return nil, err
	}
	t, err := readTotals(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range segments {
		if n <= t.Through {
			continue
		}
		if err := t.readSegment(filepath.Join(dir, segmentName(n))); err != nil {
			return nil, err
		}
	}
	return t, nil
}
