package ceremony

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/internal/pemfile"
)

// transcriptFormat is the name and version of the format of a transcript.
const transcriptFormat = "mayfly-ceremony/1"

// SignatureSuffix is the suffix of the file name of a transcript's signature.
const SignatureSuffix = ".sig"

// Transcript is the record of one ceremony. In a file it is JSON in its canonical form (RFC 8785), so that its bytes
// can be signed with any tool.
type Transcript struct {
	Format    string    `json:"format"`
	Operation string    `json:"operation"` // init, sign or cross-sign
	Tool      string    `json:"tool,omitempty"`
	Time      time.Time `json:"time"`
	// Plan is the reviewed file, if there was one.
	Plan *Input `json:"plan,omitempty"`
	// Keys describes the keys that signed or were certified.
	Keys []KeyStatement `json:"keys"`
	// Inputs are the files that were read.
	Inputs []Input `json:"inputs,omitempty"`
	// Parents are the existing certificates above the new ones, in PEM, the issuer first.
	Parents []string `json:"parents,omitempty"`
	// Certificates are the new certificates, each after its issuer.
	Certificates []Entry `json:"certificates"`
	// Outputs are the files that were written besides the transcript and its signature.
	Outputs []Record `json:"outputs"`
}

// Input is a public file that a ceremony read.
type Input struct {
	Path    string `json:"path"`
	SHA256  string `json:"sha256"`
	Content string `json:"content"`
}

// Record is a file that a ceremony wrote. A private key has no digest.
type Record struct {
	Path   string `json:"path"`
	What   string `json:"what"`
	SHA256 string `json:"sha256,omitempty"`
}

// Entry is a certificate with everything that determines its bytes, except the signature.
type Entry struct {
	Profile   Profile `json:"profile"`
	Serial    string  `json:"serial"`     // in hexadecimal
	PublicKey string  `json:"public_key"` // in PEM
	// Issuer is the SHA-256 of the issuer's certificate; empty for a root.
	Issuer      string `json:"issuer_sha256,omitempty"`
	Certificate string `json:"certificate"` // in PEM
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func fileOf(o Output) Record {
	r := Record{Path: filepath.ToSlash(o.Path), What: o.What}
	if !o.Secret {
		r.SHA256 = digest(o.data)
	}
	return r
}

func entryOf(o order, c *x509.Certificate) Entry {
	e := Entry{
		Profile: o.profile, Serial: hex.EncodeToString(o.serial), Certificate: string(encode(c)),
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: c.RawSubjectPublicKeyInfo})),
	}
	if issuer := o.issuer(); issuer != nil {
		e.Issuer = digest(issuer.Raw)
	}
	return e
}

// Marshal returns the canonical form.
func (t *Transcript) Marshal() ([]byte, error) {
	data, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	v := jsontext.Value(data)
	if err := v.Canonicalize(); err != nil {
		return nil, err
	}
	return append([]byte(v), '\n'), nil
}

// ParseTranscript reads a transcript. It refuses a transcript that is not in canonical form or has unknown members, so
// that no part of a transcript is ignored.
func ParseTranscript(data []byte) (*Transcript, error) {
	t := &Transcript{}
	if err := json.Unmarshal(data, t, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("not a transcript of a ceremony: %w", err)
	}
	if t.Format != transcriptFormat {
		return nil,
			fmt.Errorf("the transcript has the format %q, which this version cannot read; use the version "+
				"that wrote the transcript",
				t.Format)
	}
	again, err := t.Marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, data) {
		return nil,
			errors.New("the transcript is not in the canonical form in which it was written: it was " +
				"changed; restore the file")
	}
	return t, nil
}

// signTranscript signs the canonical form. A transcript begins with "{" and a TBSCertificate with 0x30, so that the
// signature can never be the signature of a certificate.
func signTranscript(key crypto.Signer, data []byte, random io.Reader) ([]byte, error) {
	a, err := algorithmOf(key.Public())
	if err != nil {
		return nil, err
	}
	return signing{key: key, algorithm: a, random: random}.sign(data)
}

// The results of a [Line].
const (
	OK      = "ok"
	Wrong   = "wrong"
	Warning = "warning"
	Note    = "note"
)

// Line is one check with its result.
type Line struct {
	Check  string `json:"check"`
	Result string `json:"result"` // ok, wrong, warning or note
	Detail string `json:"detail,omitempty"`
	Fix    string `json:"fix,omitempty"`
}

