package migrate

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/hostname"
	"github.com/mayfly-ca/mayfly/internal/shell"
)

// Options are what the operator adds to a translation.
type Options struct {
	// Dir is the directory that [Plan.Write] makes or fills; it is absolute.
	Dir string
	// CTKey is the path of the public key of the CT log, in PEM, for a Fulcio without --ct-log-public-key-path.
	CTKey string
	// HTTP, GRPC and Admin are the addresses of the listeners, for a mayfly that runs beside Fulcio. If they are empty,
	// they are those of Fulcio.
	HTTP, GRPC, Admin string
}

// Main is the name of the configuration that is written.
const Main = "mayfly.yaml"

// secrets is the directory of the files that only their owner can read.
const secrets = "secrets"

// isSecret reports whether only the owner may read a file, by its name.
func isSecret(name string) bool { return strings.HasPrefix(name, secrets+"/") }

// Plan is a translation. It has what is to be written, and the report.
type Plan struct {
	Report *Report
	dir    string
	files  []output
}

// output is a file that is written, with its name relative to the directory.
type output struct {
	name string
	data []byte
}

// translator collects a plan.
type translator struct {
	p        *Process
	o        Options
	s        *settings
	plan     *Plan
	insecure bool // a setting is refused in production
	body     strings.Builder
}

// Translate translates the settings of a process. The error says what is wrong with them.
func Translate(p *Process, o Options) (*Plan, error) {
	s, err := p.read()
	if err != nil {
		return nil, err
	}
	t := &translator{p: p, o: o, s: s, plan: &Plan{dir: o.Dir, Report: &Report{
		Source: p.Name, Settings: []Setting{}, Ignored: append([]Ignored{}, s.ignored...), Differences: always(),
		Steps: []Step{}, Lost: []Lost{}, Files: []string{}, Problems: []string{},
	}}}
	t.settingRows()
	t.listen()
	t.identity()
	t.authority()
	t.algorithms()
	if err := t.log(); err != nil {
		return nil, err
	}
	t.rest()
	t.finish()
	return t.plan, nil
}

// settingRows lists the settings that are set.
func (t *translator) settingRows() {
	for _, f := range Flags() {
		v := t.s.values[f.Name]
		if v.source == fromDefault {
			continue
		}
		shown := v.text
		if f.Name == "fileca-key-passwd" || withPassword(shown) {
			shown = "(secret)"
		}
		t.plan.Report.Settings = append(t.plan.Report.Settings, Setting{
			Flag: f.Name, Value: shown, From: v.source,
			Setting: strings.ReplaceAll(f.Setting, "`", ""), Note: strings.ReplaceAll(f.Note, "`", ""),
		})
	}
}

// withPassword reports whether a text is a URL with a user.
func withPassword(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.User != nil || err != nil && strings.Contains(s, "@")
}

func (t *translator) line(format string, args ...any) { fmt.Fprintf(&t.body, format+"\n", args...) }

func (t *translator) differs(area, what, row string) {
	t.plan.Report.Differences = append(t.plan.Report.Differences, Difference{area, what, row})
}

func (t *translator) step(what, command string) {
	t.plan.Report.Steps = append(t.plan.Report.Steps, Step{what, command})
}

// quote writes a text for YAML: a double-quoted scalar, of which JSON is a subset.
func quote(s string) string {
	out, _ := json.Marshal(s) //nolint:errchkjson // a text is always valid
	return string(out)
}

// place returns what mayfly.yaml says for a file of Fulcio. A file on this machine stays where it is; the content that
// a manifest has is written to name; for any other file, a step says where it is from.
func (t *translator) place(f File, name string) string {
	if f.Data != nil {
		t.write(name, f.Data)
		return quote(name)
	}
	if f.Path != "" {
		return quote(f.Path)
	}
	command := ""
	if f.Get != "" {
		command = f.Get + " > " + shell.Quote(filepath.Join(t.o.Dir, name))
		if isSecret(name) {
			command = "(umask 077; " + command + ")"
		}
	}
	t.step("put "+f.From+" into "+name, command)
	return quote(name)
}

