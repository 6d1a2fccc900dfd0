package oidc

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// vouches says of every setting of an entry whether it vouches for the keys of the entry's provider: whether keys that
// were fetched before it changed count afterwards. A setting that is not in the table fails the test: decide it, and
// add it to vouching if it vouches.
var vouches = map[string]bool{
	"DiscoveryURL": true, "JWKSURL": true, "CACert": true, "Insecure": true,
	"Outbound.CABundle": true, "Outbound.CAExclusive": true, "Outbound.Proxy": true, "Outbound.BearerTokenFile": true,
	"Outbound.PrivateNetwork":                true,
	"Outbound.ClientCertificate.Certificate": true, "Outbound.ClientCertificate.Key": true,
	"StaticKeys.JWKS": true, "StaticKeys.File": true, "StaticKeys.Dir": true, "StaticKeys.Algorithms": true,

	"Outbound.Timeout": false, // how long, not where from
	// What becomes of a token that the keys have verified:
	"ClientID": false, "CIProvider": false, "IssuerClaim": false, "SubjectDomain": false, "SPIFFETrustDomain": false,
	"ChallengeClaim": false,
	"Description":    false, "Contact": false, "Environment": false, "SkipEmailVerification": false, "Profile": false,
	"Parameters": false, "Audiences": false,
	"AuthorizedParties": false, "EmailClaim": false, "EmailVerified": false, "EmailDomains": false,
	"SharedEmailDomains": false, "MappedIssuers": false,
	"MaxLifetime": false, "MaxAge": false, "TokenAlgorithms": false, "KeyAlgorithms": false, "CustomExtensions": false,
	"LegacyExtensions": false,
	"Policy":           false, "Compat": false,
	"Type":      false, // outside of the cluster's own issuer, see TestVouchingInCluster
	"IssuerURL": false, // the same as the key of the entry, which vouches
	"Issuer":    false, // likewise
}

// leaves calls f for every setting in v, with its path.
func leaves(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	for i := range v.NumField() {
		field, name := v.Field(i), path+v.Type().Field(i).Name
		if field.Kind() == reflect.Pointer && field.Type().Elem().Kind() == reflect.Struct && name != "Policy" {
			if field.IsNil() {
				field.Set(reflect.New(field.Type().Elem()))
			}
			field = field.Elem()
		}
		if field.Kind() == reflect.Struct {
			leaves(field, name+".", f)
			continue
		}
		f(name, field)
	}
}

// change gives a setting another value of its type.
func change(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		m.SetMapIndex(reflect.Zero(v.Type().Key()), reflect.Zero(v.Type().Elem()))
		v.Set(m)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	default:
		t.Fatalf("%s: the test cannot change a %s", path, v.Kind())
	}
}