// Failed reports whether the result of the check is [Wrong].
func Failed(lines []Line) bool {
	return slices.ContainsFunc(lines, func(l Line) bool { return l.Result == Wrong })
}

// ReplayOptions for [Transcript.Replay].
type ReplayOptions struct {
	// Plan is the plan from which the certificates must follow. Nil: the transcript has none.
	Plan *Plan
	// Data is the transcript as it was read, and Signature its signature. If Signature is nil, no signature of the
	// transcript is verified.
	Data, Signature []byte
	// Dir is the directory of the transcript. Outputs that do not exist at their recorded paths are searched for there.
	Dir string
}

// Replay makes every certificate of the transcript again, without its signature, and compares the bytes; it verifies
// the signatures, and compares plan, inputs and outputs with the transcript.
func (t *Transcript) Replay(o ReplayOptions) []Line {
	r := replay{t: t, chains: map[string][]*x509.Certificate{}}
	r.parents()
	for i := range t.Certificates {
		r.certificate(i)
	}
	r.plan(o.Plan)
	r.inputs()
	r.outputs(o.Dir)
	r.signature(o)
	return r.lines
}

type replay struct {
	t      *Transcript
	certs  []*x509.Certificate            // of the entries; nil for one that cannot be parsed
	chains map[string][]*x509.Certificate // by the digest of the first certificate
	lines  []Line
}

func (r *replay) report(check string, err error, fix string) {
	if err == nil {
		r.lines = append(r.lines, Line{Check: check, Result: OK})
		return
	}
	r.lines = append(r.lines, Line{Check: check, Result: Wrong, Detail: err.Error(), Fix: fix})
}

