package trust_test

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/loglist"
	"github.com/mayfly-ca/mayfly/testkit/pki"
	"github.com/mayfly-ca/mayfly/trust"
)

// edited returns a trusted root after a change of its JSON.
func edited(t *testing.T, data []byte, change func(root map[string]any)) []byte {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	change(root)
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func ctlog(raw []byte, details string) map[string]any {
	id := sha256.Sum256(raw)
	return map[string]any{
		"baseUrl": "https://old.example.com/2021", "hashAlgorithm": "SHA2_256",
		"logId": map[string]any{"keyId": base64.StdEncoding.EncodeToString(id[:])},
		"publicKey": map[string]any{
			"rawBytes": base64.StdEncoding.EncodeToString(raw), "keyDetails": details,
			"validFor": map[string]any{"start": "2021-03-14T00:00:00Z"},
		},
	}
}

// Sigstore's staging root has an RSA key in PKCS #1, and future roots will have unknown types of keys. Neither makes
// the other entries unusable.
func TestRootOfOtherProducers(t *testing.T) {
	t.Parallel()
	key := pki.NewKey(pki.RSA2048).Public().(*rsa.PublicKey)
	old := ctlog(x509.MarshalPKCS1PublicKey(key), "PKCS1_RSA_PKCS1V5")
	base := testdata(t, "trusted_root.json")
	for what, c := range map[string]struct {
		change  func(root map[string]any)
		logs    int    // the number of additional logs
		skipped string // part of the text in Skipped; "" expects none
	}{
		"PKCS#1": {func(r map[string]any) { r["ctlogs"] = append(r["ctlogs"].([]any), old) }, 1, ""},
		"a key of another form": {func(r map[string]any) {
			r["ctlogs"] = append(r["ctlogs"].([]any),
				ctlog(x509.MarshalPKCS1PublicKey(key), "PKIX_RSA_PKCS1V15_2048_SHA256"))
		}, 0, "ctlogs[1]"},
		"an algorithm to come": {func(r map[string]any) {
			r["ctlogs"] = append(r["ctlogs"].([]any), ctlog([]byte("key"), "PKIX_TO_COME"))
		}, 0, "ctlogs[1]"},
		"a Rekor key to come": {
			func(r map[string]any) { r["tlogs"] = []any{ctlog([]byte("key"), "ML_DSA_65")} }, 0,
			"tlogs[0]",
		},
		"an authority to come": {func(r map[string]any) {
			r["certificateAuthorities"] = append(r["certificateAuthorities"].([]any),
				map[string]any{"certChain": map[string]any{"certificates": []any{map[string]any{"rawBytes": "AAAA"}}}})
		}, 0, "certificateAuthorities[1]"},
		"an unknown member": {func(r map[string]any) { r["toCome"] = map[string]any{"x": 1} }, 0, ""},
	} {
		data := edited(t, base, c.change)
		before, err := trust.ParseTrustedRoot(base)
		if err != nil {
			t.Fatal(err)
		}
		m, err := trust.ParseTrustedRoot(data)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if len(m.Logs) != len(before.Logs)+c.logs || len(m.Skipped) > 0 != (c.skipped != "") ||
			c.skipped != "" && !strings.HasPrefix(m.Skipped[0], c.skipped) {
			t.Errorf("%s: %d logs, skipped %q", what, len(m.Logs), m.Skipped)
		}
		if c.logs > 0 {
			if got, ok := m.Logs[len(m.Logs)-1].Key.(*rsa.PublicKey); !ok || !got.Equal(key) {
				t.Errorf("%s: another key", what)
			}
		}
		v, err := trust.VerifyBundle(data, testdata(t, "bundle.json"), good(t))
		if err != nil || len(v.Skipped) > 0 != (c.skipped != "") {
			t.Errorf("%s: a bundle: %v", what, err)
		}
	}
	// A root all of whose logs have unknown types still requires SCTs.
	only := edited(t, base, func(r map[string]any) { r["ctlogs"] = []any{ctlog([]byte("key"), "PKIX_TO_COME")} })
	m, err := trust.ParseTrustedRoot(only)
	if err != nil || m.ForClient().MinSCTs == client.NoSCTs {
		t.Errorf("no log is supported: %v, %+v", err, m.ForClient().MinSCTs)
	}
	if _, err := trust.VerifyBundle(only, testdata(t, "bundle.json"), good(t)); err == nil {
		t.Error("a bundle verifies without an SCT, although the trusted root has logs")
	}
}

// ForClient converts a trusted root for a client, including validity periods.
func TestForClient(t *testing.T) {
	t.Parallel()
	m := material()
	c := m.ForClient()
	if len(c.Authorities) != len(m.Authorities) || len(c.Logs) != len(m.Logs) || len(c.Chains) != 0 || c.MinSCTs != 0 {
		t.Errorf("%+v", c)
	}
	if !c.Authorities[1].To.Equal(m.Authorities[1].To) || !c.Authorities[1].From.Equal(m.Authorities[1].From) ||
		!c.Logs[0].NotBefore.Equal(m.Logs[0].NotBefore) {
		t.Error("the times are dropped")
	}
	m.Logs[0].NotAfter = m.Logs[0].NotBefore.Add(time.Hour)
	if got := m.ForClient().Logs[0].NotAfter; !got.Equal(m.Logs[0].NotAfter) {
		t.Error("the end of a log is dropped")
	}
	m.Logs = nil
	if got := m.ForClient().MinSCTs; got != client.NoSCTs {
		t.Errorf("a trusted root without logs requires %d SCTs", got)
	}
	// The period of the authority of testdata/bundle.json had ended at the time of the signature.
	ended := edited(t, testdata(t, "trusted_root.json"), func(r map[string]any) {
		for _, a := range r["certificateAuthorities"].([]any) {
			a.(map[string]any)["validFor"] = map[string]any{
				"start": "2020-01-01T00:00:00Z",
				"end":   "2020-01-02T00:00:00Z",
			}
		}
	})
	if _, err := trust.VerifyBundle(ended, testdata(t, "bundle.json"), good(t)); err == nil {
		t.Error("a bundle verifies although the validity of its authority had ended")
	}
	// The end also applies if the bundle contains the authority and its root is trusted without an end.
	var authority []any
	withRoot := edited(t, ended, func(r map[string]any) {
		all := r["certificateAuthorities"].([]any)
		certs := all[0].(map[string]any)["certChain"].(map[string]any)["certificates"].([]any)
		authority = certs[:len(certs)-1]
		r["certificateAuthorities"] = append(all,
			map[string]any{
				"certChain": map[string]any{"certificates": certs[len(certs)-1:]},
				"validFor":  map[string]any{"start": "2020-01-01T00:00:00Z"},
			})
	})
	brought := edited(t, testdata(t, "bundle.json"), func(b map[string]any) {
		b["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.2"
		v := b["verificationMaterial"].(map[string]any)
		v["x509CertificateChain"] = map[string]any{"certificates": append([]any{v["certificate"]}, authority...)}
		delete(v, "certificate")
	})
	if _, err := trust.VerifyBundle(withRoot, brought, good(t)); err == nil {
		t.Error("a bundle verifies that contains an authority whose validity had ended")
	}
	if _, err := trust.VerifyBundle(testdata(t, "trusted_root.json"), brought, good(t)); err != nil &&
		!strings.Contains(err.Error(), "inclusion") {
		t.Errorf("the same bundle, the authority trusted: %v", err)
	}
}

// Documents that clients would refuse are not written: a chain in the wrong order, an unsupported key.
func TestTrustedRootIsVerified(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(*trust.Material){
		"a chain in disorder": func(m *trust.Material) { m.Authorities[0].Chain = reversed(m.Authorities[0].Chain) },
		"another CA's root": func(m *trust.Material) {
			m.Authorities[0].Chain[len(m.Authorities[0].Chain)-1] = m.Authorities[1].Chain[len(m.Authorities[1].Chain)-1]
		},
		"an authority of none":  func(m *trust.Material) { m.Authorities[0].Chain = nil },
		"a timestamp authority": func(m *trust.Material) { m.Timestamps = []trust.Authority{{Chain: reversed(m.Authorities[0].Chain)}} },
	} {
		m := material()
		for i := range m.Authorities {
			m.Authorities[i].Chain = slices.Clone(m.Authorities[i].Chain)
		}
		change(&m)
		if data, err := m.TrustedRoot(); err == nil || data != nil {
			t.Errorf("%s: written", what)
		}
	}
}

func reversed(chain []*x509.Certificate) []*x509.Certificate {
	out := slices.Clone(chain)
	slices.Reverse(out)
	return out
}

// A selector is written only together with its services, because clients expect a service for each selector.
func TestSigningConfigSelectors(t *testing.T) {
	t.Parallel()
	for _, s := range []trust.Services{
		{},
		{TSA: trust.At("https://tsa")},
		{Rekor: trust.At("https://rekor")},
		{TSA: trust.At("https://tsa"), Rekor: trust.At("https://rekor")},
	} {
		s.CA, s.Operator, s.From = "https://ca", "us", time.Unix(0, 0)
		data, err := s.SigningConfig()
		if err != nil {
			t.Fatal(err)
		}
		for member, want := range map[string]bool{
			"rekorTlogUrls": s.Rekor != nil, "rekorTlogConfig": s.Rekor != nil,
			"tsaUrls": s.TSA != nil, "tsaConfig": s.TSA != nil,
		} {
			if strings.Contains(string(data), `"`+member+`"`) != want {
				t.Errorf("%+v: %s in %s", s, member, data)
			}
		}
	}
}

// Only verified proofs are counted: not an entry of an unknown log, and not an SCT of a log that is not trusted.
func TestCountsWhatWasVerified(t *testing.T) {
	t.Parallel()
	bundle := edited(t, testdata(t, "bundle.json"), func(b map[string]any) {
		v, m := b["verificationMaterial"].(map[string]any), b["messageSignature"].(map[string]any)
		certificate := v["certificate"].(map[string]any)["rawBytes"].(string)
		sum, err := base64.StdEncoding.DecodeString(m["messageDigest"].(map[string]any)["digest"].(string))
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
			"data": map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hexOf(sum)}},
			"signature": map[string]any{"content": m["signature"], "publicKey": map[string]any{
				"content": base64.StdEncoding.EncodeToString([]byte("-----BEGIN CERTIFICATE-----\n" + certificate +
					"\n-----END CERTIFICATE-----\n")),
			}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		zero := base64.StdEncoding.EncodeToString(make([]byte, 32))
		v["tlogEntries"] = []any{map[string]any{
			"logIndex": "7", "logId": map[string]any{"keyId": zero},
			"kindVersion":    map[string]any{"kind": "hashedrekord", "version": "0.0.1"},
			"integratedTime": "1700000000", "canonicalizedBody": base64.StdEncoding.EncodeToString(body),
			"inclusionProof": map[string]any{
				"logIndex": "7", "rootHash": zero, "treeSize": "8", "hashes": []any{},
				"checkpoint": map[string]any{"envelope": "x\n8\n" + zero + "\n\n— x AAAAAAAA\n"},
			},
		}}
	})
	v, err := trust.VerifyBundle(testdata(t, "trusted_root.json"), bundle, good(t))
	if err != nil || v.LogEntries != 0 || v.SCTs != 1 || v.Demanded != 1 || len(v.Times) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	e := good(t)
	e.NoRekor = false
	if _, err := trust.VerifyBundle(testdata(t, "trusted_root.json"), bundle, e); err == nil {
		t.Error("a forged entry is counted as a log entry")
	}
	without := edited(t, testdata(t, "trusted_root.json"), func(r map[string]any) { r["ctlogs"] = []any{} })
	if v, err = trust.VerifyBundle(without, testdata(t, "bundle.json"), good(t)); err != nil ||
		v.SCTs != 0 || v.Demanded != 0 {
		t.Errorf("without a trusted log: %+v, %v", v, err)
	}
}

func hexOf(data []byte) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, c := range data {
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// Merge adds what a trusted root does not have, prolongs what it has, and keeps everything else.
func TestMerge(t *testing.T) {
	t.Parallel()
	m := material()
	root, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	if empty, err := trust.Merge(nil, m); err != nil || string(empty) != string(root) {
		t.Errorf("an empty root: %v", err)
	}
	if same, err := trust.Merge(root, m); err != nil || string(same) != string(root) {
		t.Errorf("nothing changed: %v", err)
	}
	if same, err := trust.Merge(root, trust.Material{}); err != nil || string(same) != string(root) {
		t.Errorf("no material, and something changed: %v", err)
	}
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	stamper, other := pki.New(pki.Options{}), pki.New(pki.Options{})
	log := func(url, origin string) trust.Log {
		return trust.Log{Log: loglist.Log{
			URL: url, Origin: origin, Key: pki.NewKey(pki.Ed25519).Public(), Window: loglist.Window{NotBefore: begin},
		}}
	}
	rekor, ct := log("https://a", "a"), log("https://a/ct", "a/ct")
	add := trust.Material{
		Timestamps: []trust.Authority{{URL: "https://a/tsa", Chain: stamper.Chain, From: begin}},
		Rekor:      []trust.Log{rekor}, Logs: []trust.Log{ct},
	}
	merge := func(root []byte, m trust.Material) trust.Material {
		t.Helper()
		data, err := trust.Merge(root, m)
		if err != nil {
			t.Fatal(err)
		}
		out, err := trust.ParseTrustedRoot(data)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	added, err := trust.Merge(root, add)
	if err != nil {
		t.Fatal(err)
	}
	// The same, later and until an end, at another URL, with one more of each kind.
	later, end := begin.AddDate(0, 1, 0), begin.AddDate(1, 0, 0)
	rekor.URL, rekor.NotBefore, rekor.NotAfter = "https://a/rekor/old", later, end
	ct.NotBefore = begin.AddDate(-1, 0, 0)
	got := merge(added, trust.Material{
		Timestamps: []trust.Authority{
			{URL: "https://b/tsa", Chain: stamper.Chain, From: later, To: end},
			{URL: "https://c/tsa", Chain: other.Chain, From: later},
		},
		Rekor: []trust.Log{rekor, log("https://c", "c")}, Logs: []trust.Log{ct, log("https://c/ct", "c/ct")},
	})
	if len(got.Timestamps) != 2 || len(got.Rekor) != len(m.Rekor)+2 || len(got.Logs) != len(m.Logs)+2 ||
		len(got.Authorities) != len(m.Authorities) {
		t.Fatalf("%+v", got)
	}
	if one := got.Timestamps[0]; one.URL != "https://b/tsa" || !one.From.Equal(begin) || !one.To.Equal(end) {
		t.Errorf("timestamps from %v to %v at %s", one.From, one.To, one.URL)
	}
	if one := got.Rekor[len(m.Rekor)]; one.URL != rekor.URL || !one.NotBefore.Equal(begin) || !one.NotAfter.Equal(end) {
		t.Errorf("log of signatures %+v", one)
	}
	if one := got.Logs[len(m.Logs)]; !one.NotBefore.Equal(ct.NotBefore) || !one.NotAfter.IsZero() {
		t.Errorf("CT log %+v", one)
	}
}

// Clients that take the first service, and those that take the newest, get the same one.
func TestSigningConfigOrder(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	data, err := trust.Services{
		CA: "https://ca", Operator: "us", From: begin, Rekor: []trust.Service{
			{URL: "https://old", To: begin.AddDate(1, 0, 0)}, {URL: "https://new", From: begin.AddDate(0, 6, 0)},
		},
	}.SigningConfig()
	if err != nil {
		t.Fatal(err)
	}
	var out struct {
		Rekor []struct {
			URL   string
			Valid struct{ Start, End string } `json:"validFor"`
		} `json:"rekorTlogUrls"`
	}
	if err := json.Unmarshal(data, &out); err != nil || len(out.Rekor) != 2 {
		t.Fatalf("%s, %v", data, err)
	}
	if n, o := out.Rekor[0], out.Rekor[1]; n.URL != "https://new" || n.Valid.Start != "2026-07-02T03:04:05Z" ||
		n.Valid.End != "" || o.Valid.Start != "2026-01-02T03:04:05Z" || o.Valid.End != "2027-01-02T03:04:05Z" {
		t.Errorf("%+v", out.Rekor)
	}
}
