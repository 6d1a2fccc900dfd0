package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/testkit/logbuf"
	"github.com/mayfly-ca/mayfly/testkit/process"
	"github.com/mayfly-ca/mayfly/testkit/site"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"

	_ "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// the codec of a call whose message is not generated code

var update = flag.Bool("update", false, "update the golden files")

// goldenWire has each request of the table with the response of mayfly, and that of Fulcio if it differs. Values that
// vary from run to run are masked. JSON is sorted and indented, because its white space has no meaning.
const goldenWire = "testdata/wire.golden"

// fulcioEnv is the environment variable with the path of a Fulcio binary, which the end-to-end tests set. Its responses
// are compared with the same golden file.
const fulcioEnv = "MAYFLY_TEST_FULCIO"

// TestWire sends every request of the table to the real binary, over REST and gRPC. // H1 // H2 // H3 // H4 // H5 // H6
// // H9 // H10 // F7
func TestWire(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	p := pki.New(pki.Options{})
	s := process.Serve(t, process.Setup{PKI: p, Issuer: provider.URL()})
	golden := readWire(t)
	w := newWire(t, wireServer{rest: "http://" + s.HTTP, grpc: s.GRPC}, provider)
	w.settled(t)
	got := w.all(t)
	if path := os.Getenv(fulcioEnv); path != "" {
		golden = w.compareFulcio(t, comparison{
			got: got, golden: golden,
			server: startFulcio(t, fulcioSetup{path: path, pki: p, issuer: provider.URL()}),
		})
	}
	if *update {
		writeWire(t, got, golden)
		return
	}
	for _, c := range wireTable() {
		if diff := gocmp.Diff(golden[c.name].answer, got[c.name]); diff != "" {
			t.Errorf("%s: (-golden +mayfly)\n%s", c.name, diff)
		}
	}
	if len(golden) != len(got) {
		t.Errorf("the golden file has %d requests, the table %d; update the file with -update", len(golden), len(got))
	}
}

// TestNoCanary sends the same requests to a CA whose configuration has values that no response may contain. // F6 // C8
func TestNoCanary(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := process.Serve(t, process.Setup{
		PKI: pki.New(pki.Options{}), Issuer: provider.URL(), More: "api: {v1: false}\n",
		Issuers: "  https://canary.example.com: {client-id: canary-audience, type: uri, subject-domain: " +
			"\"https://canary.example.com\"}\n",
	})
	w := newWire(t, wireServer{rest: "http://" + s.HTTP, grpc: s.GRPC}, provider)
	w.settled(t)
	for name, answer := range w.all(t) {
		for _, canary := range []string{"canary", s.Dir, "key.pem", "goroutine", ".go:", "PRIVATE"} {
			if strings.Contains(answer, canary) && !strings.HasSuffix(name, "configuration") {
				t.Errorf("%s: %q in\n%s", name, canary, answer)
			}
		}
		if rest, old := strings.CutPrefix(name, "v1 "); old && !strings.HasPrefix(answer, "404") {
			t.Errorf("v1 is off, but %q is served:\n%s", rest, answer)
		}
	}
}

// comparison has the expected responses of Fulcio.
type comparison struct {
	got    map[string]string
	golden map[string]wireEntry
	server wireServer
}

// compareFulcio sends the same requests to Fulcio. The expected response is that of mayfly without its additions, or
// the separate one in the golden file.
func (w *wire) compareFulcio(t *testing.T, c comparison) map[string]wireEntry {
	t.Helper()
	f := *w
	f.server = c.server
	answers := f.all(t)
	out := map[string]wireEntry{}
	for name, answer := range answers {
		e := wireEntry{answer: c.got[name]}
		if answer = fulcioView(answer); answer != fulcioView(c.got[name]) {
			e.fulcio = answer
		}
		out[name] = e
		if diff := gocmp.Diff(c.golden[name].fulcio, e.fulcio); diff != "" && !*update {
			t.Errorf("%s: (-golden +Fulcio where it differs)\n%s", name, diff)
		}
	}
	return out
}

// additions match the parts of all responses that only mayfly has; docs/compatibility.md lists them.
var additions = regexp.MustCompile(`(?m)^(Deprecation|Link|X-Request-Id|Access-Control-Expose-Headers|Mayfly-[A-Za-z-]+|x-request-id|mayfly-[a-z-]+): .*\n`)

var details = regexp.MustCompile(`(?s)"details": \[.*\],\n`)

func fulcioView(answer string) string {
	answer = additions.ReplaceAllString(answer+"\n", "")
	return strings.TrimRight(details.ReplaceAllString(answer, "\"details\": [],\n"), "\n")
}

// wireServer has the addresses of a server.
type wireServer struct{ rest, grpc, metrics string }

// wire sends requests to one server.
type wire struct {
	server wireServer
	values map[string]func() string
	issuer string
}

