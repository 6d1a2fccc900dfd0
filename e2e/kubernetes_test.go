//go:build kube

package e2e_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

var update = flag.Bool("update", false, "write deploy/kubernetes anew")

const chartFolder = "../deploy/helm/mayfly"

// manifest is one object of a rendered chart.
type manifest struct{ version, kind, name, namespace, text string }

// manifests splits a stream of YAML documents, as helm and we write them.
func manifests(t testing.TB, stream string) (out []manifest) {
	t.Helper()
	field := func(text, pattern string) string {
		if m := regexp.MustCompile(`(?m)` + pattern).FindStringSubmatch(text); m != nil {
			return m[1]
		}
		return ""
	}
	for _, text := range regexp.MustCompile(`(?m)^---$`).Split(stream, -1) {
		m := manifest{
			version: field(text, `^apiVersion: (\S+)$`), kind: field(text, `^kind: (\S+)$`),
			name: field(text, `^  name: (\S+)$`), namespace: field(text, `^  namespace: (\S+)$`),
			text: strings.TrimSpace(text) + "\n",
		}
		if m.kind != "" {
			out = append(out, m)
		}
	}
	if len(out) < 5 {
		t.Fatalf("only %d objects in\n%s", len(out), stream)
	}
	return out
}

// path returns the path of an object below the API, which discovery gives.
func (k kubeClient) path(m manifest) string {
	k.Helper()
	base := "/apis/" + m.version
	if !strings.Contains(m.version, "/") {
		base = "/api/" + m.version
	}
	var list struct {
		Resources []struct {
			Name, Kind string
			Namespaced bool
		}
	}
	data, err := k.do(k.Context(), http.MethodGet, base, "")
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		k.Fatal(err)
	}
	for _, r := range list.Resources {
		if r.Kind == m.kind && !strings.Contains(r.Name, "/") {
			if r.Namespaced {
				base += "/namespaces/" + m.namespace
			}
			return base + "/" + r.Name + "/" + m.name
		}
	}
	k.Fatalf("the API server has no %s of %s", m.kind, m.version)
	return ""
}

// apply applies an object on the server's side. Unknown and repeated fields are errors.
func (k kubeClient) apply(m manifest, dry bool) error {
	k.Helper()
	query := "?fieldManager=e2e&force=true&fieldValidation=Strict"
	if dry {
		query += "&dryRun=All"
	}
	if _, err := k.do(k.Context(), http.MethodPatch, k.path(m)+query, m.text); err != nil {
		return fmt.Errorf("%s %s: %w", m.kind, m.name, err)
	}
	return nil
}

// get reads an object.
func (k kubeClient) get(path string) map[string]any {
	k.Helper()
	data, err := k.do(k.Context(), http.MethodGet, path, "")
	var out map[string]any
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		k.Fatal(err)
	}
	return out
}

