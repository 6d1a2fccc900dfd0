package reconcile

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/owner"
	"github.com/mayfly-ca/mayfly/internal/shell"
	"github.com/mayfly-ca/mayfly/monitor"
)

// Order is an operator's order to close the alarms of a log, which is then used again, or to close one alarm.
type Order struct {
	Log   string `json:"log,omitempty"`
	Alarm string `json:"alarm,omitempty"` // finding ID
	// By is the user that gave the order, if known.
	By string `json:"-"`
}

// Closes reports whether the order closes the alarm f.
func (o Order) Closes(f Finding) bool {
	return o.Log != "" && f.Log == o.Log && f.Kind.concernsLog() || o.Alarm != "" && f.ID == o.Alarm
}

// Target is the log or alarm that the order names.
func (o Order) Target() string {
	if o.Log != "" {
		return "log " + o.Log
	}
	return "alarm " + o.Alarm
}

// maxNamedAlarms is the maximum number of closed alarms that [Order.Text] names.
const maxNamedAlarms = 20

// Text describes an applied order and the alarms that it closed, for the journal.
func (o Order) Text(closed []Finding) string {
	text := "alarms were cleared: " + o.Target()
	if o.By != "" {
		text += ", by " + o.By
	}
	for i, f := range closed {
		if i == maxNamedAlarms {
			text += fmt.Sprintf("; and %d more", len(closed)-i)
			break
		}
		text += fmt.Sprintf("; %s %s", f.ID, f.Kind)
		if f.Serial != "" {
			text += " serial " + f.Serial
		}
	}
	return text
}

// applyOrders applies the orders of the operator. The error is about the orders that are not applied.
func (a *Auditor) applyOrders(ctx context.Context) error {
	if a.o.Orders == nil {
		return nil
	}
	orders, err := a.o.Orders()
	for _, o := range orders {
		a.applyOrder(ctx, o)
	}
	return err
}

// applyOrder closes alarms. A log that failed verification is read from its beginning again, as if it was new.
func (a *Auditor) applyOrder(ctx context.Context, o Order) {
	var closed []Finding
	a.alarms.open = slices.DeleteFunc(a.alarms.open, func(one Alarm) bool {
		closes := o.Closes(one.Finding)
		if closes {
			closed = append(closed, one.Finding)
		}
		return closes
	})
	a.alarms.rebuildIndex()
	for _, f := range a.followers {
		if o.Log == "" || f.logState.name != o.Log {
			continue
		}
		if !f.verified {
			f.Restore(monitor.State{Log: f.id})
			f.size, f.logState.head, f.scrub, f.verified = 0, monitor.Head{}, nil, true
		}
	}
	if _, was := a.alarms.quarantined[o.Log]; was && o.Log != "" {
		delete(a.alarms.quarantined, o.Log)
		a.publishQuarantined()
		if a.o.Release != nil {
			a.o.Release(o.Log)
		}
	}
	if a.o.Cleared != nil {
		a.o.Cleared(ctx, o, closed)
	}
}

// orderInfix separates the path of the journal from a random suffix in the names of order files.
const orderInfix = stateSuffix + ".order-"

// Bounds of the orders that "mayfly audit clear" writes beside a journal.
const (
	maxOrderSize = 4 << 10 // bytes
	maxOrders    = 64      // that are applied at once
)

// errUntrustedOrder means that another user may have written an order. Its file is kept for an operator to examine.
var errUntrustedOrder = errors.New("the order is not applied")

// TakeOrders reads and removes the orders that [WriteOrder] wrote beside a journal, at most 64, in the order of their
// file names. An order can close the alarm of a key compromise, so only the CA's own user and root may give one. A file
// that is not an order is removed, and the error says so. A file that another user may have written stays in place.
func TakeOrders(journal string) (out []Order, err error) {
	found, err := filepath.Glob(escapeGlob(journal+orderInfix) + "*")
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if err := checkOrderDir(journal); err != nil {
		return nil, err
	}
	slices.Sort(found)
	var errs []error
	for _, path := range found {
		if len(out) == maxOrders {
			break // the next audit applies the others
		}
		o, err := readOrder(path)
		if err != nil {
			errs = append(errs, err)
			if errors.Is(err, errUntrustedOrder) {
				continue
			}
		}
		if e := os.Remove(path); e != nil { // an order that is not removed would be applied again and again
			errs = append(errs, e)
			continue
		}
		if err == nil {
			out = append(out, o)
		}
	}
	return out, errors.Join(errs...)
}

