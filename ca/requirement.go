package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Level says what follows if a chain does not meet a requirement.
type Level uint8

// The levels, the most serious one first.
const (
	Required   Level = iota // [New] refuses the chain
	Production              // the CA warns, and refuses the chain with "production: true"
	Advised                 // the CA warns
	Customary               // a running CA says nothing; a ceremony makes no such chain
)

// String returns the level in the words of "mayfly ca check".
func (l Level) String() string {
	return [...]string{"required", "required in production", "advised", "customary"}[l]
}

// Requirement is one requirement of a chain with its result.
type Requirement struct {
	Name     string
	Level    Level
	Findings []Finding // empty: the chain meets the requirement
}

// Finding is how a chain does not meet a requirement.
type Finding struct {
	Certificate  int // the index in the chain; 0 also for what concerns the chain as a whole
	Problem, Fix string
}

// Examine checks every requirement of a chain under which certificates for usage are issued at the time now: issuing
// certificate first, root last. usage is codeSigning or timeStamping. It is the one list of requirements: what [New]
// refuses, what [Advise] warns of and what a ceremony checks before and after it signs.
//
// Sources are RFC 5280, what verifiers do, and what the documentation of Fulcio demands of a root and of an
// intermediate.
func Examine(chain []*x509.Certificate, now time.Time, usage x509.ExtKeyUsage) []Requirement {
	e := examination{chain: chain, now: now, usage: usage}
	out := make([]Requirement, 0, len(requirements))
	for _, r := range requirements {
		result := Requirement{Name: r.name, Level: r.level}
		if len(chain) == 0 {
			if r.name == nameSignatures {
				result.Findings = []Finding{{Problem: errEmptyChain.Error(), Fix: "write at least one certificate"}}
			}
			out = append(out, result)
			continue
		}
		for i := range chain {
			if problem, fix := r.check(e, i); problem != "" {
				result.Findings = append(result.Findings, Finding{Certificate: i, Problem: problem, Fix: fix})
			}
		}
		out = append(out, result)
	}
	return out
}

var errEmptyChain = errors.New("the chain is empty")

// examination is one call of [Examine].
type examination struct {
	chain []*x509.Certificate
	now   time.Time
	usage x509.ExtKeyUsage
}

// purpose is what the certificates below the chain are for.
func (e examination) purpose() string {
	if e.usage == x509.ExtKeyUsageTimeStamping {
		return "timestamping"
	}
	return "code signing"
}

// usageName is the name of the extended key usage in RFC 5280 §4.2.1.12.
func (e examination) usageName() string {
	if e.usage == x509.ExtKeyUsageTimeStamping {
		return "timeStamping"
	}
	return "codeSigning"
}

// which names the certificate at index i.
func (e examination) which(i int) string {
	if i == 0 {
		return "the issuing certificate (" + name(e.chain[0]) + ")"
	}
	return e.numbered(i)
}

func (e examination) numbered(i int) string {
	return fmt.Sprintf("certificate %d (%s)", i+1, name(e.chain[i]))
}

// isRoot reports whether the certificate at index i is the last one.
func (e examination) isRoot(i int) bool { return i == len(e.chain)-1 }

// parent returns the certificate above the one at index i: its issuer, or itself at the end.
func (e examination) parent(i int) *x509.Certificate { return e.chain[min(i+1, len(e.chain)-1)] }