// in returns the value at a path of keys.
func in(v any, path ...string) any {
	for _, key := range path {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	return v
}

// resourceTypes installs the types of the Prometheus operator, made from its Go types, and of cert-manager.
func (k kubeClient) resourceTypes() {
	k.Helper()
	// made once for each content of the folder
	dir := k.Project("tools/crds", "sh", "-ec", "mkdir made\n"+
		"go run sigs.k8s.io/controller-tools/cmd/controller-gen crd output:crd:dir=made "+
		"paths=github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1\n"+
		"cp $(go list -m -f '{{.Dir}}' github.com/cert-manager/cert-manager)/deploy/crds/*_certificates.yaml made\n")
	for _, name := range []string{
		"cert-manager.io_certificates", "monitoring.coreos.com_servicemonitors",
		"monitoring.coreos.com_prometheusrules",
	} {
		file := filepath.Join(dir, "made", name+".yaml")
		text := regexp.MustCompile(`(?m)^\s*\{\{.*\}\}\n`).ReplaceAllString(k.Read(file), "")
		group, plural, _ := strings.Cut(name, "_")
		path := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/" + plural + "." + group
		if _, err := k.do(k.Context(), http.MethodPatch, path+"?fieldManager=e2e&force=true", text); err != nil {
			k.Fatal(err)
		}
		k.Eventually(name, func(ctx context.Context) error {
			data, err := k.do(ctx, http.MethodGet, path, "")
			if err == nil && !strings.Contains(strings.ReplaceAll(string(data), " ", ""), `"type":"Established"`) {
				err = fmt.Errorf("not established: %s", data)
			}
			return err
		})
	}
}

// schemas writes the JSON Schema of each kind, from the API server's own types, as kubeconform reads them: objects
// have no other members. It returns the location for kubeconform.
func (k kubeClient) schemas() string {
	k.Helper()
	var api map[string]any
	k.Eventually("the schemas of the resource types", func(ctx context.Context) error {
		data, err := k.do(ctx, http.MethodGet, "/openapi/v2", "")
		if err == nil && !strings.Contains(string(data), "com.coreos.monitoring.v1.PrometheusRule") {
			err = fmt.Errorf("not yet served")
		}
		if err == nil {
			err = json.Unmarshal(data, &api)
		}
		return err
	})
	definitions := api["definitions"].(map[string]any)
	for name, d := range definitions {
		d := d.(map[string]any)
		switch {
		case d["format"] == "int-or-string":
			definitions[name] = map[string]any{"type": []string{"string", "integer"}}
		case strings.HasSuffix(name, "resource.Quantity"):
			definitions[name] = map[string]any{"type": []string{"string", "number"}}
		default:
			closed(d)
		}
	}
	dir := k.Mkdir("schemas")
	count := 0
	for name, d := range definitions {
		kinds, _ := in(d, "x-kubernetes-group-version-kind").([]any)
		if len(kinds) != 1 {
			continue
		}
		group, version := in(kinds[0], "group").(string), in(kinds[0], "version").(string)
		kind := in(kinds[0], "kind").(string)
		used := map[string]any{}
		collect(map[string]any{"$ref": "#/definitions/" + name}, definitions, used)
		data, err := json.Marshal(map[string]any{"$ref": "#/definitions/" + name, "definitions": used})
		if err != nil {
			k.Fatal(err)
		}
		suffix := "-" + version // as kubeconform names a schema
		if first, _, _ := strings.Cut(group, "."); first != "" {
			suffix = "-" + first + suffix
		}
		file := "schemas/" + strings.ToLower(kind) + suffix + ".json"
		k.Write(file, string(data))
		count++
	}
	if count < 50 {
		k.Fatalf("only %d schemas", count)
	}
	return dir + "/{{.ResourceKind}}{{.KindSuffix}}.json"
}

// closed forbids members that a type does not have, here and below.
func closed(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, ok := v["properties"].(map[string]any); ok && v["additionalProperties"] == nil &&
			v["x-kubernetes-preserve-unknown-fields"] != true {
			v["additionalProperties"] = false
		}
		for _, one := range v {
			closed(one)
		}
	case []any:
		for _, one := range v {
			closed(one)
		}
	}
}

// collect adds the definitions that v refers to.
func collect(v any, all, used map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			name := strings.TrimPrefix(ref, "#/definitions/")
			if _, done := used[name]; !done {
				used[name] = all[name]
				collect(all[name], all, used)
			}
		}
		for _, one := range v {
			collect(one, all, used)
		}
	case []any:
		for _, one := range v {
			collect(one, all, used)
		}
	}
}