// settled waits until the CA has fetched the keys of the provider, so that the first request is handled like later
// ones.
func (w *wire) settled(t *testing.T) {
	t.Helper()
	health := slices.IndexFunc(wireTable(), func(c wireCase) bool { return c.name == "gRPC health" })
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		a := w.send(t, wireCase{method: "POST", path: "/api/v2/signingCert", body: v2Key("${pem}", "${proof}")})
		if strings.HasPrefix(a, "200") {
			if a = w.call(t, wireTable()[health]); !strings.Contains(a, "NOT_SERVING") { // the checks run at intervals
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal(a)
		}
	}
}

func (w *wire) all(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, c := range wireTable() {
		if _, twice := out[c.name]; twice {
			t.Fatalf("two requests have the name %q", c.name)
		}
		if c.method == "" {
			out[c.name] = w.call(t, c)
		} else {
			out[c.name] = w.send(t, c)
		}
	}
	return out
}

var placeholder = regexp.MustCompile(`\$\{[a-z0-9-]+\}`)

func (w *wire) expand(t *testing.T, s string) string {
	t.Helper()
	return placeholder.ReplaceAllStringFunc(s, func(p string) string {
		value := w.values[p[2:len(p)-1]]
		if value == nil {
			t.Fatalf("%s is unknown", p)
		}
		return value()
	})
}

// send sends a request over REST and returns the normalized response.
func (w *wire) send(t *testing.T, c wireCase) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), c.method, w.server.rest+c.path,
		strings.NewReader(w.expand(t, c.body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "wire-test")
	for i := 0; i+1 < len(c.header); i += 2 {
		req.Header.Add(c.header[i], w.expand(t, c.header[i+1]))
	}
	client := &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	var b strings.Builder
	fmt.Fprintln(&b, resp.StatusCode)
	for _, key := range slices.Sorted(maps.Keys(resp.Header)) {
		switch key {
		case "Date", "Content-Length", "Grpc-Metadata-Content-Type":
		case "X-Request-Id", "Mayfly-Config-Digest":
			fmt.Fprintf(&b, "%s: <%s>\n", key, strings.ToLower(key))
		default:
			fmt.Fprintf(&b, "%s: %s\n", key, strings.Join(resp.Header[key], " | "))
		}
	}
	if resp.Close {
		b.WriteString("Connection: close\n")
	}
	b.WriteString("\n" + w.mask(normal(body)))
	return strings.TrimRight(b.String(), "\n")
}

// call makes a gRPC call and returns the normalized response.
func (w *wire) call(t *testing.T, c wireCase) string {
	t.Helper()
	conn, err := grpc.NewClient(w.server.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the call has ended
	in := []byte(w.expand(t, c.body))
	if c.message != nil {
		message := proto.Clone(c.message)
		if err := protojson.Unmarshal(in, message); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if in, err = proto.Marshal(message); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := 0; i+1 < len(c.header); i += 2 {
		ctx = metadata.AppendToOutgoingContext(ctx, c.header[i], w.expand(t, c.header[i+1]))
	}
	var out []byte
	var header metadata.MD
	err = conn.Invoke(ctx, c.path, in, &out, grpc.ForceCodec(rawCodec{}), grpc.Header(&header))
	st := status.Convert(err)
	var b strings.Builder
	fmt.Fprintln(&b, st.Code())
	for _, key := range slices.Sorted(maps.Keys(header)) {
		switch key {
		case "content-type", "date":
		case "x-request-id", "mayfly-config-digest":
			fmt.Fprintf(&b, "%s: <%s>\n", key, key)
		default:
			fmt.Fprintf(&b, "%s: %s\n", key, strings.Join(header[key], " | "))
		}
	}
	body, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(st.Proto())
	if st.Code() == 0 && c.answer != nil {
		answer := proto.Clone(c.answer)
		if err := proto.Unmarshal(out, answer); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		body, err = protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(answer)
	}
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	b.WriteString("\n" + w.mask(normal(body)))
	return strings.TrimRight(b.String(), "\n")
}

// rawCodec sends bytes unchanged, so that a test can send a message that no generated type can represent.
type rawCodec struct{}

var _ encoding.Codec = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(data)
	return nil
}

// normal sorts and indents JSON. It returns other texts unchanged.
func normal(body []byte) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return string(body)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return string(body)
	}
	if !bytes.HasSuffix(body, []byte("\n")) {
		return strings.TrimSuffix(b.String(), "\n") + "<no newline at the end>"
	}
	return b.String()
}

var (
	pemBlock  = regexp.MustCompile(`(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----`)
	requestID = regexp.MustCompile(`"request_id": "[^"]+"`)
	seconds   = regexp.MustCompile(`"seconds": "[0-9]+"`)
	column    = regexp.MustCompile(`\(line 1:[0-9]{3,}\)`)
	sizes     = regexp.MustCompile(`\([0-9]+ vs\.`)
	spaces    = regexp.MustCompile(`proto:[\s\x{00a0}]+`) // the library varies this white space from build to build
)

