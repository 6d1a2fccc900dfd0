package ceremony

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/backends"
	"github.com/mayfly-ca/mayfly/fault"
)

// The purposes of a chain.
const (
	CodeSigning  = "code-signing"
	Timestamping = "timestamping"
)

// Plan describes the root, and the certificate below it, that a ceremony makes. Paths are relative to the file of the
// plan.
type Plan struct {
	// Purpose is code-signing or timestamping. Default: code-signing.
	Purpose string `yaml:"purpose"`
	// Root is the root: it signs itself and the other certificate, and its key stays offline.
	Root Part `yaml:"root"`
	// Issuing is the certificate that the CA issues with; with the purpose timestamping, that of the timestamp
	// authority.
	Issuing Part `yaml:"issuing"`
	// Transcript is the path of the transcript. Default: transcript.json beside the chain.
	Transcript string `yaml:"transcript" path:"write"`
	// SignTranscript says whether the root's key signs the transcript. The signature is in a file with the name of the
	// transcript and ".sig".
	SignTranscript bool `yaml:"sign_transcript"`
}

// Part is one certificate of a plan with its key.
type Part struct {
	// Subject is the name in the certificate.
	Subject Subject `yaml:"subject"`
	// NotBefore is the start of the validity, such as 2027-01-01T00:00:00Z. When omitted: 40 seconds before the
	// ceremony.
	NotBefore string `yaml:"not_before"`
	// ValidFor is for how long the certificate is valid. Default: 87600h for the root, 43800h for the other one.
	ValidFor time.Duration `yaml:"valid_for"`
	// PathLength is the maximum number of CA certificates below the root in a chain. Default: 1; with the purpose
	// timestamping 0.
	PathLength *int `yaml:"path_length"`
	// Generate is the algorithm of a key to make in a file: ecdsa-p256, ecdsa-p384, ecdsa-p521, ed25519, rsa-3072,
	// rsa-4096 or, experimental, ml-dsa-44, ml-dsa-65 or ml-dsa-87. When omitted: the key exists, in a file, a KMS or
	// an HSM.
	Generate string `yaml:"generate"`
	// Unencrypted says that the new key is written without encryption. Default: false.
	Unencrypted bool `yaml:"unencrypted"`
	// Key is the key backend, as below ca in mayfly.yaml. The certificates are written to the file that its chain
	// names.
	Key backends.Table `yaml:"key"`
}

// Check finds what is wrong with the plan without reading a file. Its errors are [fault.Setting] values.
func (p *Plan) Check() error {
	var errs []error
	switch p.Purpose {
	case "", CodeSigning, Timestamping:
	default:
		errs = append(errs, fault.BadSetting(fmt.Sprintf("unknown purpose %q", p.Purpose), "write "+CodeSigning+" or "+
			Timestamping, "purpose"))
	}
	errs = append(errs, fault.Under(p.Root.check(), "root"), fault.Under(p.Issuing.check(), "issuing"))
	if p.Issuing.PathLength != nil {
		errs = append(errs, fault.BadSetting("the path length of this certificate is always 0",
			"remove the key, or have further CAs signed with mayfly ca sign", "issuing", "path_length"))
	}
	if n := p.Root.PathLength; n != nil && (*n < 0 || *n > 8) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("path length %d is out of range", *n), "write 0 to 8",
			"root", "path_length"))
	} else if n != nil && *n == 0 && !p.timestamping() {
		errs = append(errs, fault.BadSetting("a root with path length 0 cannot sign an issuing certificate",
			"write 1 or more, or remove the key", "root", "path_length"))
	}
	if errors.Join(errs...) != nil {
		return errors.Join(errs...)
	}
	return p.checkPaths()
}

// checkPaths refuses two outputs with the same path.
func (p *Plan) checkPaths() error {
	var errs []error
	seen := map[string]bool{}
	for _, path := range p.paths() {
		if clean := filepath.Clean(path); seen[clean] {
			errs = append(errs, fault.BadSetting(path+" is written twice", "write a different path for each file"))
		} else {
			seen[clean] = true
		}
	}
	return errors.Join(errs...)
}

