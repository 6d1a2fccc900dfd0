//go:build keys

package e2e_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

const (
	// propagation is the delay of the rotation, in place of the two days of the page.
	propagation = 20 * time.Second
	// clientsFetch is how often the clients get the published files: well within the propagation delay.
	clientsFetch = 4 * time.Second
	// rotationSlack is what the times of the CA (whole seconds) and of this test (a file that is polled) differ by.
	rotationSlack = 2 * time.Second

	rotationIdentity = "alice@example.com"
)

// rotationCase is a CA with an embedded log, TesseraCT, Rekor, a timestamp authority and a TUF repository, and three
// clients.
type rotationCase struct {
	*lab.Lab
	ca           *lab.Mayfly
	issuer       *lab.Issuer
	log          *lab.Log
	services     lab.Services
	python, java string // folders of the projects
	clients      string // folder with the files of the clients
	front, store string // URL of the CA with TLS, and the trust store of the Java client

	// endsIgnored says that sigstore-python accepts signatures that were made after the end of a chain: 4.5.1 ignores
	// it.
	endsIgnored bool

	mu       sync.Mutex
	versions []trustVersion
	cosigned []attempt
}

// trustVersion is a published trusted root, and when it was published.
type trustVersion struct {
	at   time.Time
	file string
}

// attempt is one signature of a client.
type attempt struct {
	client, result   string // result "ok", or the error
	number           int
	began, done      time.Time // the timestamp of the signature is in between
	artifact, bundle string
	issuer           string // name of the chain that issued the certificate
}

func (a attempt) String() string {
	return fmt.Sprintf("%s %d of %s", a.client, a.number, a.began.UTC().Format("15:04:05.0"))
}

