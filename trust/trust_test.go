package trust_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/trust"
)

func material() trust.Material {
	from := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var m trust.Material
	for _, k := range []pki.KeyType{pki.P256, pki.P384} {
		p := pki.New(pki.Options{Key: k})
		m.Authorities = append(m.Authorities,
			trust.Authority{URL: "https://ca.example.com", Chain: p.Chain, From: from, To: from.Add(time.Hour)})
	}
	for _, k := range []pki.KeyType{pki.P256, pki.P384, pki.RSA2048} {
		m.Logs = append(m.Logs, trust.Log{Log: loglist.Log{
			URL: "https://ct.example.com", Operator: "us", Key: pki.NewKey(k).Public(),
			Window: loglist.Window{NotBefore: from},
		}})
	}
	return m
}

// B4: a parsed document equals the written one, and writing it again returns the same bytes.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	m := material()
	one, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(one), "application/vnd.dev.sigstore.trustedroot+json;version=0.1") {
		t.Error("no media type")
	}
	back, err := trust.ParseTrustedRoot(one)
	if err != nil {
		t.Fatal(err)
	}
	if len(back.Authorities) != 2 || len(back.Logs) != 3 ||
		!back.Authorities[0].Chain[1].Equal(m.Authorities[0].Chain[1]) ||
		!back.Authorities[1].To.Equal(m.Authorities[1].To) || !back.Logs[2].NotAfter.IsZero() {
		t.Errorf("%+v", back)
	}
	two, err := back.TrustedRoot()
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("not the same bytes: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for _, data := range []string{
		"", "{}", "[]", `{"mediaType":"x"}`, `{"mediaType":"x","certificateAuthorities":[{}]}`,
		`{"mediaType":"x","certificateAuthorities":[{"certChain":{"certificates":[{"rawBytes":"AAAA"}]}}]}`,
		strings.Repeat(" ", 5<<20),
	} {
		if _, err := trust.ParseTrustedRoot([]byte(data)); err == nil {
			t.Errorf("%.60q passes", data)
		}
	}
	if _, err := (trust.Material{}).TrustedRoot(); err == nil {
		t.Error("an empty root is written")
	}
	if _, err := (trust.Services{CA: "https://x"}).SigningConfig(); err == nil {
		t.Error("a configuration without operator is written")
	}
}

// Some clients (python) refuse a trusted root without a list or a name.
func TestTrustedRootIsComplete(t *testing.T) {
	t.Parallel()
	m := material()
	p := pki.New(pki.Options{Root: func(c *x509.Certificate) { c.Subject = pkix.Name{Country: []string{"DE"}} }})
	m.Authorities, m.Logs = []trust.Authority{{URL: "https://ca.example.com", Chain: p.Chain}}, nil
	data, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"tlogs": []`, `"ctlogs": []`, `"timestampAuthorities": []`, `"commonName": "C=DE"`,
		`"organization": "C=DE"`,
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s in %.600s", want, data)
		}
	}
}

func TestSigningConfig(t *testing.T) {
	t.Parallel()
	got, err := trust.Services{
		CA: "https://ca", OIDC: "https://idp", Operator: "us",
		From: time.Unix(0, 0),
	}.SigningConfig()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"https://ca"`, `"https://idp"`, "signingconfig.v0.2+json", `"majorApiVersion": 1`} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if strings.Contains(string(got), "rekorTlogUrls") {
		t.Error("the document names a service without a URL")
	}
	got, err = trust.Services{
		CA: "https://ca", Operator: "us", Rekor: trust.At("https://log"), RekorV1: trust.At("https://log"),
	}.SigningConfig()
	if err != nil {
		t.Fatal(err)
	}
	var signing trustroot.SigningConfig
	if err := protojson.Unmarshal(got, &signing); err != nil {
		t.Fatal(err)
	}
	// Clients that take the first entry get the newer API.
	if all := signing.GetRekorTlogUrls(); len(all) != 2 || all[0].GetMajorApiVersion() != 2 ||
		all[1].GetMajorApiVersion() != 1 || all[1].GetUrl() != "https://log" {
		t.Errorf("%v", &signing)
	}
}

// The third file has the content of the other two, as sigstore-python and sigstore-rs decode it.
func TestTrustConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := material()
	services := trust.Services{CA: "https://ca.example.com", Operator: "example", From: time.Now()}
	if err := trust.WriteFiles(dir, m, services); err != nil {
		t.Fatal(err)
	}
	read := func(name string, m proto.Message) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = protojson.Unmarshal(data, m)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	var both trustroot.ClientTrustConfig
	var root trustroot.TrustedRoot
	var signing trustroot.SigningConfig
	read(trust.ConfigName, &both)
	read(trust.RootName, &root)
	read(trust.SigningName, &signing)
	if both.GetMediaType() != "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json" ||
		!proto.Equal(both.GetTrustedRoot(), &root) || !proto.Equal(both.GetSigningConfig(), &signing) {
		t.Errorf("%v", &both)
	}
}

func FuzzParseTrustedRoot(f *testing.F) {
	data, err := material().TrustedRoot()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"mediaType":"x","ctlogs":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := trust.ParseTrustedRoot(data); err == nil && len(m.Authorities) == 0 {
			t.Error("no authority and no error")
		}
	})
}