// write adds a file, once.
func (t *translator) write(name string, data []byte) {
	if !slices.ContainsFunc(t.plan.files, func(o output) bool { return o.name == name }) {
		t.plan.files = append(t.plan.files, output{name, data})
	}
}

func (t *translator) listen() {
	http := net.JoinHostPort(t.s.get("host"), t.s.get("port"))
	grpc := net.JoinHostPort(t.s.get("grpc-host"), t.s.get("grpc-port"))
	t.line("listen:")
	admin := net.JoinHostPort("0.0.0.0", t.s.get("metrics-port"))
	t.line("  http: %s", quote(cmp.Or(t.o.HTTP, http)))
	t.line("  grpc: %s", quote(cmp.Or(t.o.GRPC, grpc)))
	t.line("  # Readiness, metrics and the commands of operators; Fulcio's metrics are on all addresses, too.")
	t.line("  admin: %s", quote(cmp.Or(t.o.Admin, admin)))
	t.line("  # The metrics of Fulcio, for existing dashboards.")
	t.line("  fulcio_metrics: true")
	t.differs("ports", "the ports are the same; keep listen.admin on a network of your own, as it also has readiness",
		rowListeners)
	certificate, key := t.s.get("grpc-tls-certificate"), t.s.get("grpc-tls-key")
	if certificate == "" || key == "" {
		return
	}
	if http == grpc {
		t.differs("ports", "Fulcio ignores --grpc-tls-certificate because REST and gRPC share one port; it is not "+
			"carried over", rowTLS)
		return
	}
	t.line("  tls:")
	t.line("    certificate: %s", t.place(t.p.lookup(certificate), "tls.pem"))
	t.line("    key: %s", t.place(t.p.lookup(key), secrets+"/tls-key.pem"))
	t.differs("ports", "REST has TLS, too, and not only gRPC: clients and probes of "+http+" write https", rowTLS)
}

func (t *translator) identity() {
	name := t.s.get("config-path")
	f := t.p.lookup(name)
	if name == "/etc/fulcio-config/config.yaml" && !t.exists(f) {
		if other := t.p.lookup(strings.TrimSuffix(name, ".yaml") + ".json"); t.exists(other) {
			f, name = other, strings.TrimSuffix(name, ".yaml")+".json"
		}
	}
	ext := path.Ext(name)
	if ext != ".json" {
		ext = ".yaml"
	}
	t.line("# Fulcio's issuer file, unchanged.")
	t.line("identity:")
	t.line("  file: %s", t.place(f, "identity"+ext))
}

func (t *translator) exists(f File) bool {
	_, err := f.read()
	return err == nil
}

// authority writes the block ca.
func (t *translator) authority() {
	chain := func(flag string) string { return t.place(t.p.lookup(t.s.get(flag)), "chain.pem") }
	if kind := t.s.get("ca"); kind != "googleca" && kind != "ephemeralca" {
		t.line("# The same key and chain: verifiers need no new trusted root.")
	}
	t.line("ca:")
	switch t.s.get("ca") {
	case "fileca":
		t.line("  file:")
		t.line("    chain: %s", chain("fileca-cert"))
		t.line("    key: %s", t.place(t.p.lookup(t.s.get("fileca-key")), secrets+"/ca-key.pem"))
		t.password()
	case "kmsca":
		t.line("  kms:")
		t.line("    chain: %s", chain("kms-cert-chain-path"))
		t.line("    key: %s", quote(t.s.get("kms-resource")))
		t.limits()
	case "tinkca":
		t.line("  tink:")
		t.line("    chain: %s", chain("tink-cert-chain-path"))
		t.line("    key: %s", t.place(t.p.lookup(t.s.get("tink-keyset-path")), secrets+"/keyset.json"))
		t.line("    kek: %s", quote(t.s.get("tink-kms-resource")))
		t.differs("keys", "the same keyset and the same key-encryption key", rowTink)
	case "pkcs11ca":
		t.module()
	case "ephemeralca":
		t.insecure = true
		t.line("  ephemeral: {}")
	case "googleca":
		t.line("  # Google CA Service cannot sign for mayfly. Write a key backend here, such as ca.kms.")
		t.plan.Report.Lost = append(t.plan.Report.Lost, Lost{
			"--ca=googleca with " + t.s.get("gcp_private_ca_parent"),
			"the certificate is bytes that the service chooses, and no log sees a precertificate",
			"keep a key in Google Cloud KMS, and have the service sign its issuing certificate", rowGoogle,
		})
		t.step("make a key in Google Cloud KMS and a signing request for it, and write the block ca into "+Main,
			"mayfly ca csr --help")
	}
}

