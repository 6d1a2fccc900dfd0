// Package chart translates values of Sigstore's Helm chart "fulcio" into values of the chart of this repository
// (deploy/helm/mayfly).
//
// A file of values goes in; a [Result] comes out: the values, and for each value of the file what became of it. A value
// MUST NOT be lost in silence: each one is in exactly one of the lists of the result. The issuer file keeps its
// meaning. Secrets stay in the Secrets that the values name: their names are carried over, their content is not read.
package chart

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/oidc"
)

// Result is a translation.
type Result struct {
	// Values are those for deploy/helm/mayfly.
	Values map[string]any `json:"values"`
	// Carried are the values of the file with the values that they became, by name.
	Carried []Carried `json:"carried"`
	// Unneeded are the values of the file that have no effect here.
	Unneeded []Reason `json:"unneeded"`
	// Lost are the values of the file that cannot be carried over.
	Lost []Reason `json:"lost"`
	// Steps are what is left to do.
	Steps []string `json:"steps"`
}

// Carried says which value replaces a value.
type Carried struct {
	Value string `json:"value"`
	To    string `json:"to"`
	Note  string `json:"note,omitempty"`
}

// Reason says why a value has no counterpart, and what to do.
type Reason struct {
	Value string `json:"value"`
	Why   string `json:"why"`
}

// maxDepth bounds the nesting of a file.
const maxDepth = 64

// Translate reads a file of values, in YAML or JSON: of the chart "fulcio", or of a chart that contains it under the
// key fulcio, such as "scaffold". What the file does not have has the default of the chart "fulcio".
func Translate(data []byte) (*Result, error) {
	var doc any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("the file is not YAML: %w", err)
	}
	if doc == nil {
		doc = map[string]any{}
	}
	if err := plain(doc, "", maxDepth); err != nil {
		return nil, err
	}
	in, ok := doc.(map[string]any)
	if !ok {
		return nil, errors.New("the file has no values; write the file that \"helm get values RELEASE -o yaml\" prints")
	}
	if inner, ok := in["fulcio"].(map[string]any); ok {
		in = inner
	}
	if in["kind"] != nil && in["apiVersion"] != nil {
		return nil, errors.New("the file is an object of Kubernetes, not values; write the file that " +
			"\"helm get values RELEASE -o yaml\" prints, or use \"mayfly migrate fulcio\"")
	}
	t := &translation{in: in, out: map[string]any{}}
	if err := t.run(); err != nil {
		return nil, err
	}
	t.report()
	return &t.Result, nil
}

// YAML returns the values as a file for helm.
func (r *Result) YAML() ([]byte, error) {
	const head = "# Values for mayfly's chart, translated from those of Sigstore's chart for Fulcio.\n"
	data, err := yaml.Marshal(r.Values)
	return append([]byte(head), data...), err
}