// TestKeysRotation follows docs/rotation.md, block by block, while cosign, sigstore-python and sigstore-java sign once
// a second, with trust files that are some seconds old. No signature fails. Each signature verifies with another
// client: with the trusted root that was published a propagation delay before the signature, and with the last one.
// After the last step, the compromise of the first chain, its signatures since then do not verify, and after its
// withdrawal none. // C3
func TestKeysRotation(t *testing.T) {
	for _, name := range []string{"python3", "mvn", "java", "keytool", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	r := newRotationCase(lab.New(t))
	page := rotationPage(t)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		r.distribute(stop)
	}()
	r.Eventually("files for the clients", func(context.Context) error {
		_, err := os.Stat(filepath.Join(r.clients, "trust_config.json"))
		return err
	})
	finish := r.load()
	began := time.Now()
	phase := func(name string) { t.Logf("%5.1f s  %s", time.Since(began).Seconds(), name) }
	time.Sleep(10 * time.Second) // signatures before the rotation

	phase("1. the first chain gets a name")
	r.configure(page.yaml[0])
	r.Eventually("the state file", func(context.Context) error {
		_, err := os.Stat(filepath.Join(r.ca.Dir, "chains.json"))
		return err
	})
	phase("2. and 3. another chain")
	r.shell(page.init)
	r.configure(page.yaml[1])
	phase("4. prepare")
	r.Eventually("prepared", func(context.Context) error {
		if out := r.Try(r.shellCommand(page.prepare)); out.Status != 0 {
			return fmt.Errorf("%s%s", out.Stdout, out.Stderr)
		}
		return nil
	})
	if out := r.shell(page.plan); !strings.Contains(out.Stdout, "propagation") {
		t.Errorf("the plan says nothing of the delay:\n%s", out.Stdout)
	}
	if out := r.Try(r.shellCommand(page.activate)); out.Status != 3 {
		t.Errorf("activated too early: exit status %d\n%s%s", out.Status, out.Stdout, out.Stderr)
	}
	phase("the operator of the log accepts the root")
	r.acceptRoot()
	phase("5. wait")
	r.ready("can become active")
	phase("6. activate")
	r.shell(page.activate)
	time.Sleep(15 * time.Second)
	phase("7. retire")
	if out := r.Try(r.shellCommand(page.retire)); out.Status != 3 || !strings.Contains(out.Stdout, "last certificate") {
		t.Errorf("retired too early: exit status %d\n%s%s", out.Status, out.Stdout, out.Stderr)
	}
	r.shell(strings.TrimSpace(page.retire) + " --force --reason \"the test does not wait for an hour\"")
	time.Sleep(8 * time.Second)
	phase("end of the load")
	made := finish()
	close(stop)
	<-done

	r.name(made)
	for _, client := range []string{"cosign", "python", "java"} {
		by := map[string]int{}
		for _, a := range made {
			if a.client == client {
				by[cmp.Or(a.issuer, "failed")]++
			}
		}
		t.Logf("%s: %d signatures under the first chain, %d under the second one, %d failed", client, by["first"],
			by["second"], by["failed"])
		if by["first"] < 10 || by["second"] < 10 || by["failed"] > 0 {
			t.Errorf("%s: %v", client, by)
		}
	}
	for _, a := range made {
		if a.result != "ok" {
			t.Errorf("%v: %s", a, a.result)
		}
	}
	last := filepath.Join(r.ca.Dir, "trusted_root.json")
	r.verify("as published a propagation delay before", made, func(a attempt) string {
		return r.published(a.began.Add(rotationSlack - propagation))
	}, func(attempt) bool { return true })
	r.verify("after the retirement", made, func(attempt) string { return last },
		func(attempt) bool { return true })
	r.verifyByTUF(made, func(attempt) bool { return true })

	// The compromise, in the middle of the signatures of the first chain.
	first := slices.DeleteFunc(slices.Clone(made), func(a attempt) bool { return a.issuer != "first" })
	since := first[len(first)/2].began.Truncate(time.Second)
	stamp := regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	start := time.Now()
	out := r.shell(stamp.ReplaceAllString(page.compromise, since.UTC().Format(time.RFC3339)))
	t.Logf("compromise since %s: %s; took %s", since.UTC().Format(time.RFC3339),
		regexp.MustCompile(`Signed since then.*`).FindString(out.Stdout), time.Since(start).Round(time.Millisecond))
	clear := slices.DeleteFunc(slices.Clone(made), func(a attempt) bool { // its timestamp may be on either side
		return a.issuer == "first" && a.began.Before(since.Add(rotationSlack)) &&
			a.done.After(since.Add(-rotationSlack))
	})
	trusted := func(a attempt) bool { return a.issuer == "second" || a.began.Before(since) }
	r.endsIgnored = true
	r.verify("after the compromise", clear, func(attempt) string { return last }, trusted)
	r.endsIgnored = false
	r.verifyByTUF(clear, trusted)

	// With a time before its first certificate, no client accepts any signature of the chain.
	printed := stamp.FindString(regexp.MustCompile(`(?s)run the\s+command again with --since.*`).FindString(out.Stdout))
	r.shell(stamp.ReplaceAllString(page.compromise, printed))
	second := func(a attempt) bool { return a.issuer == "second" }
	r.verify("after the withdrawal", made, func(attempt) string { return last }, second)
	r.verifyByTUF(made, second)
}

// rotationBlocks are the blocks of docs/rotation.md that this test follows.
type rotationBlocks struct {
	yaml                                              []string // of the steps 1 and 3
	init, prepare, plan, activate, retire, compromise string
}

func rotationPage(t *testing.T) (out rotationBlocks) {
	t.Helper()
	text, err := os.ReadFile("../docs/rotation.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```(sh|yaml)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if m[1] == "yaml" {
			out.yaml = append(out.yaml, m[2])
			continue
		}
		for verb, to := range map[string]*string{
			"mayfly ca init": &out.init, "ca rotate prepare": &out.prepare, "ca rotate plan": &out.plan,
			"ca rotate activate": &out.activate, "ca rotate retire": &out.retire,
			"ca rotate compromise": &out.compromise,
		} {
			if strings.Contains(m[2], verb) {
				*to = m[2]
			}
		}
	}
	if out.init == "" || out.prepare == "" || out.plan == "" || out.activate == "" || out.retire == "" ||
		out.compromise == "" || len(out.yaml) < 2 {
		t.Fatalf("docs/rotation.md has other blocks than expected: %+v", out)
	}
	return out
}