// E6 // E7: keys count for the settings that fetched them. Each setting is changed alone; keys in memory and keys in a
// file are gone exactly if the setting vouches for them.
func TestVouching(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, []byte(rootPEM(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca+"x", []byte(rootPEM(t)), 0o600); err != nil { // what ca-bundle is changed to
		t.Fatal(err)
	}
	caCert := rootPEM(t)
	const issuer = "https://idp.example.com"
	base := func() IssuerConfig {
		c := IssuerConfig{CACert: caCert, Type: "email", ClientID: "x"}
		c.Outbound.CABundle, c.Outbound.Proxy = ca, "http://proxy.example.com:3128"
		// has every pointer set, as after a change
		leaves(reflect.ValueOf(&c).Elem(), "", func(string, reflect.Value) {})
		c.StaticKeys = nil
		return c
	}
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	ring := ringOf(t)
	p := newPool(Options{Now: time.Now, Logger: slog.New(slog.DiscardHandler), StateDir: state})
	t.Cleanup(p.end)
	rowOf := func(c IssuerConfig) *row {
		t.Helper()
		r := &row{key: issuer, config: c}
		var err error
		if r.route, err = newRoute(r, p.o, newAnchors()); err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := rowOf(base())
	one, err := p.provider(issuer, first)
	if err != nil {
		t.Fatal(err)
	}
	one.ring.Store(ring)
	stateFile{dir: state, issuer: issuer, trust: first.route.trust, log: p.o.Logger}.save(ring)
	// kept reports whether the keys count under c: in this process, and after a restart.
	kept := func(name string, c IssuerConfig) bool {
		t.Helper()
		r := rowOf(c)
		same, err := p.provider(issuer, r)
		if err != nil {
			t.Fatal(err)
		}
		inMemory := same.ring.Load() != nil
		onDisk := stateFile{dir: state, issuer: issuer, trust: r.route.trust, log: p.o.Logger}.load(time.Now()) != nil
		if inMemory != onDisk {
			t.Errorf("%s: keys count in this process: %t, after a restart: %t", name, inMemory, onDisk)
		}
		return inMemory
	}
	if !kept("nothing changed", base()) {
		t.Error("without a change the keys do not count")
	}
	seen := 0
	all := base()
	leaves(reflect.ValueOf(&all).Elem(), "", func(path string, _ reflect.Value) {
		seen++
		vouch, decided := vouches[path]
		if !decided {
			t.Errorf("the setting %s is new: decide whether it vouches for keys", path)
			return
		}
		c := base()
		leaves(reflect.ValueOf(&c).Elem(), "", func(other string, v reflect.Value) {
			if other != path {
				return
			}
			switch path {
			case "CACert":
				v.SetString(rootPEM(t))
			case "Outbound.Proxy":
				v.SetString("http://other.example.com:3128")
			default:
				change(t, path, v)
			}
		})
		if !strings.HasPrefix(path, "StaticKeys.") {
			c.StaticKeys = nil
		} else if r := rowOf(c); r.route.trust == first.route.trust {
			t.Errorf("%s does not vouch", path)
		} else {
			return // a provider with static keys is made anew by each configuration: TestStaticKeys
		}
		if got := kept(path, c); got == vouch {
			t.Errorf("after a change of %s the keys count: %t", path, got)
		}
	})
	if seen != len(vouches) {
		t.Errorf("%d settings, %d decisions: remove those of settings that are gone", seen, len(vouches))
	}
	// The content of a file vouches, not its name alone; and so does the issuer.
	if err := os.WriteFile(ca, []byte(rootPEM(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	if kept("content of ca-bundle", base()) {
		t.Error("after a change in ca-bundle the keys count")
	}
	r := rowOf(base())
	r.key += "/other"
	if other, err := newRoute(r, p.o, newAnchors()); err != nil || other.trust == r.route.trust {
		t.Errorf("two issuers share keys: %v", err)
	}
	r.key, r.wildcard = issuer, true
	if other, err := newRoute(r, p.o, newAnchors()); err != nil || other.trust == r.route.trust {
		t.Errorf("an entry and a pattern share keys: %v", err)
	}
}

// E13: what mayfly finds in its own cluster vouches for the keys too, although no setting names it.
func TestVouchingInCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	trust := func() string {
		t.Helper()
		r := &row{key: "https://kubernetes.default.svc", config: IssuerConfig{Type: "kubernetes"}}
		f, err := newRoute(r, Options{ServiceAccountDir: dir}, newAnchors())
		if err != nil {
			t.Fatal(err)
		}
		return f.trust
	}
	seen := map[string]string{trust(): "outside"}
	for _, step := range []struct{ name, file, content string }{
		{"with a CA", "ca.crt", rootPEM(t)}, {"with a token", "token", "t"}, {"with another CA", "ca.crt", rootPEM(t)},
	} {
		if err := os.WriteFile(filepath.Join(dir, step.file), []byte(step.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got := trust()
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s share keys", step.name, other)
		}
		seen[got] = step.name
	}
}

// A time-out that is changed takes effect at once, and costs no keys.
func TestTimeoutAfterReload(t *testing.T) {
	t.Parallel()
	const issuer = "https://idp.example.com"
	config := func(d time.Duration) Config {
		return Config{Issuers: map[string]IssuerConfig{issuer: {
			Type: "email", ClientID: "x",
			Outbound: OutboundConfig{Timeout: d},
		}}}
	}
	v, err := New(config(time.Second), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Wait)
	v.providers[issuer].ring.Store(ringOf(t))
	next, err := v.With(config(20 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	p := next.providers[issuer]
	ctx, cancel := contextWith(t)
	defer cancel()
	next.Start(ctx)
	if p != v.providers[issuer] || p.ring.Load() == nil || p.source.timeout(knownGood) != 20*time.Second {
		t.Errorf("keys %v, time-out %s", p.ring.Load() != nil, p.source.timeout(knownGood))
	}
}

// E1: the time-out of an entry is the bound of a fetch; a request and an unproven provider have five seconds of it at
// most.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ set, wait, known, unproven time.Duration }{
		{0, 4 * time.Second, 10 * time.Second, 4 * time.Second},
		{time.Second, time.Second, time.Second, time.Second},
		{5 * time.Second, 5 * time.Second, 5 * time.Second, 5 * time.Second},
		{20 * time.Second, 5 * time.Second, 20 * time.Second, 5 * time.Second},
	} {
		f := newRemote("https://idp.example.com", &route{timeout: c.set})
		got := []time.Duration{
			f.wait(), f.timeout(knownGood), f.timeout(configured), f.timeout(failing),
			f.timeout(unproven),
		}
		if want := []time.Duration{c.wait, c.known, c.known, c.known, c.unproven}; !reflect.DeepEqual(got, want) {
			t.Errorf("set %s: %v, want %v", c.set, got, want)
		}
	}
}

// ringOf is a ring with one key.
func ringOf(t *testing.T) *keyring {
	t.Helper()
	data, err := jose.JSONWebKey{Key: pki.NewKey(pki.P256).Public(), KeyID: "k1"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte(`{"keys":[` + string(data) + `]}`)
	set, err := parseKeys(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &keyring{fetched: time.Now(), algs: []string{"ES256"}, keys: set.keys, raw: raw, size: len(raw)}
}

// E13: the pod's token is for the issuer of the pod's own cluster, over https, as long as the entry does not say where
// else its documents are.
func TestInCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"ca.crt", "token"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca, token := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	const issuer = "https://kubernetes.default.svc"
	for name, c := range map[string]struct {
		key    string
		config IssuerConfig
		ca     string
		token  string
	}{
		"as it comes":       {issuer, IssuerConfig{}, ca, token},
		"full name":         {issuer + ".cluster.local", IssuerConfig{}, ca, token},
		"with ca-cert":      {issuer, IssuerConfig{CACert: "pem"}, "", token},
		"with ca-bundle":    {issuer, IssuerConfig{Outbound: OutboundConfig{CABundle: "own"}}, "own", token},
		"with discovery":    {issuer, IssuerConfig{DiscoveryURL: "https://a.example.com"}, "", ""},
		"with jwks-url":     {issuer, IssuerConfig{JWKSURL: "https://a.example.com"}, "", ""},
		"with its own":      {issuer, IssuerConfig{Outbound: OutboundConfig{BearerTokenFile: "own"}}, "", "own"},
		"plain http":        {"http://kubernetes.default.svc", IssuerConfig{}, "", ""},
		"another host":      {"https://kubernetes.default.svc.example.com", IssuerConfig{}, "", ""},
		"another port":      {issuer + ":8443", IssuerConfig{}, "", ""},
		"another in a path": {"https://a.example.com/kubernetes.default.svc", IssuerConfig{}, "", ""},
	} {
		c.config.Type = "kubernetes"
		out := Options{ServiceAccountDir: dir}.inCluster(&row{key: c.key, config: c.config})
		if out.CABundle != c.ca || out.BearerTokenFile != c.token {
			t.Errorf("%s: ca %q, token %q", name, out.CABundle, out.BearerTokenFile)
		}
	}
	for name, r := range map[string]*row{
		"another type": {key: issuer, config: IssuerConfig{Type: "email"}},
		"a pattern":    {key: issuer, wildcard: true, config: IssuerConfig{Type: "kubernetes"}},
	} {
		if out := (Options{ServiceAccountDir: dir}).inCluster(r); out != (OutboundConfig{}) {
			t.Errorf("%s: %+v", name, out)
		}
	}
}