// plain reports an error for a value that JSON does not have: keys that are not text, and too many levels.
func plain(v any, at string, depth int) error {
	if depth == 0 {
		return fmt.Errorf("%s: the file has more than %d levels", at, maxDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		for key, one := range v {
			if err := plain(one, strings.TrimPrefix(at+"."+key, "."), depth-1); err != nil {
				return err
			}
		}
	case map[any]any:
		return fmt.Errorf("%s: a key is not text; write it in quotation marks", at)
	case []any:
		for i, one := range v {
			if err := plain(one, fmt.Sprintf("%s[%d]", at, i), depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// translation is one call of [Translate].
type translation struct {
	Result

	in, out map[string]any
}

// get returns the value at a path; nil if there is none.
func (t *translation) get(path string) any {
	var v any = t.in
	for key := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

// text returns the text at a path, or fallback.
func (t *translation) text(path, fallback string) string {
	switch v := t.get(path).(type) {
	case nil, map[string]any, []any:
		return fallback
	case string:
		if v == "" {
			return fallback
		}
		return v
	default:
		return fmt.Sprint(v)
	}
}

func (t *translation) isTrue(path string, fallback bool) bool {
	if b, ok := t.get(path).(bool); ok {
		return b
	}
	return fallback
}

// set writes a value of our chart.
func (t *translation) set(path string, v any) {
	keys := strings.Split(path, ".")
	m := t.out
	for _, key := range keys[:len(keys)-1] {
		next, ok := m[key].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[key] = next
		}
		m = next
	}
	m[keys[len(keys)-1]] = v
}

func (t *translation) step(format string, a ...any) {
	t.Steps = append(t.Steps, fmt.Sprintf(format, a...))
}

// run makes the values, in the order of docs/kubernetes.md.
func (t *translation) run() error {
	for _, r := range rows {
		if r.same {
			if v := t.get(r.From); v != nil {
				t.set(r.To, v)
			}
		}
	}
	if t.get("server.replicaCount") == nil {
		t.set("replicas", 1) // the default of the chart "fulcio"; ours has three
	}
	t.step("write image.repository: the name of mayfly's image in your registry")
	if err := t.identity(); err != nil {
		return err
	}
	t.authority()
	t.log()
	t.network()
	if t.isTrue("ctlog.enabled", true) && t.get("server.args.ct_log_url") == nil {
		t.step("keep the log: it is a part of Fulcio's release, and \"helm uninstall\" of that release removes it. " +
			"Set createcerts and the replicas of the server to 0 there instead, until the log is replaced")
	}
	t.Values = t.out
	return nil
}

// defaultIssuer is the issuer in the default of our chart.
const defaultIssuer = "https://kubernetes.default.svc.cluster.local"

// identity translates the issuer file. Only if the values have none, it is that of the chart "fulcio".
func (t *translation) identity() error {
	const name = "config.contents"
	contents := t.get(name)
	if s, ok := contents.(string); ok {
		contents = nil
		if err := yaml.Unmarshal([]byte(s), &contents); err != nil {
			return fmt.Errorf("%s: the text is not YAML: %w", name, err)
		}
		if err := plain(contents, name, maxDepth); err != nil {
			return err
		}
	}
	m, ok := contents.(map[string]any)
	if !ok && contents != nil {
		return fmt.Errorf("%s: the value is a %T; write a mapping, or the text of one", name, contents)
	}
	if len(m) == 0 {
		kubernetes := func() map[string]any { return map[string]any{"client-id": "sigstore", "type": "kubernetes"} }
		m = map[string]any{
			"oidc-issuers": map[string]any{"https://kubernetes.default.svc": kubernetes()},
			"meta-issuers": map[string]any{"https://kubernetes.*.svc": kubernetes()},
		}
	}
	out, _ := kebab(m, reflect.TypeFor[oidc.Config]()).(map[string]any)
	issuers, _ := out["oidc-issuers"].(map[string]any)
	if issuers == nil {
		issuers = map[string]any{}
		out["oidc-issuers"] = issuers
	}
	if _, has := issuers[defaultIssuer]; !has {
		issuers[defaultIssuer] = nil // removes the default of our chart
	}
	t.set("identity", out)
	return nil
}

// kebab returns v with the keys of Fulcio's JSON form, such as ClientID, in the form of YAML. t is the Go type that the
// issuer file has at this place.
func kebab(v any, t reflect.Type) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Map:
		out := map[string]any{}
		for key, one := range m {
			out[key] = kebab(one, t.Elem())
		}
		return out
	case reflect.Struct:
		out := map[string]any{}
		names := map[string]reflect.StructField{}
		fields(t, names)
		for key, one := range m {
			if f, ok := names[strings.ToLower(key)]; ok {
				name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
				out[name] = kebab(one, f.Type)
			} else {
				out[key] = one
			}
		}
		return out
	default:
		return v
	}
}

// fields collects the fields of a struct by their names in YAML and in JSON, in lower case: JSON ignores the case.
func fields(t reflect.Type, into map[string]reflect.StructField) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" {
			fields(f.Type, into)
			continue
		}
		for _, key := range []string{name, f.Tag.Get("alias")} {
			if key != "" && key != "-" {
				into[strings.ToLower(key)] = f
			}
		}
	}
}