// newRotationCase starts a CA with one chain, and publishes its trust files.
func newRotationCase(l *lab.Lab) *rotationCase {
	l.Helper()
	r := &rotationCase{Lab: l, issuer: l.Issuer(nil), services: l.Services()}
	r.python = l.Project("clients/python", "sh", "-c",
		"python3 -m venv venv && venv/bin/pip install --quiet --requirement requirements.txt")
	r.java = l.Project("clients/java", "mvn", "-q", "-B", "package", "dependency:copy-dependencies")
	dir := l.Mkdir("ca")
	l.Run(lab.Command{Name: "mayfly", Args: []string{"ca", "init", "--dir", "first", "--no-password"}, Dir: dir})
	chain := l.Certificates(l.Read(dir + "/first/chain.pem"))
	roots := l.Write("roots.pem", lab.PEM("CERTIFICATE", chain[len(chain)-1].Raw))
	r.log = l.TesseraCT(roots)
	r.ca = l.Serve(lab.ServeOptions{
		Name: "ca", CA: "  file: {chain: first/chain.pem, key: first/ca-key.pem}\n", OnePort: true,
		CT:       "  embedded: {dir: ct, origin: e2e.test/own}\n" + lab.RemoteLog(r.log),
		Identity: lab.EmailIssuer(r.issuer.URL), More: "audit: {file: journal.jsonl}\n",
	})
	mayfly := func(args ...string) {
		l.Helper()
		l.Run(lab.Command{Name: "mayfly", Args: args, Dir: dir})
	}
	mayfly("trust", "export", "--config", "mayfly.yaml", "--out", ".", "--tsa", r.services.TSA, "--tsa-chain",
		r.services.TSAChain, "--rekor", r.services.Rekor, "--rekor-key", r.services.RekorKey.Public)
	mayfly("trust", "tuf", "init", "--dir", "tuf")
	mayfly("trust", "tuf", "publish", "--dir", "tuf", "trusted_root.json", "signing_config.json")

	var certificate string
	r.front, certificate = l.TLS(r.ca.URL)
	r.store = l.Path("store.p12")
	l.Run(lab.Command{Name: "keytool", Args: []string{
		"-importcert", "-noprompt", "-alias", "front", "-file", l.Write("front.pem", certificate), "-keystore", r.store,
		"-storetype", "PKCS12", "-storepass", "changeit",
	}})
	r.clients = l.Mkdir("clients")
	for _, client := range []string{"cosign", "python", "java"} {
		l.Mkdir("clients", client)
	}
	return r
}

// configure puts a YAML block of the page into mayfly.yaml, in the place of the settings with the same names.
func (r *rotationCase) configure(block string) {
	r.Helper()
	const file = "ca/mayfly.yaml"
	block = strings.Replace(block, "https://ca.example.com", r.ca.URL, 1)
	block = strings.Replace(block, "ca:\n", fmt.Sprintf("ca:\n  rotation: {propagation: %s}\n", propagation), 1)
	section := regexp.MustCompile(`(?m)^(\w+):.*\n(?:^[ #].*\n)*`)
	text := r.Read(r.Path(file))
	for _, m := range section.FindAllStringSubmatch(block, -1) {
		text = regexp.MustCompile(`(?m)^`+m[1]+`:.*\n(?:^ .*\n)*`).ReplaceAllLiteralString(text, "") + m[0]
	}
	next := r.Write(file+".next", text)
	if err := os.Rename(next, r.Path(file)); err != nil {
		r.Fatal(err)
	}
}

func (r *rotationCase) shellCommand(script string) lab.Command {
	return lab.Command{Name: "sh", Args: []string{"-ec", script}, Dir: r.ca.Dir}
}

// shell runs a block of the page, in the folder of the CA.
func (r *rotationCase) shell(script string) lab.Result {
	r.Helper()
	return r.Run(r.shellCommand(script))
}