// valueFiles returns the files of values to render, by name; "" is none: the defaults, those of the chart's folder ci,
// those that docs/kubernetes.md shows, and those that mayfly translates from the values of Sigstore's chart.
func valueFiles(l *lab.Lab) map[string]string {
	l.Helper()
	out := map[string]string{"defaults": ""}
	add := func(name, text string) { out[name] = l.Write("values/"+name+".yaml", text) }
	files, err := filepath.Glob(chartFolder + "/ci/*.yaml")
	if err != nil || len(files) < 3 {
		l.Fatal(err, files)
	}
	for _, f := range files {
		add(strings.TrimSuffix(filepath.Base(f), ".yaml"), l.Read(f))
	}
	for i, m := range regexp.MustCompile("(?s)```yaml\n(# values.yaml\n.*?)```").FindAllStringSubmatch(
		l.Read("../docs/kubernetes.md"), -1) {
		add(fmt.Sprintf("docs-%d", i+1), m[1])
	}
	if out["docs-1"] == "" {
		l.Fatal("docs/kubernetes.md shows no values")
	}
	for name, text := range map[string]string{
		"fulcio-defaults": "server: {replicaCount: 1}\n",
		"fulcio-issuers": `config:
  contents:
    OIDCIssuers:
      https://accounts.example.org: {IssuerURL: https://accounts.example.org, ClientID: sigstore, Type: email}
server:
  replicaCount: 3
  args: {ct_log_url: "https://ct.example.org/2026"}
  ingress: {http: {className: traefik, hosts: [{path: /, host: fulcio.example.org}]}}
`,
	} {
		file := l.Write("values/"+name+".fulcio", text)
		r := l.Run(lab.Command{Name: "mayfly", Args: []string{"migrate", "helm-values", file}})
		add(name, r.Stdout)
	}
	return out
}

// TestKubernetesChart renders the chart with helm over several files of values. Every result passes helm's linter,
// kubeconform with the schemas of a real API server, a server-side dry run, and an apply; its pods fulfil the
// restricted pod security standard; and the configuration in it passes "mayfly config check" with the files that the
// pod would see.
func TestKubernetesChart(t *testing.T) {
	t.Parallel()
	l := lab.Plain(t, "mayfly")
	l.Need("helm", "kubeconform")
	k := startKube(l)
	k.resourceTypes()
	location := k.schemas()
	supplies := newSupplies(l)
	for _, name := range slices.Sorted(maps.Keys(valueFiles(l))) {
		t.Run(name, func(t *testing.T) {
			l := l.For(t)
			k := kubeClient{Lab: l, api: k.api}
			var values []string
			if file := l.Path("values", name+".yaml"); name != "defaults" {
				values = []string{"--values", file}
			}
			l.Run(lab.Command{Name: "helm", Args: append([]string{"lint", "--strict", chart(l)}, values...)})
			namespace := "ns-" + name
			stream := l.Run(lab.Command{Name: "helm", Args: append([]string{
				"template", "mayfly", chart(l), "--namespace", namespace,
			}, values...)}).Stdout
			file := l.Write("rendered/"+name+".yaml", stream)
			r := l.Run(lab.Command{Name: "kubeconform", Args: []string{
				"-strict", "-summary", "-schema-location", location, file,
			}})
			t.Log(strings.TrimSpace(r.Stdout))
			applied(k, namespace, manifests(l, stream))
			supplies.check(k, namespace)
		})
	}
	t.Run("refused", func(t *testing.T) { chartRefuses(l.For(t), location) })
}

func chart(l *lab.Lab) string {
	l.Helper()
	dir, err := filepath.Abs(chartFolder)
	if err != nil {
		l.Fatal(err)
	}
	return dir
}

// applied applies objects in a namespace that enforces the restricted standard: first as a dry run, then for good,
// then again with another image, as an upgrade does.
func applied(k kubeClient, namespace string, objects []manifest) {
	k.Helper()
	if _, err := k.do(k.Context(), http.MethodPatch, "/api/v1/namespaces/"+namespace+"?fieldManager=setup&force=true",
		"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+namespace+
			"\n  labels: {pod-security.kubernetes.io/enforce: restricted}\n"); err != nil {
		k.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		for _, m := range objects {
			if err := k.apply(m, dry); err != nil {
				k.Errorf("dry run %v: %v", dry, err)
			}
		}
	}
	for _, m := range objects {
		if m.kind != "StatefulSet" {
			continue
		}
		next := m
		next.text = regexp.MustCompile(`(?m)^( +image: ).*$`).ReplaceAllString(m.text, `${1}example.com/mayfly:next`)
		if next.text == m.text {
			k.Error("no image found")
		}
		if err := k.apply(next, false); err != nil {
			k.Errorf("an upgrade: %v", err)
		}
		pod := in(k.get(k.path(m)), "spec", "template").(map[string]any)
		if err := k.pod(namespace, pod); err != nil {
			k.Error(err)
		}
		delete(in(pod, "spec", "securityContext").(map[string]any), "runAsNonRoot")
		if err := k.pod(namespace, pod); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
			k.Errorf("a pod that may run as root: %v", err)
		}
	}
}