// checkOrderDir returns an error if a user other than the CA's own user and root can create files beside a journal.
func checkOrderDir(journal string) error {
	dir := filepath.Dir(journal)
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if uid, known := owner.Of(st); known && uid != 0 && uid != os.Geteuid() && os.Geteuid() != 0 {
		return fmt.Errorf("%w: %s belongs to user %d, who could write orders to the auditor; give it to the CA's user",
			errUntrustedOrder, dir, uid)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%w: users other than its owner can write to %s (mode %04o), and so "+
			"could write orders to the auditor; run chmod go-w %s",
			errUntrustedOrder, dir, st.Mode().Perm(), shell.Quote(dir))
	}
	return nil
}

// readOrder reads an order file.
func readOrder(path string) (o Order, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return o, fmt.Errorf("%w: %w", errUntrustedOrder, err) // a symbolic link, or not readable for this user
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	st, err := f.Stat()
	if err != nil {
		return o, fmt.Errorf("%w: %w", errUntrustedOrder, err)
	}
	uid, known := owner.Of(st)
	dirUID, _ := owner.Of(dirInfo(path))
	switch {
	case !st.Mode().IsRegular():
		return o, fmt.Errorf("%w: %s is not a regular file", errUntrustedOrder, path)
	case known && uid != 0 && uid != os.Geteuid() && uid != dirUID:
		return o, fmt.Errorf("%w: %s belongs to user %d; only the CA's user and root may write orders",
			errUntrustedOrder, path, uid)
	case st.Mode().Perm()&0o022 != 0:
		return o, fmt.Errorf("%w: users other than its owner can write to %s (mode %04o)", errUntrustedOrder,
			path, st.Mode().Perm())
	case st.Size() > maxOrderSize:
		return o, fmt.Errorf("%s is not an order: it has %d bytes, more than the maximum of %d; it was removed", path,
			st.Size(), maxOrderSize)
	}
	data, err := bounded.ReadAll(f, maxOrderSize)
	if err != nil {
		return o, fmt.Errorf("%w: %w", errUntrustedOrder, err)
	}
	if o, err = parseOrder(data); err != nil {
		return o, fmt.Errorf("%s is not an order: %w; it was removed", path, err)
	}
	o.By = fmt.Sprintf("user %d", uid)
	return o, nil
}

// parseOrder parses an order, which names either an alarm or a log.
func parseOrder(data []byte) (o Order, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return Order{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Order{}, errors.New("it has more than one JSON value")
	}
	if id, err := hex.DecodeString(o.Alarm); o.Alarm != "" && (err != nil || len(id) != 8) {
		return Order{}, errors.New("the ID of an alarm has 16 hexadecimal digits")
	}
	if (o.Log == "") == (o.Alarm == "") {
		return Order{}, errors.New("it must name either a log or an alarm")
	}
	return o, nil
}

func dirInfo(path string) os.FileInfo {
	st, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil
	}
	return st
}

// WriteOrder writes an order beside a journal, for the CA that writes the journal.
func WriteOrder(journal string, o Order) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return writeOrder(journal, rand.Text(), data)
}

// writeOrder writes an order beside a journal. If root gives the order, the file belongs to the owner of the journal,
// who has to read it.
func writeOrder(journal, name string, data []byte) error {
	if err := checkOrderDir(journal); err != nil {
		return err
	}
	path := journal + orderInfix + name
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	st, err := os.Stat(journal)
	if err != nil {
		st, err = os.Stat(filepath.Dir(journal))
	}
	if uid, known := owner.Of(st); err == nil && known && uid != os.Geteuid() && os.Geteuid() == 0 {
		return os.Chown(path, uid, -1)
	}
	return nil
}

// escapeGlob returns a pattern that matches only the path.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
