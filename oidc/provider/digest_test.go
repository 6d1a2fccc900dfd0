package provider

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

// inDigest says of every setting whether a change of the setting makes keys unusable that were fetched before. A
// setting that is not in the table fails the test: decide, and add the setting to [route.digestOf] if it changes which
// keys a provider has. The settings of an entry that are not in KeysConfig never reach this package
// (TestProviderEntry).
var inDigest = map[string]bool{
	"DiscoveryURL": true, "JWKSURL": true, "CACert": true, "Insecure": true,
	"Outbound.CABundle": true, "Outbound.CAExclusive": true, "Outbound.Proxy": true, "Outbound.BearerTokenFile": true,
	"Outbound.PrivateNetwork":                true,
	"Outbound.ClientCertificate.Certificate": true, "Outbound.ClientCertificate.Key": true,
	"StaticKeys.JWKS": true, "StaticKeys.File": true, "StaticKeys.Dir": true, "StaticKeys.Algorithms": true,

	"Outbound.Timeout": false, // how long a fetch takes, not where the keys come from
}

// leaves calls f for every setting in v, with its path.
func leaves(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	for i := range v.NumField() {
		field, name := v.Field(i), path+v.Type().Field(i).Name
		if field.Kind() == reflect.Pointer && field.Type().Elem().Kind() == reflect.Struct {
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

// change changes a setting.
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
	default:
		t.Fatalf("%s: the test cannot change a %s", path, v.Kind())
	}
}

// E6 // E7: keys are used only under the settings under which they were fetched. Each setting is changed alone; keys in
// memory and keys in a file are gone exactly if the setting is in the digest.
func TestDigest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, []byte(rootPEM(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca+"x", []byte(rootPEM(t)), 0o600); err != nil { // the changed value of ca-bundle
		t.Fatal(err)
	}
	caCert := rootPEM(t)
	const issuer = "https://idp.example.com"
	base := func() KeysConfig {
		c := KeysConfig{CACert: caCert}
		c.Outbound.CABundle, c.Outbound.Proxy = ca, "http://proxy.example.com:3128"
		// sets every pointer, as after a change
		leaves(reflect.ValueOf(&c).Elem(), "", func(string, reflect.Value) {})
		c.StaticKeys = nil
		return c
	}
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	ring := ringOf(t)
	p := NewPool(Options{Now: time.Now, Logger: slog.New(slog.DiscardHandler), StateDir: state})
	t.Cleanup(p.Wait)
	entryOf := func(c KeysConfig) Entry { return Entry{Key: issuer, KeysConfig: c} }
	routeOf := func(e Entry) *route {
		t.Helper()
		r, err := newRoute(e, p.o, newCAPools())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := routeOf(entryOf(base()))
	one, err := p.exactProvider(entryOf(base()), first)
	if err != nil {
		t.Fatal(err)
	}
	one.keyring.Store(ring)
	stateFile{dir: state, issuer: issuer, digest: first.digest, log: p.o.Logger}.save(ring)
	// kept reports whether the keys are used under c: in this process, and after a restart.
	kept := func(name string, c KeysConfig) bool {
		t.Helper()
		r := routeOf(entryOf(c))
		same, err := p.exactProvider(entryOf(c), r)
		if err != nil {
			t.Fatal(err)
		}
		inMemory := same.keyring.Load() != nil
		onDisk := stateFile{dir: state, issuer: issuer, digest: r.digest, log: p.o.Logger}.load(time.Now()) != nil
		if inMemory != onDisk {
			t.Errorf("%s: keys are used in this process: %t, after a restart: %t", name, inMemory, onDisk)
		}
		return inMemory
	}
	if !kept("nothing changed", base()) {
		t.Error("without a change the keys are not used")
	}
	seen := 0
	all := base()
	leaves(reflect.ValueOf(&all).Elem(), "", func(path string, _ reflect.Value) {
		seen++
		want, decided := inDigest[path]
		if !decided {
			t.Errorf("the setting %s is new: decide whether it belongs into the digest", path)
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
		} else if routeOf(entryOf(c)).digest == first.digest {
			t.Errorf("%s is not in the digest", path)
		} else {
			return // each configuration creates providers with static keys anew: TestStaticKeys
		}
		if got := kept(path, c); got == want {
			t.Errorf("after a change of %s the keys are used: %t", path, got)
		}
	})
	if seen != len(inDigest) {
		t.Errorf("%d settings, %d decisions: remove those of settings that are gone", seen, len(inDigest))
	}
	// The digest covers the content of a file, not only its name; and the issuer.
	if err := os.WriteFile(ca, []byte(rootPEM(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	if kept("content of ca-bundle", base()) {
		t.Error("after a change in ca-bundle the keys are used")
	}
	e := entryOf(base())
	digest := routeOf(e).digest
	e.Key += "/other"
	if routeOf(e).digest == digest {
		t.Error("two issuers share keys")
	}
	e.Key, e.Pattern = issuer, true
	if routeOf(e).digest == digest {
		t.Error("an entry and a pattern share keys")
	}
}

// E13: the digest also covers the files that mayfly finds in its own cluster, although no setting names them.
func TestDigestInCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	digest := func() string {
		t.Helper()
		e := Entry{Key: "https://kubernetes.default.svc", Kubernetes: true}
		r, err := newRoute(e, Options{ServiceAccountDir: dir}, newCAPools())
		if err != nil {
			t.Fatal(err)
		}
		return r.digest
	}
	seen := map[string]string{digest(): "outside"}
	for _, step := range []struct{ name, file, content string }{
		{"with a CA", "ca.crt", rootPEM(t)}, {"with a token", "token", "t"}, {"with another CA", "ca.crt", rootPEM(t)},
	} {
		if err := os.WriteFile(filepath.Join(dir, step.file), []byte(step.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got := digest()
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s share keys", step.name, other)
		}
		seen[got] = step.name
	}
}

// A changed timeout takes effect at once, and the keys are kept.
func TestTimeoutAfterReload(t *testing.T) {
	t.Parallel()
	const issuer = "https://idp.example.com"
	entries := func(d time.Duration) []Entry {
		return []Entry{{Key: issuer, KeysConfig: KeysConfig{Outbound: OutboundConfig{Timeout: d}}}}
	}
	pool := NewPool(Options{})
	t.Cleanup(pool.Wait)
	old, err := pool.Set(entries(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	old.exact[issuer].keyring.Store(ringOf(t))
	next, err := pool.Set(entries(20 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	p := next.exact[issuer]
	ctx, cancel := contextWith(t)
	defer cancel()
	next.Start(ctx)
	if p != old.exact[issuer] || p.keyring.Load() == nil || p.source.timeout(knownGood) != 20*time.Second {
		t.Errorf("keys %v, timeout %s", p.keyring.Load() != nil, p.source.timeout(knownGood))
	}
}

// E1: the timeout of an entry limits a fetch; requests, and fetches of unproven providers, get at most five seconds of
// it.
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

// ringOf returns a keyring with one key.
func ringOf(t *testing.T) *Keyring {
	t.Helper()
	data, err := jose.JSONWebKey{Key: pki.NewKey(pki.P256).Public(), KeyID: "k1"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte(`{"keys":[` + string(data) + `]}`)
	set, err := parseUsableKeys(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &Keyring{fetched: time.Now(), algorithms: []string{"ES256"}, keys: set.keys, raw: raw, size: len(raw)}
}

// E13: the token of the pod is for the issuer of the pod's own cluster, over https, unless the entry sets other URLs.
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
		config KeysConfig
		ca     string
		token  string
	}{
		"as it comes":       {issuer, KeysConfig{}, ca, token},
		"full name":         {issuer + ".cluster.local", KeysConfig{}, ca, token},
		"with ca-cert":      {issuer, KeysConfig{CACert: "pem"}, "", token},
		"with ca-bundle":    {issuer, KeysConfig{Outbound: OutboundConfig{CABundle: "own"}}, "own", token},
		"with discovery":    {issuer, KeysConfig{DiscoveryURL: "https://a.example.com"}, "", ""},
		"with jwks-url":     {issuer, KeysConfig{JWKSURL: "https://a.example.com"}, "", ""},
		"with its own":      {issuer, KeysConfig{Outbound: OutboundConfig{BearerTokenFile: "own"}}, "", "own"},
		"plain http":        {"http://kubernetes.default.svc", KeysConfig{}, "", ""},
		"another host":      {"https://kubernetes.default.svc.example.com", KeysConfig{}, "", ""},
		"another port":      {issuer + ":8443", KeysConfig{}, "", ""},
		"another in a path": {"https://a.example.com/kubernetes.default.svc", KeysConfig{}, "", ""},
	} {
		out := Options{ServiceAccountDir: dir}.outbound(Entry{Key: c.key, Kubernetes: true, KeysConfig: c.config})
		if out.CABundle != c.ca || out.BearerTokenFile != c.token {
			t.Errorf("%s: ca %q, token %q", name, out.CABundle, out.BearerTokenFile)
		}
	}
	for name, e := range map[string]Entry{
		"another type": {Key: issuer},
		"a pattern":    {Key: issuer, Pattern: true, Kubernetes: true},
	} {
		if out := (Options{ServiceAccountDir: dir}).outbound(e); out != (OutboundConfig{}) {
			t.Errorf("%s: %+v", name, out)
		}
	}
}