// mask replaces values that vary, and replaces certificates by descriptions.
func (w *wire) mask(s string) string {
	s = pemBlock.ReplaceAllStringFunc(s, describePEM)
	s = requestID.ReplaceAllString(s, `"request_id": "<id>"`)
	s = seconds.ReplaceAllString(s, `"seconds": "<n>"`)
	s = sizes.ReplaceAllString(s, "(<n> vs.")
	s = column.ReplaceAllString(s, "(line 1:<n>)")
	s = spaces.ReplaceAllString(s, "proto: ")
	return strings.NewReplacer(w.issuer, "<issuer>", w.server.rest, "<ca>").Replace(s)
}

// wireEntry is one request of the golden file.
type wireEntry struct{ answer, fulcio string }

const (
	wireHead   = "=== "
	wireAnswer = "--- mayfly\n"
	wireFulcio = "--- Fulcio\n"
)

func readWire(t *testing.T) map[string]wireEntry {
	t.Helper()
	data, err := os.ReadFile(goldenWire)
	if err != nil && !*update {
		t.Fatal(err)
	}
	out := map[string]wireEntry{}
	for _, section := range strings.Split("\n"+string(data), "\n"+wireHead)[1:] {
		name, rest, _ := strings.Cut(section, "\n")
		_, answers, _ := strings.Cut(rest, wireAnswer)
		ours, theirs, _ := strings.Cut(answers, wireFulcio)
		out[name] = wireEntry{answer: strings.TrimRight(ours, "\n"), fulcio: strings.TrimRight(theirs, "\n")}
	}
	return out
}

func writeWire(t *testing.T, got map[string]string, golden map[string]wireEntry) {
	t.Helper()
	var b strings.Builder
	b.WriteString("Requests, the answers of mayfly, and those of Fulcio v1.8.8 where they differ by more than the " +
		"additions that docs/compatibility.md lists.\n" +
		"Written by: go test ./cmd/mayfly -run TestWire -update\n\n")
	for _, c := range wireTable() {
		b.WriteString(wireHead + c.name + "\n" + cmp.Or(c.method, "gRPC") + " " + c.path + "\n")
		for i := 0; i+1 < len(c.header); i += 2 {
			fmt.Fprintf(&b, "%s: %s\n", c.header[i], shortened(c.header[i+1]))
		}
		if c.body != "" {
			b.WriteString("\n" + shortened(c.body) + "\n")
		}
		b.WriteString(wireAnswer + got[c.name] + "\n")
		if f := golden[c.name].fulcio; f != "" {
			b.WriteString(wireFulcio + f + "\n")
		}
		b.WriteString("\n")
	}
	if err := os.WriteFile(goldenWire, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func shortened(s string) string {
	if !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	if len(s) > 600 {
		return fmt.Sprintf("%s… (%d bytes)", s[:60], len(s))
	}
	return s
}

// fulcioSetup has the parameters of a Fulcio process.
type fulcioSetup struct {
	path, issuer string
	pki          *pki.PKI
}

// startFulcio starts Fulcio with the chain and the issuer of the tested mayfly, and with a separate log.
func startFulcio(t *testing.T, set fulcioSetup) wireServer {
	t.Helper()
	dir := t.TempDir()
	log := site.NewTestLog(t, set.pki)
	for name, data := range map[string][]byte{
		"chain.pem": set.pki.ChainPEM(), "key.pem": set.pki.KeyPEM(), "ct.pem": log.PublicKeyPEM(),
		"identity.yaml": fmt.Appendf(nil, "oidc-issuers:\n  %q: {issuer-url: %q, client-id: sigstore, type: email}\n",
			set.issuer, set.issuer),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	rest, native, metrics := process.FreeAddress(t), process.FreeAddress(t), process.FreeAddress(t)
	cmd := exec.Command(set.path, "serve", "--ca=fileca", "--fileca-cert="+filepath.Join(dir, "chain.pem"),
		"--fileca-key="+filepath.Join(dir, "key.pem"),
		"--fileca-key-passwd=none", "--fileca-watch=false", "--host=127.0.0.1", "--grpc-host=127.0.0.1",
		"--port="+port(rest), "--grpc-port="+port(native), "--metrics-port="+port(metrics),
		"--legacy-unix-domain-socket=@mayfly-wire-"+port(rest), "--config-path="+filepath.Join(dir, "identity.yaml"),
		"--ct-log-url="+log.URL(), "--ct-log-public-key-path="+filepath.Join(dir, "ct.pem"))
	logs := &logbuf.Buffer{}
	cmd.Stdout, cmd.Stderr = logs, logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://" + rest + "/api/v2/trustBundle")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return wireServer{rest: "http://" + rest, grpc: native, metrics: "http://" + metrics}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("Fulcio is not ready: %v\n%s", err, logs)
		}
	}
}

// v2Key returns the body of a request of the current API with a public key.
func v2Key(content, proof string) string {
	return `{"credentials":{"oidcIdentityToken":"${token}"},"publicKeyRequest":{"publicKey":{"algorithm":"ECDSA","content":"` + content + `"},"proofOfPossession":"` + proof + `"}}`
}
