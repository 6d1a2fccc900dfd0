package reconcile

import (
	"bytes"
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

	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/owner"
	"github.com/mayfly-ca/mayfly/internal/shell"
)

// orderInfix stands between the path of a journal and what is the order's own in the name of its file.
const orderInfix = ".reconcile.order-"

// Bounds of the orders that "mayfly audit clear" leaves beside a journal.
const (
	maxOrder  = 4 << 10 // bytes of one
	maxOrders = 64      // that are carried out at once
)

// errForeignOrder is an order that another user may have written. It is left where it is, for an operator to look at.
var errForeignOrder = errors.New("the order is not carried out")

// TakeOrders reads the orders that [WriteOrder] left beside a journal, at most 64 of them in the order of their names,
// and removes them. An order closes alarms, also of a key that may be stolen: only the CA's own user and root may give
// one. A file that is not an order is removed, and an error says so; what another user may have written stays where it
// is.
func TakeOrders(journal string) (out []Order, err error) {
	found, err := filepath.Glob(escapeGlob(journal+orderInfix) + "*")
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if err := checkOrderPlace(journal); err != nil {
		return nil, err
	}
	slices.Sort(found)
	var errs []error
	for _, path := range found {
		if len(out) == maxOrders {
			break // the others are carried out the next time
		}
		o, err := readOrder(path)
		if err != nil {
			errs = append(errs, err)
			if errors.Is(err, errForeignOrder) {
				continue
			}
		}
		if e := os.Remove(path); e != nil { // else it would be carried out again and again
			errs = append(errs, e)
			continue
		}
		if err == nil {
			out = append(out, o)
		}
	}
	return out, errors.Join(errs...)
}

// checkOrderPlace errs if anybody but the CA's own user and root can put files beside a journal.
func checkOrderPlace(journal string) error {
	dir := filepath.Dir(journal)
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if uid, known := owner.Of(st); known && uid != 0 && uid != os.Geteuid() && os.Geteuid() != 0 {
		return fmt.Errorf("%w: %s belongs to user %d, who could write orders to the auditor; give it to the CA's user",
			errForeignOrder, dir, uid)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%w: others than its owner can write to %s (mode %04o), and so give orders to the "+
			"auditor; run chmod go-w %s",
			errForeignOrder, dir, st.Mode().Perm(), shell.Quote(dir))
	}
	return nil
}

// readOrder reads one order.
func readOrder(path string) (o Order, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return o, fmt.Errorf("%w: %w", errForeignOrder, err) // a link, or not for this user to read
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return o, fmt.Errorf("%w: %w", errForeignOrder, err)
	}
	uid, known := owner.Of(st)
	dirUID, _ := owner.Of(dirInfo(path))
	switch {
	case !st.Mode().IsRegular():
		return o, fmt.Errorf("%w: %s is not a regular file", errForeignOrder, path)
	case known && uid != 0 && uid != os.Geteuid() && uid != dirUID:
		return o, fmt.Errorf("%w: %s belongs to user %d; only the CA's user and root may give orders",
			errForeignOrder, path, uid)
	case st.Mode().Perm()&0o022 != 0:
		return o, fmt.Errorf("%w: others than its owner can write to %s (mode %04o)", errForeignOrder,
			path, st.Mode().Perm())
	case st.Size() > maxOrder:
		return o, fmt.Errorf("%s is not an order: it has %d bytes, the longest has %d; it was removed", path,
			st.Size(), maxOrder)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxOrder))
	if err != nil {
		return o, fmt.Errorf("%w: %w", errForeignOrder, err)
	}
	if o, err = parseOrder(data); err != nil {
		return o, fmt.Errorf("%s is not an order: %w; it was removed", path, err)
	}
	o.By = fmt.Sprintf("user %d", uid)
	return o, nil
}

// parseOrder reads an order: which alarm, or the alarms of which log.
func parseOrder(data []byte) (o Order, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return Order{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Order{}, errors.New("it has more than one value")
	}
	if id, err := hex.DecodeString(o.Alarm); o.Alarm != "" && (err != nil || len(id) != 8) {
		return Order{}, errors.New("the ID of an alarm is 16 hexadecimal digits")
	}
	if (o.Log == "") == (o.Alarm == "") {
		return Order{}, errors.New("it names neither a log nor an alarm, or both")
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

// WriteOrder leaves an order beside a journal, for the CA that writes the journal.
func WriteOrder(journal string, o Order) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return writeOrder(journal, rand.Text(), data)
}

// writeOrder leaves an order beside a journal. One that root gives belongs to the owner of the journal, who has to read
// it.
func writeOrder(journal, name string, data []byte) error {
	if err := checkOrderPlace(journal); err != nil {
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

// escapeGlob makes a path a pattern that matches itself only.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
