package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/cmd/internal/cli"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/input"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/monitor"
	"github.com/mayfly-ca/mayfly/tbs"
	"github.com/mayfly-ca/mayfly/trust"
)

func newInspect() *cobra.Command {
	var asJSON bool
	var trustedRoot string
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Describe the content of a certificate or a chain",
		Long: "inspect reads certificates (one or more in PEM, or one in DER; \"-\" is standard input) and " +
			"prints identity, issuer,\n" +
			"extensions by name, embedded SCTs and the remaining validity. It verifies nothing; use \"mayfly " +
			"request\" or cosign to\n" +
			"verify.",
		Example: "  mayfly inspect cert.pem\n  mayfly inspect --json --trusted-root trusted_root.json cert.pem",
		Args:    cobra.ExactArgs(1),
		RunE: runs(func(cmd *cobra.Command, args []string) error {
			certs, err := readCertificates(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			logs, err := logNames(trustedRoot)
			if err != nil {
				return err
			}
			var views []certificateView
			for _, c := range certs {
				v, err := viewCertificate(c, time.Now(), logs)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				views = append(views, v)
			}
			if asJSON {
				return cli.WriteJSON(cmd.OutOrStdout(), views)
			}
			return printCertificates(cmd.OutOrStdout(), views)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&trustedRoot, "trusted-root", "", "trusted_root.json, to name the logs of the SCTs")
	return cmd
}

// certificateView is a certificate as inspect shows it. Issuing certificates have no identity.
type certificateView struct {
	Kind               string          `json:"kind"` // "certificate", "certificate to be issued", "precertificate" or "issuing certificate"
	Identity           *identityView   `json:"identity,omitempty"`
	Subject            string          `json:"subject,omitempty"`
	IssuedBy           string          `json:"issued_by"`
	Serial             string          `json:"serial"`
	NotBefore          time.Time       `json:"not_before"`
	NotAfter           time.Time       `json:"not_after"`
	Lifetime           string          `json:"lifetime"`
	TimeLeft           string          `json:"time_left"`
	Expired            bool            `json:"expired"`
	PublicKey          string          `json:"public_key"`
	SignatureAlgorithm string          `json:"signature_algorithm"`
	KeyUsage           []string        `json:"key_usage,omitempty"`
	ExtendedKeyUsage   []string        `json:"extended_key_usage,omitempty"`
	SubjectKeyID       string          `json:"subject_key_id,omitempty"`
	AuthorityKeyID     string          `json:"authority_key_id,omitempty"`
	Extensions         []namedValue    `json:"extensions,omitempty"`
	Other              []namedValue    `json:"other_extensions,omitempty"`
	SCTs               []timestampView `json:"scts,omitempty"`
	Fingerprint        string          `json:"sha256"`
}

type identityView struct {
	Kind    string `json:"kind"`
	Value   string `json:"value"`
	Issuer  string `json:"issuer"`
	Subject string `json:"subject,omitempty"`
}

type namedValue struct {
	Name  string `json:"name"`
	OID   string `json:"oid"`
	Value string `json:"value"`
}

type timestampView struct {
	Log       string    `json:"log,omitempty"`
	LogID     string    `json:"log_id"`
	Timestamp time.Time `json:"timestamp"`
	LeafIndex *uint64   `json:"leaf_index,omitempty"` // static-ct logs only
}

func viewCertificate(c *x509.Certificate, now time.Time, logs map[[32]byte]string) (certificateView, error) {
	sum := sha256.Sum256(c.Raw)
	v := certificateView{
		Kind: "certificate", Subject: c.Subject.String(), IssuedBy: c.Issuer.String(), Serial: hex.EncodeToString(c.SerialNumber.Bytes()),
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Lifetime: c.NotAfter.Sub(c.NotBefore).String(),
		TimeLeft: timeLeft(c, now), Expired: now.After(c.NotAfter), PublicKey: keyName(c.PublicKey),
		SignatureAlgorithm: c.SignatureAlgorithm.String(), KeyUsage: keyUsages(c.KeyUsage), ExtendedKeyUsage: extendedKeyUsages(c),
		SubjectKeyID: hex.EncodeToString(c.SubjectKeyId), AuthorityKeyID: hex.EncodeToString(c.AuthorityKeyId),
		Fingerprint: hex.EncodeToString(sum[:]),
	}
	if c.IsCA {
		v.Kind = "issuing certificate"
		if c.CheckSignatureFrom(c) == nil {
			v.Kind = "root certificate"
		}
		return v, nil
	}
	if id, err := identity.Parse(c); err == nil {
		v.Identity = &identityView{id.SAN.Kind.String(), id.SAN.Value, id.Issuer, id.Subject}
		for x := range identity.Known() {
			if value := id.Extensions.Get(x); value != "" {
				v.Extensions = append(v.Extensions, namedValue{x.String(), x.OID().String(), value})
			}
		}
	}
	v.Other = otherExtensions(c)
	for _, o := range v.Other {
		if o.OID == oidPoison {
			v.Kind = "precertificate"
		}
	}
	_, scts, err := tbs.WithoutSCTList(c.Raw)
	if err != nil {
		return v, err
	}
	for _, raw := range scts {
		t, err := viewTimestamp(raw, logs)
		if err != nil {
			return v, err
		}
		v.SCTs = append(v.SCTs, t)
	}
	return v, nil
}

func viewTimestamp(raw []byte, logs map[[32]byte]string) (timestampView, error) {
	s, err := tbs.ParseSCT(raw)
	if err != nil {
		return timestampView{}, err
	}
	t := timestampView{Log: logs[s.LogID], LogID: hex.EncodeToString(s.LogID[:]), Timestamp: s.Time()}
	if index, ok := monitor.ParseLeafIndex(s.Extensions); ok {
		t.LeafIndex = &index
	}
	return t, nil
}

const (
	oidPoison  = "1.3.6.1.4.1.11129.2.4.3"
	oidSCTList = "1.3.6.1.4.1.11129.2.4.2"
)

// otherExtensions lists what is neither an identity extension nor one that has a line of its own.
func otherExtensions(c *x509.Certificate) []namedValue {
	shown := map[string]bool{"2.5.29.15": true, "2.5.29.37": true, "2.5.29.14": true, "2.5.29.35": true, "2.5.29.17": true, oidSCTList: true}
	names := map[string]string{oidPoison: "precertificate-poison", "2.5.29.19": "basic-constraints"}
	var out []namedValue
	for _, e := range c.Extensions {
		oid := e.Id.String()
		if x := strings.TrimPrefix(oid, "1.3.6.1.4.1.57264.1."); shown[oid] || (x != oid && isKnownArc(oid)) {
			continue
		}
		name := names[oid]
		if name == "" {
			name = oid
		}
		out = append(out, namedValue{name, oid, hex.EncodeToString(e.Value)})
	}
	return out
}

func isKnownArc(oid string) bool {
	for x := range identity.Known() {
		if x.OID().String() == oid {
			return true
		}
	}
	return false
}

// readCertificates reads PEM certificates, or one in DER, from a file or, for "-", from standard input.
func readCertificates(stdin io.Reader, name string) ([]*x509.Certificate, error) {
	data, err := input.Read(stdin, name)
	if err != nil {
		return nil, err
	}
	if c, err := x509.ParseCertificate(data); err == nil {
		return []*x509.Certificate{c}, nil
	}
	certs, err := pemfile.Certificates(data)
	if err != nil && !bytes.Contains(data, []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("%s: no certificate in it, neither in PEM nor in DER", name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return certs, nil
}

// logNames maps log IDs to the URLs that a trusted root gives them. Without a file it knows none.
func logNames(file string) (map[[32]byte]string, error) {
	if file == "" {
		return nil, nil
	}
	data, err := input.Read(nil, file)
	if err != nil {
		return nil, err
	}
	names, err := logNamesIn(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return names, nil
}

// logNamesIn reads the same out of a trusted root.
func logNamesIn(data []byte) (map[[32]byte]string, error) {
	m, err := trust.ParseTrustedRoot(data)
	if err != nil {
		return nil, err
	}
	names := make(map[[32]byte]string)
	for _, l := range m.Logs {
		spki, err := x509.MarshalPKIXPublicKey(l.Key)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.URL, err)
		}
		names[sha256.Sum256(spki)] = l.URL
	}
	return names, nil
}
