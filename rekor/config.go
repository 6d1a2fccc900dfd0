package rekor

import (
	"strconv"

	"github.com/mayfly-ca/mayfly/fault"
)

// Who may write to the log: the values of admit in the configuration.
const (
	AdmitOwn = "own" // entries with a certificate of this certificate authority
	AdmitAny = "any" // entries with any key or certificate
)

// checkAdmit validates the setting admit; empty is the default.
func checkAdmit(admit string) error {
	switch admit {
	case "", AdmitOwn, AdmitAny:
		return nil
	}
	return fault.BadSetting("invalid value "+strconv.Quote(admit), "write own or any", "admit")
}
