package ceremony

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/fault"
	"github.com/mayfly-ca/mayfly/internal/durable"
	"github.com/mayfly-ca/mayfly/internal/secret"
)

// DefaultIterations is the number of iterations of PBKDF2 over a password.
const DefaultIterations = 600_000

// Options of a ceremony.
type Options struct {
	// DryRun builds and lints all certificates, but neither signs nor writes anything. New keys are discarded.
	DryRun bool
	// Now is the time of the ceremony. Zero: the time of this machine.
	Now time.Time
	// Rand is the source of serial numbers and keys. Nil: crypto/rand.
	Rand io.Reader
	// Password returns the password of a new key. Nil: [secret.Source.Read].
	Password func(*secret.Source) ([]byte, error)
	// Iterations is the number of iterations of PBKDF2 (RFC 8018 §5.2) over the password of a new key. Zero:
	// [DefaultIterations]. Only tests use fewer, because each derivation takes seconds with the race detector.
	Iterations int
	// Tool is the version of the program, for the transcript.
	Tool string
	// PlanFile is the reviewed file that the plan was read from, for the transcript. Optional.
	PlanFile *Input
	// Warn is called with a setting that works but should be changed. Optional.
	Warn func(*fault.Setting)
}

func (o *Options) defaults() {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	o.Now = o.Now.UTC().Truncate(time.Second)
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Password == nil {
		o.Password = (*secret.Source).Read
	}
	if o.Iterations == 0 {
		o.Iterations = DefaultIterations
	}
	if o.Warn == nil {
		o.Warn = func(*fault.Setting) {}
	}
}

// Result is the result of a ceremony. Nothing is on disk before [Result.Write].
type Result struct {
	// Certificates are the new certificates, each after its issuer. After a dry run, they are signed with a temporary
	// key.
	Certificates []*x509.Certificate
	// Chain has the new issuing certificate first, the root last.
	Chain []*x509.Certificate
	// Keys says where the keys are.
	Keys []KeyStatement
	// Outputs are the files, in the order in which they are written.
	Outputs []Output
	// Warnings describe what works but should be changed.
	Warnings []string
	// Transcript is nil after a dry run.
	Transcript *Transcript

	dry bool
	put create
}

// Write writes the files. It replaces no file, and after an error it removes the files that it wrote.
func (r *Result) Write() error {
	if r.dry {
		return errors.New("a dry run writes nothing")
	}
	put := r.put
	if put == nil {
		put = durable.CreateFile
	}
	return writeAll(r.Outputs, put)
}

// Run makes the root and the certificate below it that the plan describes. The plan MUST have passed [Plan.Check].
func (p *Plan) Run(ctx context.Context, o Options) (*Result, error) {
	o.defaults()
	if err := absent(p.paths()); err != nil {
		return nil, err
	}
	rootProfile, issuingProfile, err := p.profiles(o.Now)
	if err != nil {
		return nil, err
	}
	rootKey, err := p.Root.open(ctx, o)
	if err != nil {
		return nil, fault.Under(err, "root", "key")
	}
	defer rootKey.Close() //nolint:errcheck // the certificates are made or not
	issuingKey, err := p.Issuing.open(ctx, o)
	if err != nil {
		return nil, fault.Under(err, "issuing", "key")
	}
	defer issuingKey.Close() //nolint:errcheck // likewise
	m := maker{o: o, ctx: ctx, signer: rootKey.Signer}
	root, err := m.make(request{profile: rootProfile, key: rootKey.Signer.Public()})
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	issuing, err := m.make(request{
		profile: issuingProfile, key: issuingKey.Signer.Public(),
		parents: []*x509.Certificate{root},
	})
	if err != nil {
		return nil, fmt.Errorf("issuing certificate: %w", err)
	}
	r := &Result{
		Certificates: []*x509.Certificate{root, issuing}, Chain: []*x509.Certificate{issuing, root},
		Keys: []KeyStatement{rootKey.Statement, issuingKey.Statement}, Warnings: m.warnings, dry: o.DryRun,
	}
	for _, k := range []*Key{rootKey, issuingKey} {
		if k.output != nil {
			r.Outputs = append(r.Outputs, *k.output)
		}
	}
	rootFile := Output{Path: p.Root.Key.ChainFile(), What: "root certificate", Mode: 0o644, data: encode(root)}
	chainFile := Output{
		Path: p.Issuing.Key.ChainFile(), What: "chain: issuing certificate, root", Mode: 0o644,
		data: encode(r.Chain...),
	}
	if p.timestamping() {
		chainFile.What = "chain: certificate of the timestamp authority, root"
	}
	r.Outputs = append(r.Outputs, rootFile)
	t := &Transcript{Operation: "init", Plan: o.PlanFile, Keys: r.Keys, Certificates: m.entries}
	return r, m.finish(r, finishing{
		transcript: t, path: p.TranscriptFile(), sign: p.SignTranscript,
		signer: rootKey.Signer, last: chainFile,
	})
}