// pod asks the API server whether it would accept a pod of a StatefulSet.
func (k kubeClient) pod(namespace string, template map[string]any) error {
	k.Helper()
	spec := maps.Clone(template["spec"].(map[string]any))
	spec["volumes"] = append(slices.Clone(spec["volumes"].([]any)), map[string]any{
		"name": "data", "persistentVolumeClaim": map[string]any{"claimName": "data-mayfly-0"},
	})
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "mayfly-0"}, "spec": spec,
	})
	if err != nil {
		return err
	}
	_, err = k.do(k.Context(), http.MethodPost,
		"/api/v1/namespaces/"+namespace+"/pods?dryRun=All&fieldValidation=Strict",
		string(body))
	return err
}

// supplies are the contents of Secrets and ConfigMaps that the chart does not make.
type supplies struct{ chain, key, password, certificate, tlsKey string }

func newSupplies(l *lab.Lab) supplies {
	l.Helper()
	l.Write("password", "a password")
	l.Run(lab.Command{Name: "mayfly", Args: []string{
		"ca", "init", "--dir", l.Path("ca"), "--organization", "Example", "--password-file", l.Path("password"),
	}})
	certificate, key := serverPair(l.TB, "ca.example.com")
	return supplies{
		chain: l.Read(l.Path("ca", "chain.pem")), key: l.Read(l.Path("ca", "ca-key.pem")), password: "a password",
		certificate: certificate, tlsKey: key,
	}
}

// content returns what belongs in a file of /etc/mayfly.
func (s supplies) content(l *lab.Lab, path string) string {
	l.Helper()
	switch {
	case strings.HasSuffix(path, "chain.pem"), strings.HasSuffix(path, "ca.crt"):
		return s.chain
	case path == "ca/key.pem":
		return s.key
	case path == "ca/password":
		return s.password
	case path == "tls/tls.crt":
		return s.certificate
	case path == "tls/tls.key":
		return s.tlsKey
	case strings.HasPrefix(path, "ct/"):
		return l.Read(l.LogKey(strings.NewReplacer("/", "-", ".", "-").Replace(path)).Public)
	}
	return "a secret\n"
}

// check writes the files of the volume /etc/mayfly as kubelet does, from the objects in the API server and, for objects
// that the chart does not make, from the supplies. "mayfly config check" must accept them.
func (s supplies) check(k kubeClient, namespace string) {
	k.Helper()
	sets := k.get("/apis/apps/v1/namespaces/" + namespace + "/statefulsets")["items"].([]any)
	if len(sets) != 1 {
		k.Fatalf("%d StatefulSets", len(sets))
	}
	dir, data := "etc-"+namespace, k.Mkdir("data-"+namespace)
	volumes := in(sets[0], "spec", "template", "spec", "volumes").([]any)
	found := false
	for _, v := range volumes {
		if in(v, "name") != "config" {
			continue
		}
		for _, source := range in(v, "projected", "sources").([]any) {
			for kind, of := range source.(map[string]any) {
				items, _ := in(of, "items").([]any)
				if items == nil { // the chart's own ConfigMap
					own := k.get("/api/v1/namespaces/" + namespace + "/configmaps/" + in(of, "name").(string))
					for name, text := range own["data"].(map[string]any) {
						text := strings.ReplaceAll(text.(string), "/var/lib/mayfly", data)
						if name == "chain.pem" {
							text = s.chain
						}
						k.Write(dir+"/"+name, text)
						found = found || name == "mayfly.yaml"
					}
				}
				for _, item := range items {
					path := in(item, "path").(string)
					if kind != "secret" && !strings.HasPrefix(path, "ct/") {
						k.Errorf("%s is in a %s", path, kind)
					}
					k.Write(dir+"/"+path, s.content(k.Lab, path))
				}
			}
		}
	}
	if !found {
		k.Fatal("no mayfly.yaml")
	}
	main := k.Path(dir, "mayfly.yaml")
	args := []string{"config", "check", "--config", main}
	if strings.Contains(k.Read(main), "  kms:\n") { // config check asks the service; all else is loaded without it
		args = []string{
			"trust", "export", "--config", main, "--url", "https://ca.example.com", "--out",
			k.Path(dir, "trust"),
		}
	}
	k.Log(strings.TrimSpace(k.Run(lab.Command{Name: "mayfly", Args: args}).Stdout))
}