// check checks one part.
func (p *Part) check() error {
	var errs []error
	if _, err := p.Subject.der(); err != nil {
		errs = append(errs, fault.Under(err, "subject"))
	}
	if p.NotBefore != "" {
		if _, err := time.Parse(time.RFC3339, p.NotBefore); err != nil {
			errs = append(errs, fault.BadSetting(fmt.Sprintf("%q is not a time", p.NotBefore),
				"write a time such as 2027-01-01T00:00:00Z", "not_before"))
		}
	}
	if p.ValidFor < 0 || p.ValidFor > 0 && p.ValidFor < time.Hour || p.ValidFor%time.Second != 0 {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("a validity of %s is out of range", p.ValidFor),
			"write at least 1h, in whole seconds", "valid_for"))
	}
	if p.Generate != "" && !slices.Contains(Algorithms(), p.Generate) {
		errs = append(errs, fault.BadSetting(fmt.Sprintf("unknown algorithm %q", p.Generate),
			"write one of "+strings.Join(Algorithms(), ", "), "generate"))
	}
	if err := fault.Under(p.Key.Check(), "key"); err != nil {
		return errors.Join(append(errs, err)...)
	}
	_, b := p.Key.Selected()
	switch {
	case b.Temporary():
		errs = append(errs, fault.BadSetting("the key would be lost when this process ends",
			"use another key backend", "key"))
	case p.Generate != "" && p.Key.File == nil:
		errs = append(errs, fault.BadSetting("keys are generated in files only",
			"generate the key with the tools of its key backend, and remove the setting generate", "generate"))
	case p.Generate == "" && p.Unencrypted:
		errs = append(errs, fault.BadSetting("the setting applies only to a key with generate",
			"remove the key", "unencrypted"))
	case p.Generate != "" && (p.Key.File.Password != nil) == p.Unencrypted:
		errs = append(errs, fault.BadSetting("the key has neither a password nor unencrypted: true, or it has both",
			"write one of key.file.password and unencrypted: true", "key", "file"))
	}
	return errors.Join(errs...)
}

func (p *Plan) timestamping() bool { return p.Purpose == Timestamping }

func (p *Part) validity() Validity {
	v := Validity{For: p.ValidFor}
	if p.NotBefore != "" {
		v.NotBefore, _ = time.Parse(time.RFC3339, p.NotBefore) // Check parsed it
	}
	return v
}

// TranscriptFile returns the path of the transcript.
func (p *Plan) TranscriptFile() string {
	if p.Transcript != "" {
		return p.Transcript
	}
	return filepath.Join(filepath.Dir(p.Issuing.Key.ChainFile()), "transcript.json")
}

// paths returns the paths of all files that the ceremony makes, in the order in which they are written.
func (p *Plan) paths() []string {
	var out []string
	for _, part := range []*Part{&p.Root, &p.Issuing} {
		if part.Generate != "" {
			out = append(out, part.Key.File.Key)
		}
	}
	out = append(out, p.Root.Key.ChainFile(), p.TranscriptFile())
	if p.SignTranscript {
		out = append(out, p.TranscriptFile()+SignatureSuffix)
	}
	return append(out, p.Issuing.Key.ChainFile())
}

// profiles returns the profiles of the two certificates, for a ceremony at the time now. The key identifiers depend on
// the keys and are not set.
func (p *Plan) profiles(now time.Time) (root, issuing Profile, err error) {
	root = Profile{Role: RoleRoot, PathLength: 1}
	issuing = Profile{Role: RoleIntermediate}
	if p.timestamping() {
		root.PathLength, issuing.Role = 0, RoleTimestamping
	}
	if p.Root.PathLength != nil {
		root.PathLength = *p.Root.PathLength
	}
	root.NotBefore, root.NotAfter = p.Root.validity().between(now, DefaultRootValidity)
	issuing.NotBefore, issuing.NotAfter = p.Issuing.validity().between(now, DefaultIssuingValidity)
	if root.Subject, err = p.Root.Subject.der(); err != nil {
		return root, issuing, fmt.Errorf("root: %w", err)
	}
	if issuing.Subject, err = p.Issuing.Subject.der(); err != nil {
		return root, issuing, fmt.Errorf("issuing: %w", err)
	}
	return root, issuing, nil
}