// authority translates the key and the chain.
func (t *translation) authority() {
	switch ca := t.text("server.args.certificateAuthority", "fileca"); ca {
	case "fileca":
		t.set("ca", map[string]any{
			"secret": t.text("server.secret", "fulcio-server-secret"), "chain": "cert", "key": "private",
			"password": "password",
		})
		t.step("see that %q in the Secret %s has the whole chain, the issuing certificate first and the root last, and "+
			"that the issuing certificate is not the root: mayfly config check says so", "cert",
			t.text("server.secret", "fulcio-server-secret"))
	case "kmsca":
		t.set("config.ca.kms", map[string]any{"key": t.text("server.args.kms_resource", ""), "chain": "chain.pem"})
		t.file("chain.pem", t.text("server.args.kms_cert_chain", ""))
	case "pkcs11ca":
		t.set("config.ca.pkcs11", map[string]any{"chain": "chain.pem", "socket": "/run/mayfly-hsm/socket"})
		t.step("run mayfly-hsm as a container beside mayfly (the values containers, volumes and volumeMounts), and add " +
			"the chain as files.chain.pem: docs/keys-hsm.md")
	default:
		t.step("choose a place of the key for the CA %q, and write it to config.ca: docs/keys.md", ca)
	}
	var env []any
	if region := t.text("server.awsKmsRegion", ""); region != "" {
		env = append(env, map[string]any{"name": "AWS_REGION", "value": region})
	}
	if name := t.text("server.awsKmsCredentialsSecretName", ""); name != "" {
		t.set("envFrom", []any{map[string]any{"secretRef": map[string]any{"name": name}}})
		t.step("see that the keys of the Secret %s are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", name)
	}
	if c := t.text("server.args.cloud_credential_config", ""); c != "" {
		t.file("cloud_credential_config", c)
		env = append(env, map[string]any{
			"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": "/etc/mayfly/cloud_credential_config",
		})
	}
	if len(env) > 0 {
		t.set("env", env)
	}
}

// file adds a file in /etc/mayfly. The name may have a dot.
func (t *translation) file(name, content string) {
	files, _ := t.out["files"].(map[string]any)
	if files == nil {
		files = map[string]any{}
		t.out["files"] = files
	}
	files[name] = content
}

// log translates the CT log.
func (t *translation) log() {
	if t.isTrue("server.args.disable_ct_log", false) {
		t.set("ct.logs", []any{})
		t.set("config.ct.none.reason", "Fulcio had no log (disable_ct_log)")
		t.set("config.production", false)
		t.step("certificates are in no log: add one to ct.logs, and remove config.ct.none and config.production")
		return
	}
	address := t.text("server.args.ct_log_url", "")
	key := "the log's public key, in PEM, to the file ctlog.pem"
	if address == "" {
		namespace := t.text("ctlog.namespace.name", "ctlog-system")
		address = fmt.Sprintf("http://%s.%s.svc/%s", t.text("ctlog.name", "ctlog"), namespace,
			t.text("ctlog.createctconfig.logPrefix", "fulcio"))
		key = "kubectl -n " + namespace +
			" get secret ctlog-public-key -o jsonpath={.data.public} | base64 -d > ctlog.pem"
	}
	entry := map[string]any{"name": "ctlog", "url": address}
	if u, err := url.Parse(address); err != nil || u.Host == "" {
		t.step("correct ct.logs[0].url: %q is not a URL", address)
	} else if u.Scheme == "http" {
		entry["insecure"] = true
		t.set("config.production", false)
		t.step("the connections to the log are not encrypted, which config.production: true refuses: serve the log " +
			"over TLS, then remove insecure and config.production")
	}
	t.set("ct.logs", []any{entry})
	t.step("make the ConfigMap with the log's public key: %s; kubectl create configmap mayfly-ct "+
		"--from-file=ctlog.pem", key)
}

