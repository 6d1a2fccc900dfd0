package shadow

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/durable"
)

// Plan says whose requests the candidate serves. The zero value is nobody's.
type Plan struct {
	// Share is the share of all identities, in hundredths of a percent: 0 to 10000. An identity is in it or not,
	// whichever process is asked, and stays in it when the share grows.
	Share int
	// Subjects are served in any case: an issuer with a subject, or an issuer alone.
	Subjects []Chosen
}

// Chosen is an issuer, and one subject of it or, if Subject is empty, all.
type Chosen struct{ Issuer, Subject string }

const (
	planName    = "serve"
	maxPlan     = 1 << 20
	wholeShare  = 10000
	maxSubjects = 10000
)

// Empty reports whether the candidate serves nobody.
func (p Plan) Empty() bool { return p.Share == 0 && len(p.Subjects) == 0 }

// ParseShare reads a share such as "25%", "0.5%" or "0".
func ParseShare(text string) (int, error) {
	number, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(text), "%"), 64)
	if err != nil || math.IsNaN(number) || number < 0 || number > 100 {
		return 0, fault.Cure(fmt.Errorf("%q is not a share", text), "write a percentage between 0 and 100")
	}
	hundredths := number * 100
	if math.Abs(hundredths-math.Round(hundredths)) > 1e-6 {
		return 0, fault.Cure(fmt.Errorf("%q has more than two decimals", text), "write a share such as 0.25%")
	}
	return int(math.Round(hundredths)), nil
}

// ParsePlan reads the form of [Plan.String].
func ParsePlan(data []byte) (p Plan, err error) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	shares := 0
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		switch {
		case len(words) == 0:
		case words[0] == "share" && len(words) == 2:
			if shares++; shares > 1 {
				return Plan{}, fmt.Errorf("line %d: the plan has a share already", n)
			}
			if p.Share, err = ParseShare(words[1]); err != nil {
				return Plan{}, fmt.Errorf("line %d: %w", n, err)
			}
		case words[0] == "identity" && (len(words) == 2 || len(words) == 3) && len(p.Subjects) < maxSubjects:
			p.Subjects = append(p.Subjects, Chosen{words[1], strings.Join(words[2:], "")})
		default:
			return Plan{}, fault.Cure(fmt.Errorf("line %d is not a line of a plan", n),
				"write \"share 25%\", or \"identity ISSUER\" or \"identity ISSUER SUBJECT\"; at most 10000 lines")
		}
	}
	return p, lines.Err()
}

// String returns the lines of the plan's file.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "share %s%%\n", strconv.FormatFloat(float64(p.Share)/100, 'f', -1, 64))
	for _, c := range p.Subjects {
		b.WriteString(strings.TrimSpace("identity "+c.Issuer+" "+c.Subject) + "\n")
	}
	return b.String()
}

// WritePlan puts a plan into force for the process with the store in dir.
func WritePlan(dir string, p Plan) error {
	if _, err := os.Stat(dir); err != nil {
		return fault.Cure(err, "name the directory of a running \"mayfly shadow\"")
	}
	text := p.String()
	if again, err := ParsePlan([]byte(text)); err != nil || !again.equal(p) {
		return errors.New("an issuer or a subject with white space or \"#\" cannot be selected; select its issuer alone")
	}
	return durable.WriteFile(filepath.Join(dir, planName), []byte(text), 0o600)
}

func (p Plan) equal(o Plan) bool { return p.Share == o.Share && slices.Equal(p.Subjects, o.Subjects) }

// ReadPlan returns the plan in dir. ok is false if there is none.
func ReadPlan(dir string) (p Plan, ok bool, err error) {
	name := filepath.Join(dir, planName)
	data, err := bounded.ReadFile(name, maxPlan)
	if errors.Is(err, fs.ErrNotExist) {
		return Plan{}, false, nil
	}
	if err != nil {
		return Plan{}, false, err
	}
	if p, err = ParsePlan(data); err != nil {
		return Plan{}, false, fmt.Errorf("%s: %w", name, err)
	}
	return p, true, nil
}

// selection is a plan, for look-ups.
type selection struct {
	share   uint64
	chosen  map[Chosen]bool
	nothing bool
}

func (p Plan) selection() *selection {
	s := &selection{share: uint64(p.Share), chosen: map[Chosen]bool{}, nothing: p.Empty()} //nolint:gosec // 0 to 10000
	for _, c := range p.Subjects {
		s.chosen[c] = true
	}
	return s
}

// has reports whether the candidate serves a subject. Requests without a readable token are the upstream's until the
// share is the whole.
func (s *selection) has(who subject, known bool) bool {
	if !known {
		return s.share == wholeShare
	}
	if s.chosen[Chosen{who.Issuer, ""}] || s.chosen[Chosen{who.Issuer, who.Name}] {
		return true
	}
	sum := sha256.Sum256([]byte(who.Issuer + "\x00" + who.Name))
	return binary.BigEndian.Uint64(sum[:8])%wholeShare < s.share
}
