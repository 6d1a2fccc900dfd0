package ceremony

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
)

// CheckOptions for [Check].
type CheckOptions struct {
	Chain []*x509.Certificate // issuing certificate first, root last
	Now   time.Time
	Usage x509.ExtKeyUsage // codeSigning or timeStamping
	// Key is the CA key. Check tests whether it is the key of the chain and whether it signs. Optional.
	Key *Key
}

// Check checks every requirement of an issuing chain and returns one line for each. A line is [Wrong] if the CA does
// not start without the requirement, at least in production; otherwise it is a warning or a note.
func Check(o CheckOptions) []Line {
	var lines []Line
	if o.Usage == x509.ExtKeyUsageTimeStamping {
		lines = timestampingLines(o)
	} else {
		for _, r := range ca.Examine(o.Chain, o.Now, o.Usage) {
			lines = append(lines, lineOf(r))
		}
	}
	if o.Key == nil || len(o.Chain) == 0 {
		return lines
	}
	belongs := Line{Check: "the key belongs to the issuing certificate", Result: OK}
	if !equalKeys(o.Key.Signer.Public(), o.Chain[0].PublicKey) {
		belongs = Line{
			Check: belongs.Check, Result: Wrong,
			Detail: fmt.Sprintf("the key is not the key of %s", o.Chain[0].Subject),
			Fix:    "name the key that belongs to the chain",
		}
	}
	signs := Line{Check: "the key signs", Result: OK}
	if err := o.Key.Test(); err != nil {
		signs = Line{
			Check: signs.Check, Result: Wrong, Detail: err.Error(),
			Fix: "correct the key backend: its permissions, its address, the algorithm of the key",
		}
	}
	return append(lines, belongs, signs, Line{
		Check: "whether the key can be exported", Result: Note,
		Detail: o.Key.Statement.Exportable + ": " + o.Key.Statement.Reason,
	})
}

// lineOf returns the line of a requirement.
func lineOf(r ca.Requirement) Line {
	l := Line{Check: r.Name, Result: OK}
	if len(r.Findings) == 0 {
		return l
	}
	switch r.Level {
	case ca.Required, ca.Production:
		l.Result = Wrong
	case ca.Advised:
		l.Result = Warning
	case ca.Customary:
		l.Result = Note
	}
	var details, fixes []string
	for _, f := range r.Findings {
		details = append(details, f.Problem)
		if !contains(fixes, f.Fix) {
			fixes = append(fixes, f.Fix)
		}
	}
	l.Detail, l.Fix = strings.Join(details, "; "), strings.Join(fixes, "; ")
	return l
}

// testMessage begins the message that [Key.Test] signs. The message is not DER, so that its signature can never be the
// signature of a certificate.
const testMessage = "mayfly: this signature only shows that the key signs\n"

// Test signs a random message with the key, and verifies the signature with the public key.
func (k *Key) Test() error {
	message := append([]byte(testMessage), make([]byte, 32)...)
	if _, err := io.ReadFull(rand.Reader, message[len(testMessage):]); err != nil {
		return err
	}
	a, err := algorithmOf(k.Signer.Public())
	if err != nil {
		return err
	}
	signature, err := signing{key: k.Signer, algorithm: a, random: rand.Reader}.sign(message)
	if err != nil {
		return err
	}
	public := &x509.Certificate{PublicKey: k.Signer.Public()}
	if err := public.CheckSignature(a, message, signature); err != nil {
		return errors.New("its signature does not verify with its own public key")
	}
	return nil
}