// password writes the password of a key into a file of its own, or says from where it comes.
func (t *translator) password() {
	v := t.s.values["fileca-key-passwd"]
	const name = secrets + "/ca-password"
	switch {
	case v.secret != nil:
		t.line("    password: {file: %s}", t.place(*v.secret, name))
	case v.text != "":
		t.write(name, []byte(v.text+"\n"))
		t.line("    password: {file: %s}", quote(name))
	default:
		return
	}
	t.differs("keys", "the password is in a file; it is not an argument that every user of the machine can see",
		rowPassword)
}

// limits writes the bounds on the calls of a key management service.
func (t *translator) limits() {
	timeout, _ := number(t.s.get("gcp-kms-timeout"))
	retries, _ := number(t.s.get("gcp-kms-retries"))
	if timeout == 0 && retries == 0 {
		return
	}
	t.line("    limits:")
	if timeout > 0 {
		t.line("      timeout: %s", min(2*time.Duration(timeout)*time.Second, 10*time.Second))
	}
	if retries > 0 {
		t.line("      attempts: %d", min(retries, 10))
	}
	t.differs("keys", "limits.timeout bounds a signature with all its attempts; an attempt gets at most half of it",
		rowKMS)
}

// module writes the block of a key in a hardware security module.
func (t *translator) module() {
	label := t.s.get("hsm-key-label")
	if label == "" {
		label = "PKCS11CA"
	}
	conf := t.p.lookup(t.s.get("pkcs11-config-path"))
	at := conf.Path
	if at == "" {
		const name = secrets + "/crypto11.conf"
		t.place(conf, name)
		at = filepath.Join(t.o.Dir, name)
	}
	t.line("  pkcs11:")
	if root := t.s.get("aws-hsm-root-ca-path"); root != "" {
		t.line("    chain: %s", t.place(t.p.lookup(root), "chain.pem"))
	} else {
		t.line("    chain: \"chain.pem\"")
		t.step("export the CA's certificate, which Fulcio finds in the token, into chain.pem",
			fmt.Sprintf("pkcs11-tool --module MODULE --read-object --type cert --id %x --output-file root.der && "+
				"openssl x509 -inform DER -in root.der -out %s", t.s.get("hsm-caroot-id"),
				shell.Quote(filepath.Join(t.o.Dir, "chain.pem"))))
	}
	t.line("    key: %s", quote(label))
	t.line("    # A process of its own loads the module of the HSM. It reads path and PIN as Fulcio does.")
	t.line("    command:")
	t.line("      - mayfly-hsm")
	t.line("      - %s", quote("--crypto11-config="+at))
	t.line("      - %s", quote("--key="+label))
	t.differs("keys", "mayfly-hsm loads the module, not the CA; install it beside mayfly (make hsm)", rowHSM)
}

func (t *translator) algorithms() {
	if v := t.s.values["client-signing-algorithms"]; v.source != fromDefault && len(v.list) > 0 {
		names := make([]string, len(v.list))
		for i, name := range v.list {
			names[i] = quote(name)
		}
		t.line("client_algorithms: [%s]", strings.Join(names, ", "))
	}
}