// acceptRoot is what the operator of TesseraCT does: it reads its roots when it starts.
func (r *rotationCase) acceptRoot() {
	r.Helper()
	chain := r.Certificates(r.Read(filepath.Join(r.ca.Dir, "second", "chain.pem")))
	r.Write("roots.pem", r.Read(r.Path("roots.pem"))+lab.PEM("CERTIFICATE", chain[len(chain)-1].Raw))
	r.log.Server.Kill()
	r.log.Restart(r.Lab)
}

// ready waits until /readyz is 200 and says text.
func (r *rotationCase) ready(text string) {
	r.Helper()
	r.Eventually("ready: "+text, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.ca.Admin+"/readyz", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		var said json.RawMessage
		if err := json.NewDecoder(answer.Body).Decode(&said); err != nil {
			return err
		}
		if answer.StatusCode != http.StatusOK || !strings.Contains(string(said), text) {
			return fmt.Errorf("%s %s", answer.Status, said)
		}
		return nil
	})
}

// distribute records each published trusted root, and gives the clients what they need, until stop is closed.
func (r *rotationCase) distribute(stop chan struct{}) {
	given := time.Time{}
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		data, err := os.ReadFile(filepath.Join(r.ca.Dir, "trusted_root.json"))
		if err != nil {
			r.Error(err)
			return
		}
		r.record(data)
		if time.Since(given) >= clientsFetch {
			given = time.Now()
			if err := r.give(data); err != nil {
				r.Error(err)
				return
			}
		}
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

func (r *rotationCase) record(data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.versions); n > 0 {
		if last, err := os.ReadFile(r.versions[n-1].file); err == nil && string(last) == string(data) {
			return
		}
	}
	v := trustVersion{time.Now(), r.Path("clients", fmt.Sprintf("published-%d.json", len(r.versions)+1))}
	if err := os.WriteFile(v.file, data, 0o600); err != nil {
		r.Error(err)
	}
	r.versions = append(r.versions, v)
}

// published is the file with the trusted root that was published at a time.
func (r *rotationCase) published(at time.Time) string {
	file := r.versions[0].file
	for _, v := range r.versions {
		if !v.at.After(at) {
			file = v.file
		}
	}
	return file
}

// give replaces the files of the clients: trusted root, signing configuration, both in one, and a token.
func (r *rotationCase) give(trustedRoot []byte) error {
	config, err := os.ReadFile(filepath.Join(r.ca.Dir, "signing_config.json"))
	if err != nil {
		return err
	}
	both, err := json.Marshal(map[string]any{
		"mediaType":   "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
		"trustedRoot": json.RawMessage(trustedRoot), "signingConfig": json.RawMessage(config),
	})
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"trusted_root.json": trustedRoot, "signing_config.json": config, "trust_config.json": both,
		"signing_config_tls.json": []byte(strings.ReplaceAll(string(config), r.ca.URL, r.front)),
		// Given a token as text, the Java client signs the subject as its challenge, so that it must be the address.
		"token": []byte(r.issuer.Token(map[string]any{
			"sub": rotationIdentity, "email": rotationIdentity, "email_verified": true,
		})),
	} {
		path := filepath.Join(r.clients, name)
		if err := os.WriteFile(path+".next", data, 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".next", path); err != nil {
			return err
		}
	}
	return nil
}

func (r *rotationCase) client(name ...string) string {
	return filepath.Join(append([]string{r.clients}, name...)...)
}