// chartRefuses shows that the checks find mistakes, and that the chart says what to write instead.
func chartRefuses(l *lab.Lab, location string) {
	template := func(args ...string) lab.Command {
		return lab.Command{Name: "helm", Args: append([]string{"template", "mayfly", chart(l)}, args...)}
	}
	for want, args := range map[string][]string{ // the first three are misspelled
		"replica":                     {"--set", "replica=2"},
		"min_sct":                     {"--set", "config.ct.policy.min_sct=2"},
		"client_id":                   {"--set", `identity.oidc-issuers.https://a\.b.client_id=c`},
		"ct.embedded is a log in one": {"--set", "ct.embedded=ca.example.com/ct"},
		"there is no log":             {"--set-json", "ct.logs=[]"},
		"config.listen.admin":         {"--set", "config.listen.admin=:1"},
		"issuer.name is missing":      {"--set", "tls.certManager.enabled=true"},
		"write the value config":      {"--set", `files.mayfly\.yaml=x`},
	} {
		l.RunFails(template(args...), want)
	}
	stream := l.Run(template()).Stdout
	wrong := strings.Replace(stream, "      serviceAccountName:", "      surprise: 1\n      serviceAccountName:", 1)
	if wrong == stream {
		l.Fatal("no pod found")
	}
	l.RunFails(lab.Command{Name: "kubeconform", Args: []string{
		"-strict", "-schema-location", location, l.Write("wrong.yaml", wrong),
	}}, "surprise")
}

// TestKubernetesManifests compares deploy/kubernetes with what the chart renders from deploy/kubernetes/values.yaml.
func TestKubernetesManifests(t *testing.T) {
	t.Parallel()
	l := lab.Plain(t, "mayfly")
	l.Need("helm")
	folder, err := filepath.Abs("../deploy/kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	stream := l.Run(lab.Command{Name: "helm", Args: []string{
		"template", "mayfly", chart(l), "--namespace", "mayfly",
		"--values", filepath.Join(folder, "values", "values.yaml"),
	}}).Stdout
	files := map[string]string{}
	for _, m := range manifests(t, stream) {
		name := "mayfly.yaml"
		switch {
		case m.kind == "Certificate":
			name = "certificate.yaml"
		case strings.HasPrefix(m.version, "monitoring.coreos.com/"), strings.HasSuffix(m.name, "-dashboard"):
			name = "monitoring.yaml"
		}
		if files[name] == "" {
			files[name] = "# Rendered from deploy/helm/mayfly with values/values.yaml (make e2e-kube UPDATE=1).\n" +
				"# docs/kubernetes.md explains it.\n"
		}
		files[name] += "---\n" + m.text
	}
	for name, text := range files {
		file := filepath.Join(folder, name)
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != text {
			t.Errorf("deploy/kubernetes/%s is not what the chart renders (%v); run: make e2e-kube UPDATE=1", name, err)
		}
	}
}
