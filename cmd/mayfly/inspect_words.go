package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/human"
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

func keyName(k any) string {
	switch k := k.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", k)
}

func keyUsages(u x509.KeyUsage) []string {
	names := []string{"digital signature", "content commitment", "key encipherment", "data encipherment", "key agreement", "certificate signing", "CRL signing", "encipher only", "decipher only"}
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
		if u == x509.ExtKeyUsageCodeSigning {
			out = append(out, "code signing")
			continue
		}
		out = append(out, fmt.Sprintf("usage %d", u))
	}
	for _, o := range c.UnknownExtKeyUsage {
		out = append(out, o.String())
	}
	return out
}

func printCertificates(w io.Writer, views []certificateView) error {
	st := styleFor(w)
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := printCertificate(w, v, st); err != nil {
			return err
		}
	}
	return nil
}

func printCertificate(w io.Writer, v certificateView, st style) error {
	title := v.Subject
	var t table
	if id := v.Identity; id != nil {
		title = id.Value
		t.add("identity", printable(id.Value)+" ("+id.Kind+")")
		t.add("issuer", printable(id.Issuer))
		if id.Subject != "" {
			t.add("subject", printable(id.Subject))
		}
	}
	left := st.green(v.TimeLeft)
	if v.Expired || strings.HasPrefix(v.TimeLeft, "valid in") {
		left = st.red(v.TimeLeft)
	}
	fmt.Fprintf(w, "%s %s\n", st.bold(strings.ToUpper(v.Kind[:1])+v.Kind[1:]), st.bold(printable(title)))
	t.add("validity", v.NotBefore.Format(time.RFC3339)+" to "+v.NotAfter.Format(time.RFC3339)+" ("+
		human.Duration(v.NotAfter.Sub(v.NotBefore))+"), "+left)
	t.add("issued by", printable(v.IssuedBy))
	t.add("serial", v.Serial)
	t.add("public key", v.PublicKey)
	t.add("signature", v.SignatureAlgorithm)
	t.add("usage", strings.Join(append(v.KeyUsage, v.ExtendedKeyUsage...), ", "))
	if v.Fingerprint != "" {
		t.add("sha256", v.Fingerprint)
	}
	if err := t.write(w, st); err != nil {
		return err
	}
	if err := printValues(w, st, section{"Extensions", v.Extensions}); err != nil {
		return err
	}
	if err := printValues(w, st, section{"Other extensions", v.Other}); err != nil {
		return err
	}
	if v.Identity == nil || v.Kind == preview {
		return nil
	}
	return printTimestamps(w, st, v.SCTs)
}

// section is a part of what a certificate says.
type section struct {
	title  string
	values []namedValue
}

func printValues(w io.Writer, st style, s section) error {
	if len(s.values) == 0 {
		return nil
	}
	fmt.Fprintln(w, " "+s.title)
	var t table
	for _, x := range s.values {
		t.add(x.Name, printable(x.Value))
	}
	return t.write(w, st)
}

func printTimestamps(w io.Writer, st style, scts []timestampView) error {
	if len(scts) == 0 {
		return flow(w, st, " "+st.yellow("No SCT: this certificate is in no Certificate Transparency log that it names"))
	}
	fmt.Fprintln(w, " Signed certificate timestamps")
	var t table
	for _, s := range scts {
		name := printable(s.Log)
		if name == "" {
			name = "log"
		}
		line := s.Timestamp.Format("2006-01-02T15:04:05.000Z07:00") + "  log ID " + s.LogID
		if s.LeafIndex != nil {
			line += fmt.Sprintf("  entry %d", *s.LeafIndex)
		}
		t.add(name, line)
	}
	return t.write(w, st)
}