func (r *replay) parents() {
	var all []*x509.Certificate
	for _, text := range r.t.Parents {
		c, err := onlyCertificate(text)
		if err != nil {
			r.report("parents", err, restoreTranscript)
			return
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return
	}
	r.report("parents", checkParents(all), restoreTranscript)
	for i := range all {
		r.chains[digest(all[i].Raw)] = all[i:]
	}
}

const restoreTranscript = "restore the transcript from where it was kept"

func onlyCertificate(text string) (*x509.Certificate, error) {
	certs, err := pemfile.Certificates([]byte(text))
	if err == nil && len(certs) != 1 {
		err = fmt.Errorf("%d certificates instead of one", len(certs))
	}
	if err != nil {
		return nil, err
	}
	if string(encode(certs[0])) != text {
		return nil, errors.New("the file has data before or after the certificate")
	}
	return certs[0], nil
}

func (r *replay) certificate(i int) {
	e := r.t.Certificates[i]
	c, err := r.remake(e)
	r.certs = append(r.certs, c)
	name := fmt.Sprintf("certificate %d (%s)", i+1, e.Profile.Name)
	r.report(name+" is what the transcript says", err,
		"do not use it: hold the ceremony again, and find out who changed the certificate or the transcript")
}

func (r *replay) remake(e Entry) (*x509.Certificate, error) {
	c, err := onlyCertificate(e.Certificate)
	if err != nil {
		return nil, err
	}
	block, err := pemfile.Only([]byte(e.PublicKey), "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	serial, err := hex.DecodeString(e.Serial)
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	if err := e.Profile.check(); err != nil {
		return nil, err
	}
	if name, err := nameOf(e.Profile.Subject); err != nil || name != e.Profile.Name {
		return nil, errors.New("its subject and its subject_der differ")
	}
	o := order{profile: e.Profile, serial: serial, key: key, signer: key, now: r.t.Time}
	if e.Issuer != "" {
		parents, ok := r.chains[e.Issuer]
		if !ok {
			return nil, fmt.Errorf("its issuer (%s) is not in the transcript before it", e.Issuer)
		}
		o.parents, o.signer = parents, parents[0].PublicKey
	}
	u, err := o.build()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(u.raw, c.RawTBSCertificate) {
		return nil, errors.New("the certificate differs from the one that its profile, serial number and keys give")
	}
	if _, err := o.lint(c, true); err != nil {
		return nil, err
	}
	r.chains[digest(c.Raw)] = append([]*x509.Certificate{c}, o.parents...)
	return c, nil
}

// plan compares the profiles with those that the plan gives at the time of the ceremony.
func (r *replay) plan(p *Plan) {
	if r.t.Plan == nil && p == nil {
		return
	}
	const name = "the certificates are those of the plan"
	const fix = "compare the plan with the reviewed one; if they are the same, do not use the certificates"
	switch {
	case r.t.Plan == nil:
		r.report(name, errors.New("the transcript is of a ceremony without a plan"), "name the plan's own transcript")
		return
	case p == nil:
		r.report(name, errors.New("the plan cannot be read"), fix)
		return
	case digest([]byte(r.t.Plan.Content)) != r.t.Plan.SHA256:
		r.report(name, errors.New("the plan in the transcript does not have the digest in the transcript"), fix)
		return
	case len(r.t.Certificates) != 2:
		r.report(name, fmt.Errorf("%d certificates; a plan has two", len(r.t.Certificates)), fix)
		return
	}
	root, issuing, err := p.profiles(r.t.Time)
	if err != nil {
		r.report(name, err, fix)
		return
	}
	for i, want := range []Profile{root, issuing} {
		got := r.t.Certificates[i].Profile
		if got.Role != want.Role || !bytes.Equal(got.Subject, want.Subject) || got.PathLength != want.PathLength ||
			!got.NotBefore.Equal(want.NotBefore) || !got.NotAfter.Equal(want.NotAfter) {
			r.report(name, fmt.Errorf("certificate %d (%s) differs from the certificate of the plan", i+1, got.Name),
				fix)
			return
		}
	}
	r.report(name, nil, "")
}

func (r *replay) inputs() {
	for _, in := range r.t.Inputs {
		var err error
		if digest([]byte(in.Content)) != in.SHA256 {
			err = errors.New("its content does not have the digest in the transcript")
		}
		r.report("input "+in.Path, err, restoreTranscript)
	}
	switch r.t.Operation {
	case "sign", "cross-sign":
		r.report("the new certificate is for the name and the key of an input", r.fromInput(), restoreTranscript)
	}
}

// fromInput checks for each entry that a request or certificate among the inputs has the same subject and key.
func (r *replay) fromInput() error {
	for i, c := range r.certs {
		if c == nil {
			continue // reported
		}
		if !slices.ContainsFunc(r.t.Inputs, func(in Input) bool {
			if request, err := ParseRequest([]byte(in.Content)); err == nil {
				return r.t.Operation == "sign" && bytes.Equal(request.RawSubject, c.RawSubject) &&
					bytes.Equal(request.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo)
			}
			certs, err := pemfile.Certificates([]byte(in.Content))
			return err == nil && r.t.Operation == "cross-sign" && bytes.Equal(certs[0].RawSubject, c.RawSubject) &&
				bytes.Equal(certs[0].RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo)
		}) {
			return fmt.Errorf("no input is for the key of certificate %d (%s)", i+1, c.Subject)
		}
	}
	return nil
}

func (r *replay) outputs(dir string) {
	for _, out := range r.t.Outputs {
		if out.SHA256 == "" {
			continue
		}
		name := "output " + out.Path
		data, err := os.ReadFile(filepath.FromSlash(out.Path))
		if err != nil {
			data, err = os.ReadFile(filepath.Join(dir, filepath.Base(filepath.FromSlash(out.Path))))
		}
		switch {
		case err != nil:
			r.lines = append(r.lines, Line{
				Check: name, Result: Note,
				Detail: "not on this machine, and therefore not compared",
			})
		case digest(data) != out.SHA256:
			r.report(name, errors.New("the file differs from the one that was written"),
				"restore the file from the ceremony's medium")
		default:
			r.report(name, nil, "")
		}
	}
}

// signature verifies the signature of the transcript with the key that signed the certificates.
func (r *replay) signature(o ReplayOptions) {
	const name = "signature of the transcript"
	if len(o.Signature) == 0 {
		r.lines = append(r.lines, Line{Check: name, Result: Note, Detail: "there is none beside the transcript"})
		return
	}
	r.report(name, r.verifySignature(o),
		"restore transcript and signature from where they were kept; do not rely on this transcript")
}

func (r *replay) verifySignature(o ReplayOptions) error {
	if len(r.certs) == 0 || r.certs[0] == nil {
		return errors.New("the certificate of its issuer cannot be read")
	}
	signer := r.certs[0] // a root signs itself
	if e := r.t.Certificates[0]; e.Issuer != "" {
		signer = r.chains[e.Issuer][0]
	}
	a, err := algorithmOf(signer.PublicKey)
	if err != nil {
		return err
	}
	if err := signer.CheckSignature(a, o.Data, o.Signature); err != nil {
		return fmt.Errorf("it does not verify with the key of %s", signer.Subject)
	}
	return nil
}