// log writes the block ct.
func (t *translator) log() error {
	address := t.s.get("ct-log-url")
	t.line("ct:")
	if address == "" {
		t.insecure = true
		t.line("  none: {reason: \"Fulcio submitted certificates to no log\"}")
		return nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%s: --ct-log-url is not the http or https URL of a log", t.p.Name)
	}
	t.line("  logs:")
	t.line("    - name: %s", quote(strings.ReplaceAll(u.Hostname(), ":", "-")))
	t.line("      url: %s", quote(address))
	t.line("      public_key: %s", t.logKey())
	if origin := t.s.get("ct-log-origin"); origin != "" {
		t.line("      host: %s", quote(origin))
	}
	if ca := t.s.get("ct-log.tls-ca-cert"); ca != "" {
		t.line("      ca_cert: %s", t.place(t.p.lookup(ca), "ct-ca.pem"))
	}
	if u.Scheme == "http" && !hostname.IsLoopback(u.Hostname()) {
		t.insecure = true
		t.line("      # Without TLS, as Fulcio has it. \"production: true\" needs https.")
		t.line("      insecure: true")
	}
	t.differs("clients", "a certificate is issued only if the log's key verifies its SCT", rowSCT)
	return nil
}

func (t *translator) logKey() string {
	if name := t.s.get("ct-log-public-key-path"); name != "" {
		return t.place(t.p.lookup(name), "ct.pem")
	}
	if t.o.CTKey != "" {
		return quote(t.o.CTKey)
	}
	return t.place(t.p.logKey(), "ct.pem")
}

// rest lists the settings without an equivalent.
func (t *translator) rest() {
	if t.s.set("legacy-unix-domain-socket") {
		t.differs("clients", "there is no Unix socket for the older API over gRPC; over REST it is the same", rowLegacy)
	}
	if t.s.set("idle-connection-timeout") || t.s.set("read-header-timeout") {
		t.differs("ports", "the times after which connections are closed are fixed", rowIdle)
	}
	if t.s.set("fileca-watch") && t.s.get("fileca-watch") != "true" {
		t.differs("keys", "a changed key or chain is always read", rowReload)
	}
	if t.s.get("log_type") == "prod" {
		t.differs("operation", "start mayfly with --log-format json for a log in JSON", rowLog)
	}
	if names := t.p.forwarded(t.s.get("ca")); len(names) > 0 {
		t.step("give mayfly these environment variables with the values that Fulcio has: "+
			strings.Join(names, ", "), "")
	}
}

// finish completes mayfly.yaml.
func (t *translator) finish() {
	var head strings.Builder
	head.WriteString("# The configuration of a Fulcio, translated by \"mayfly migrate fulcio\". docs/config.md " +
		"describes every key.\n# Check it: mayfly config check --config " + Main + "\n\n")
	if t.insecure {
		head.WriteString("# Set this to true when ca, ct and every \"insecure\" are fit for production.\n")
	}
	fmt.Fprintf(&head, "production: %v\n\n", !t.insecure)
	main := output{name: Main, data: []byte(head.String() + t.body.String())}
	t.plan.files = append([]output{main}, t.plan.files...)
	for _, f := range t.plan.files {
		t.plan.Report.Files = append(t.plan.Report.Files, f.name)
	}
	t.plan.Report.Problems = t.plan.review()
}

// review returns what is wrong with the texts of mayfly.yaml and the issuer file, as far as they are in the plan.
func (p *Plan) review() []string {
	out := []string{}
	d := config.Draft{Path: filepath.Join(p.dir, Main)}
	for _, f := range p.files {
		switch {
		case f.name == Main:
			d.Main = f.data
		case strings.HasPrefix(f.name, "identity."):
			d.Issuers = f.data
		}
	}
	if d.Issuers == nil {
		return out
	}
	_, err := d.Review()
	if problems, ok := errors.AsType[config.Problems](err); ok {
		for _, one := range problems {
			out = append(out, one.Head())
		}
	} else if err != nil {
		out = append(out, err.Error())
	}
	return out
}