func (p *Part) open(ctx context.Context, o Options) (*Key, error) {
	return OpenKey(ctx, KeySource{Table: p.Key, Generate: p.Generate, Unencrypted: p.Unencrypted}, o)
}

// maker makes the certificates of one ceremony.
type maker struct {
	o        Options
	ctx      context.Context //nolint:containedctx // it lives as long as the ceremony
	signer   crypto.Signer
	entries  []Entry
	warnings []string
}

// request describes a certificate for a maker.
type request struct {
	profile Profile
	key     crypto.PublicKey
	parents []*x509.Certificate // the issuer first; empty: the certificate is self-signed
}

func (m *maker) make(r request) (*x509.Certificate, error) {
	profile, err := newProfile(r.profile, r.key)
	if err != nil {
		return nil, err
	}
	serial, err := ca.NewSerial(m.o.Rand)
	if err != nil {
		return nil, err
	}
	o := order{
		profile: profile, serial: serial, key: r.key, parents: r.parents, signer: m.signer.Public(),
		now: m.o.Now,
	}
	u, err := o.prepare()
	if err != nil {
		return nil, err
	}
	m.warnings = append(m.warnings, u.warnings...)
	if m.o.DryRun {
		return u.parsed, nil
	}
	c, err := o.certify(m.ctx, u, m.signer, m.o.Rand)
	if err != nil {
		return nil, err
	}
	m.entries = append(m.entries, entryOf(o, c))
	return c, nil
}

// finishing describes the outputs after the certificates: the transcript, its signature and the file to write last.
type finishing struct {
	transcript *Transcript
	path       string
	sign       bool
	signer     crypto.Signer
	last       Output
}

func (m *maker) finish(r *Result, f finishing) error {
	named := append(append([]Output(nil), r.Outputs...), f.last)
	record := Output{Path: f.path, What: "transcript", Mode: 0o644}
	signature := Output{Path: f.path + SignatureSuffix, What: "signature of the transcript", Mode: 0o644}
	if !m.o.DryRun {
		t := f.transcript
		t.Format, t.Tool, t.Time = transcriptFormat, m.o.Tool, m.o.Now
		for _, o := range named {
			t.Outputs = append(t.Outputs, fileOf(o))
		}
		var err error
		if record.data, err = t.Marshal(); err != nil {
			return err
		}
		if f.sign {
			if signature.data, err = signTranscript(f.signer, record.data, m.o.Rand); err != nil {
				return fmt.Errorf("sign the transcript: %w", err)
			}
		}
		r.Transcript = t
	}
	r.Outputs = append(r.Outputs, record)
	if f.sign {
		r.Outputs = append(r.Outputs, signature)
	}
	r.Outputs = append(r.Outputs, f.last)
	return nil
}

// encode writes certificates in PEM.
func encode(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