// load has every client sign once a second. The function that it returns ends that, and returns all signatures.
func (r *rotationCase) load() func() []attempt {
	r.Helper()
	// The Java client cannot write a bundle of the first entry of a log.
	if a := r.cosign(0); a.result != "ok" {
		r.Fatal(a.result)
	}
	python := r.Spawn("sigstore-python", lab.Command{Name: r.python + "/venv/bin/python", Args: []string{
		r.python + "/batch.py", "sign", r.client("trust_config.json"), r.client("token"), r.client("python"),
	}})
	java := r.Spawn("sigstore-java", lab.Command{Name: "java", Args: []string{
		"-Djavax.net.ssl.trustStore=" + r.store, "-Djavax.net.ssl.trustStorePassword=changeit",
		"-XX:+UseSerialGC", "-cp",
		r.java + "/target/classes:" + r.java + "/target/dependency/*", "Client", "repeat",
		r.client("trusted_root.json"),
		r.client("signing_config_tls.json"), r.client("token"), r.client("java"),
	}})
	for _, p := range []*lab.Process{python, java} { // a virtual machine that starts is no client yet
		r.Eventually("the first signatures", func(context.Context) error {
			if strings.Count(p.Stdout(), "\n") < 3 {
				return fmt.Errorf("%s%s", p.Stdout(), p.Stderr())
			}
			return nil
		})
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		slots := make(chan struct{}, 4)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			slots <- struct{}{}
			running.Go(func() {
				a := r.cosign(n)
				r.mu.Lock()
				r.cosigned = append(r.cosigned, a)
				r.mu.Unlock()
				<-slots
			})
		}
	})
	return func() []attempt {
		r.Helper()
		close(stop)
		r.Write("clients/python/stop", "")
		r.Write("clients/java/stop", "")
		running.Wait()
		for name, p := range map[string]*lab.Process{"sigstore-python": python, "sigstore-java": java} {
			if status := p.Wait(); status != 0 {
				r.Errorf("%s: exit status %d\n%s", name, status, p.Stderr())
			}
		}
		out := slices.Concat(r.cosigned, r.attempts("python", python.Stdout()), r.attempts("java", java.Stdout()))
		slices.SortFunc(out, func(a, b attempt) int { return a.began.Compare(b.began) })
		return out
	}
}

// cosign signs once.
func (r *rotationCase) cosign(n int) attempt {
	a := attempt{client: "cosign", number: n, began: time.Now(), result: "ok"}
	a.artifact, a.bundle = r.client("cosign", fmt.Sprintf("%d.txt", n)), r.client("cosign", fmt.Sprintf("%d.json", n))
	if err := os.WriteFile(a.artifact, fmt.Appendf(nil, "cosign %d\n", n), 0o600); err != nil {
		a.result = err.Error()
		return a
	}
	out := r.Try(lab.Command{Name: "cosign", Args: []string{
		"sign-blob", "--yes", "--signing-config", r.client("signing_config.json"), "--trusted-root",
		r.client("trusted_root.json"), "--identity-token", r.client("token"), "--bundle", a.bundle, a.artifact,
	}})
	if out.Status != 0 {
		a.result = out.Stderr
	}
	return a
}

// attempts reads what a client printed.
func (r *rotationCase) attempts(client, text string) (out []attempt) {
	r.Helper()
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(fields) != 3 {
			r.Fatalf("%s printed %q", client, line)
		}
		began, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			r.Fatalf("%s printed %q", client, line)
		}
		number, err := strconv.Atoi(fields[0])
		if err != nil {
			r.Fatalf("%s printed %q", client, line)
		}
		out = append(out, attempt{
			client: client, number: number, began: time.UnixMilli(began), result: fields[2],
			artifact: r.client(client, fields[0]+".txt"), bundle: r.client(client, fields[0]+".json"),
		})
	}
	return out
}

// name gives each signature the name of the chain of its certificate.
func (r *rotationCase) name(made []attempt) {
	r.Helper()
	for _, name := range []string{"first", "second"} {
		issuing := r.Certificates(r.Read(filepath.Join(r.ca.Dir, name, "chain.pem")))[0]
		for i, a := range made {
			if info, err := os.Stat(a.bundle); err == nil {
				made[i].done = info.ModTime()
			}
			if a.result == "ok" && r.Bundle(a.bundle).Leaf.CheckSignatureFrom(issuing) == nil {
				made[i].issuer = name
			}
		}
	}
}

