package inspect

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/human"
	"github.com/mayfly-ca/mayfly/internal/terminal"
)

func timeLeft(c *x509.Certificate, now time.Time) string {
	switch {
	case now.Before(c.NotBefore):
		return "valid in " + human.Duration(c.NotBefore.Sub(now))
	case now.After(c.NotAfter):
		return "expired " + human.Duration(now.Sub(c.NotAfter)) + " ago"
	}
	return human.Duration(c.NotAfter.Sub(now)) + " left"
}

// KeyName is the algorithm of a public key with its size, for people.
func KeyName(k any) string {
	switch k := k.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	case *mldsa.PublicKey:
		return k.Parameters().String()
	}
	return fmt.Sprintf("%T", k)
}

func keyUsages(u x509.KeyUsage) []string {
	names := []string{
		"digital signature", "content commitment", "key encipherment", "data encipherment",
		"key agreement", "certificate signing", "CRL signing", "encipher only", "decipher only",
	}
	var out []string
	for i, n := range names {
		if u&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

func extendedKeyUsages(c *x509.Certificate) []string {
	var out []string
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageCodeSigning:
			out = append(out, "code signing")
		case x509.ExtKeyUsageTimeStamping:
			out = append(out, "timestamping")
		default:
			out = append(out, fmt.Sprintf("usage %d", u))
		}
	}
	for _, o := range c.UnknownExtKeyUsage {
		out = append(out, o.String())
	}
	return out
}

// WriteAll writes the descriptions with empty lines between them, in colour if w is a terminal.
func WriteAll(w io.Writer, views []Certificate) error {
	st := terminal.StyleFor(w)
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := v.Write(w, st); err != nil {
			return err
		}
	}
	return nil
}

// Write writes the description in the given style.
func (v Certificate) Write(w io.Writer, st terminal.Style) error {
	title := v.Subject
	var t terminal.Table
	if id := v.Identity; id != nil {
		title = id.Value
		t.Add("identity", terminal.Printable(id.Value)+" ("+id.Kind+")")
		t.Add("issuer", terminal.Printable(id.Issuer))
		if id.Subject != "" {
			t.Add("subject", terminal.Printable(id.Subject))
		}
	}
	left := st.Green(v.TimeLeft)
	if v.Expired || strings.HasPrefix(v.TimeLeft, "valid in") {
		left = st.Red(v.TimeLeft)
	}
	fmt.Fprintf(w, "%s %s\n", st.Bold(strings.ToUpper(v.Kind[:1])+v.Kind[1:]), st.Bold(terminal.Printable(title)))
	t.Add("validity", v.NotBefore.Format(time.RFC3339)+" to "+v.NotAfter.Format(time.RFC3339)+" ("+
		human.Duration(v.NotAfter.Sub(v.NotBefore))+"), "+left)
	t.Add("issued by", terminal.Printable(v.IssuedBy))
	t.Add("serial", v.Serial)
	t.Add("public key", v.PublicKey)
	t.Add("signature", v.SignatureAlgorithm)
	if v.PathLength != nil {
		t.Add("path length", strconv.Itoa(*v.PathLength))
	}
	t.Add("usage", strings.Join(append(v.KeyUsage, v.ExtendedKeyUsage...), ", "))
	if v.Fingerprint != "" {
		t.Add("sha256", v.Fingerprint)
	}
	if err := t.Write(w, st); err != nil {
		return err
	}
	if err := printValues(w, st, section{"Extensions", v.Extensions}); err != nil {
		return err
	}
	if err := printValues(w, st, section{"Other extensions", v.Other}); err != nil {
		return err
	}
	if v.Identity == nil || v.Kind == ToBeIssued {
		return nil
	}
	return printTimestamps(w, st, v.SCTs)
}

// section is a titled list of extensions.
type section struct {
	title  string
	values []Value
}

func printValues(w io.Writer, st terminal.Style, s section) error {
	if len(s.values) == 0 {
		return nil
	}
	fmt.Fprintln(w, " "+s.title)
	var t terminal.Table
	for _, x := range s.values {
		t.Add(x.Name, terminal.Printable(x.Value))
	}
	return t.Write(w, st)
}

func printTimestamps(w io.Writer, st terminal.Style, scts []Timestamp) error {
	if len(scts) == 0 {
		return terminal.Flow(w, st,
			" "+st.Yellow("No SCT: this certificate is in no Certificate Transparency log that it names"))
	}
	fmt.Fprintln(w, " Signed certificate timestamps")
	var t terminal.Table
	for _, s := range scts {
		name := terminal.Printable(s.Log)
		if name == "" {
			name = "log"
		}
		line := s.Timestamp.Format("2006-01-02T15:04:05.000Z07:00") + "  log ID " + s.LogID
		if s.LeafIndex != nil {
			line += fmt.Sprintf("  entry %d", *s.LeafIndex)
		}
		t.Add(name, line)
	}
	return t.Write(w, st)
}