// network translates the Service, the TLS and the Ingress objects.
func (t *translation) network() {
	port, grpc := t.get("server.svcPort"), t.get("server.grpcSvcPort")
	ports, _ := t.get("server.service.ports").([]any)
	for _, one := range ports {
		m, _ := one.(map[string]any)
		switch m["name"] {
		case "http":
			port = m["port"]
		case "grpc":
			grpc = m["port"]
		}
	}
	if port == nil {
		port = 80
	}
	t.set("service.port", port)
	if grpc != nil {
		t.set("service.grpcPort", grpc)
	}
	if secret := t.text("server.grpcSvcTLS.secretName", ""); secret == "" {
		t.set("tls.enabled", false)
	} else {
		t.set("tls.secret", secret)
		t.step("the Secret %s needs the keys tls.crt and tls.key. REST is served with TLS too: tell the Ingress "+
			"controller to use HTTPS to the Service", secret)
	}
	if t.isTrue("server.ingress.http.enabled", true) {
		t.ingress("http", map[string]any{
			"enabled": true, "className": "nginx",
			"hosts": []any{map[string]any{"host": "fulcio.localhost", "path": "/"}},
		})
	}
	if t.isTrue("server.ingress.grpc.enabled", false) {
		t.ingress("grpc", map[string]any{
			"annotations": map[string]any{"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"},
			"hosts":       []any{map[string]any{"host": "fulcio.localhost", "path": "/dev.sigstore.fulcio.v2.CA"}},
			"tls": []any{
				map[string]any{"secretName": "fulcio-grpc-ingress-tls", "hosts": []any{"fulcio.localhost"}},
			},
		})
	}
	t.step("write the addresses of the Ingress controller to config.listen.trusted_proxies: otherwise all requests " +
		"count as those of one source")
	t.step("trust: clients need a trusted root with the chains and logs of both CAs (docs/operations.md)")
}

// ingress writes the defaults of the chart "fulcio" for one of its Ingress objects, where the file has no value. The
// members of a default are added to those of the file, as helm does.
func (t *translation) ingress(kind string, defaults map[string]any) {
	for name, fallback := range defaults {
		v := t.get("server.ingress." + kind + "." + name)
		own, _ := v.(map[string]any)
		if members, ok := fallback.(map[string]any); ok && own != nil {
			all := maps.Clone(members)
			maps.Copy(all, own)
			v = all
		} else if v == nil {
			v = fallback
		}
		t.set("ingress."+kind+"."+name, v)
	}
}

// report puts each value of the file into one of the lists.
func (t *translation) report() {
	t.Carried, t.Unneeded, t.Lost = []Carried{}, []Reason{}, []Reason{}
	for _, name := range leaves(t.in, "") {
		r, ok := rowOf(name)
		switch {
		case ok && r.Lost && t.idle(name):
			t.Unneeded = append(t.Unneeded, Reason{name, "it had no effect with the other values of the file"})
		case !ok:
			t.Lost = append(t.Lost, Reason{name, "the chart \"fulcio\" of 2.7 and earlier has no such value"})
		case r.Lost:
			t.Lost = append(t.Lost, Reason{name, r.Note})
		case r.To == "":
			t.Unneeded = append(t.Unneeded, Reason{name, r.Note})
		default:
			t.Carried = append(t.Carried, Carried{name, r.To, r.Note})
		}
	}
}

// idle reports whether a value had no effect in the chart "fulcio".
func (t *translation) idle(name string) bool {
	authority := t.text("server.args.certificateAuthority", "fileca")
	switch name {
	case "server.args.gcp_private_ca_parent":
		return authority != "googleca"
	case "server.args.aws_hsm_root_ca_path":
		return authority != "aws-hsm-root-ca-path"
	case "server.ingresses":
		list, _ := t.get(name).([]any)
		return !slices.ContainsFunc(list, func(one any) bool {
			m, _ := one.(map[string]any)
			return m["enabled"] == true
		})
	case "server.extraArgs":
		list, ok := t.get(name).([]any)
		return ok && len(list) == 0
	}
	return false
}

// leaves returns the names of the values that have no members, and of those for which the table has a row, sorted.
func leaves(v any, at string) []string {
	m, ok := v.(map[string]any)
	exact := slices.ContainsFunc(rows, func(r Row) bool { return r.From == at })
	if !ok || exact {
		if v == nil {
			return nil
		}
		return []string{at}
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, leaves(m[key], strings.TrimPrefix(at+"."+key, "."))...)
	}
	return out
}

// rowOf returns the row of a value: its own, or that of the nearest object around it.
func rowOf(name string) (Row, bool) {
	for {
		for _, r := range rows {
			if r.From == name || r.From == name+".*" {
				return r, true
			}
		}
		i := strings.LastIndexByte(name, '.')
		if i < 0 {
			return Row{}, false
		}
		name = name[:i]
	}
}