// verify has another client verify each signature, with the file that root says, and expects what trusted says: those
// of cosign with sigstore-python, all others with sigstore-go.
func (r *rotationCase) verify(when string, made []attempt, root func(attempt) string, trusted func(attempt) bool) {
	r.Helper()
	type entry struct {
		Root     string `json:"root"`
		Bundle   string `json:"bundle"`
		Artifact string `json:"artifact"`
		Identity string `json:"identity"`
		Issuer   string `json:"issuer"`
	}
	start := time.Now()
	var list []entry
	var ours, others []attempt
	for _, a := range made {
		switch {
		case a.result != "ok":
		case a.client == "cosign":
			ours = append(ours, a)
			list = append(list, entry{root(a), a.bundle, a.artifact, rotationIdentity, r.issuer.URL})
		default:
			others = append(others, a)
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		r.Fatal(err)
	}
	out := r.Run(lab.Command{Name: r.python + "/venv/bin/python", Args: []string{
		r.python + "/batch.py", "verify", r.Write("clients/list.json", string(text)),
	}})
	results := strings.Split(strings.TrimSpace(out.Stdout), "\n")
	if len(results) != len(ours) {
		r.Fatalf("%d results for %d signatures\n%s", len(results), len(ours), out.Stderr)
	}
	good, bad := 0, 0
	check := func(a attempt, client, result string) {
		r.Helper()
		if want := trusted(a); want != (result == "ok") {
			r.Errorf("%s, %s: %v under the %s chain: want valid: %t, got %s", when, client, a, a.issuer, want, result)
		}
		if result == "ok" {
			good++
		} else {
			bad++
		}
	}
	for i, a := range ours {
		if r.endsIgnored && !trusted(a) && results[i] == "ok" { // another client decides, below
			others = append(others, a)
			continue
		}
		check(a, "sigstore-python", results[i])
	}
	for _, a := range others {
		s := signer{lab: r.Lab, issuer: r.issuer.URL, trust: lab.Trust{TrustedRoot: root(a)}}
		result := "ok"
		if out := r.Try(s.conformanceVerify(blob{a.artifact, a.bundle}, rotationIdentity)); out.Status != 0 {
			result = out.Stderr
		}
		check(a, "sigstore-go", result)
	}
	r.Logf("%s: %d signatures verify, %d do not; %s", when, good, bad, time.Since(start).Round(time.Millisecond))
	if good == 0 {
		r.Errorf("%s: no signature verifies", when)
	}
}

// verifyByTUF has cosign fetch the trusted root from the TUF repository, as a client that was set up once, and verify
// the first and the last signature of each client under each chain.
func (r *rotationCase) verifyByTUF(made []attempt, trusted func(attempt) bool) {
	r.Helper()
	repository := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(r.ca.Dir, "tuf", "repository"))))
	defer repository.Close()
	home := r.Mkdir("home-" + strconv.FormatInt(time.Now().UnixNano(), 36))
	env := []string{"HOME=" + home, "TUF_ROOT=" + home}
	r.Run(lab.Command{Name: "cosign", Env: env, Args: []string{
		"initialize", "--mirror", repository.URL, "--root", filepath.Join(r.ca.Dir, "tuf", "repository", "1.root.json"),
	}})
	ends := map[string][2]attempt{} // by client and chain
	for _, a := range made {
		key := a.client + " " + a.issuer
		pair, ok := ends[key]
		if !ok {
			pair[0] = a
		}
		pair[1] = a
		ends[key] = pair
	}
	for _, pair := range ends {
		for _, a := range pair {
			out := r.Try(lab.Command{Name: "cosign", Env: env, Args: []string{
				"verify-blob", "--bundle", a.bundle, "--certificate-identity", rotationIdentity,
				"--certificate-oidc-issuer", r.issuer.URL, a.artifact,
			}})
			if want := trusted(a); want != (out.Status == 0) {
				r.Errorf("cosign with the TUF repository: %v under the %s chain: want valid: %t, got status %d: %s", a,
					a.issuer, want, out.Status, out.Stderr)
			}
		}
	}
}
