package mayfly_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/config"
	chartvalues "github.com/mayfly-ca/mayfly/migrate/chart"
)

// chart is the folder of the Helm chart. make e2e-kube renders it with helm, compares the result with
// deploy/kubernetes, and applies it to a real API server.
const chart = "deploy/helm/mayfly"

// The chart has copies of the rules and of the dashboard, because a chart cannot contain files of other folders.
func TestChartFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{rulesFile, alertsFile, dashboardFile} {
		published(t, filepath.Join(chart, "files", filepath.Base(name)), []byte(readDoc(t, name)))
	}
}

// published compares a generated file with want, or writes the file.
func published(t *testing.T, name string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, want, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not current (%v); run: go test . -update", name, err)
	}
}

// The schema of the values has their types and comments from values.yaml, and for mayfly.yaml and the issuer file the
// schemas of config/schema, so that helm refuses a misspelled value. Draft 7 is what every Helm reads.
func TestChartSchema(t *testing.T) {
	t.Parallel()
	var values yaml.Node
	if err := yaml.Unmarshal([]byte(readDoc(t, chart+"/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	schema := valueSchema(values.Content[0], "")
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	schema["title"] = "values of the chart mayfly"
	properties := schema["properties"].(map[string]any)
	definitions := map[string]any{}
	for value, name := range map[string]string{"config": "mayfly", "identity": "identity"} {
		text := strings.ReplaceAll(readDoc(t, "config/schema/"+name+".json"), `"#/$defs/`, `"#/definitions/`)
		var own map[string]any
		if err := json.Unmarshal([]byte(text), &own); err != nil {
			t.Fatal(err)
		}
		maps.Copy(definitions, own["$defs"].(map[string]any))
		properties[value] = map[string]any{"$ref": own["$ref"]}
	}
	schema["definitions"] = definitions
	properties["global"] = map[string]any{"type": "object"} // Helm adds it for charts that contain this one
	properties["url"].(map[string]any)["pattern"] = `^$|^https?://[^/]+`
	properties["replicas"].(map[string]any)["minimum"] = 0
	ct := properties["ct"].(map[string]any)["properties"].(map[string]any)
	logs := definitions["config-CT"].(map[string]any)["properties"].(map[string]any)["logs"].(map[string]any)
	ct["logs"].(map[string]any)["items"] = logs["items"]
	data, err := json.MarshalIndent(schema, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	published(t, chart+"/values.schema.json", append(data, '\n'))
}

// open are the objects whose members the operator chooses.
var open = []string{
	"annotations", "podAnnotations", "podLabels", "labels", "dashboardLabels", "nodeSelector", "affinity", "files",
	"resources", "tlsConfig",
}

// valueSchema returns the JSON Schema of a value and of its default.
func valueSchema(n *yaml.Node, name string) map[string]any {
	out := map[string]any{}
	switch n.Kind {
	case yaml.MappingNode:
		out["type"] = "object"
		if slices.Contains(open, name) {
			break
		}
		properties := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			one := valueSchema(n.Content[i+1], key.Value)
			if comment := strings.ReplaceAll(strings.TrimPrefix(key.HeadComment, "# "), "\n# ", " "); comment != "" &&
				!strings.Contains(comment, "\n") {
				one["description"] = comment
			}
			properties[key.Value] = one
		}
		out["properties"], out["additionalProperties"] = properties, false
	case yaml.SequenceNode:
		out["type"] = []string{"array", "null"}
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!bool":
			out["type"] = "boolean"
		case "!!int":
			out["type"] = "integer"
		default:
			out["type"] = []string{"string", "null"}
		}
	}
	return out
}

// object is an object of Kubernetes.
type object map[string]any

// at returns the value at a path; nil if there is none.
func (o object) at(path ...string) any {
	var v any = map[string]any(o)
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

func (o object) name() string { return o.at("kind").(string) + "/" + o.at("metadata", "name").(string) }

// manifests returns the objects of deploy/kubernetes by file.
func manifests(t *testing.T) map[string][]object {
	t.Helper()
	names, err := filepath.Glob("deploy/kubernetes/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]object{}
	for _, name := range names {
		d := yaml.NewDecoder(strings.NewReader(readDoc(t, name)))
		for {
			var o map[string]any
			if err := d.Decode(&o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if o["kind"] != nil {
				out[name] = append(out[name], o)
			}
		}
	}
	return out
}

// The plain manifests fulfil the restricted pod security standard, have a read-only root, ask the true readiness, and
// mount configuration and secrets so that changes reach the running process.
func TestManifests(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	for file, objects := range manifests(t) {
		for _, o := range objects {
			kind, _ := o["kind"].(string)
			found[kind] = true
			if kind != "StatefulSet" {
				continue
			}
			pod := object(o.at("spec", "template", "spec").(map[string]any))
			for path, want := range map[string]any{
				"securityContext runAsNonRoot": true, "securityContext seccompProfile type": "RuntimeDefault",
				"securityContext runAsUser": 65532, "terminationGracePeriodSeconds": 60,
			} {
				if got := pod.at(strings.Fields(path)...); got != want {
					t.Errorf("%s: %s: %s is %v, want %v", file, o.name(), path, got, want)
				}
			}
			if replicas := o.at("spec", "replicas"); replicas != 3 {
				t.Errorf("%s: %s has %v replicas", file, o.name(), replicas)
			}
			for _, c := range pod.at("containers").([]any) {
				container := object(c.(map[string]any))
				for path, want := range map[string]any{
					"securityContext allowPrivilegeEscalation": false, "securityContext readOnlyRootFilesystem": true,
					"readinessProbe httpGet path": "/readyz", "livenessProbe httpGet path": "/livez",
					"readinessProbe httpGet port": "admin",
				} {
					if got := container.at(strings.Fields(path)...); got != want {
						t.Errorf("%s: %s: %s is %v, want %v", file, o.name(), path, got, want)
					}
				}
				got := container.at("securityContext", "capabilities", "drop")
				if !slices.Equal(got.([]any), []any{"ALL"}) {
					t.Errorf("%s: %s drops the capabilities %v", file, o.name(), got)
				}
				for _, m := range container.at("volumeMounts").([]any) {
					if m.(map[string]any)["subPath"] != nil {
						t.Errorf("%s: %s: changes of a volume with subPath do not reach the container", file, o.name())
					}
				}
			}
		}
	}
	for _, kind := range []string{
		"Namespace", "ServiceAccount", "ConfigMap", "StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy",
		"Certificate", "ServiceMonitor", "PrometheusRule",
	} {
		if !found[kind] {
			t.Errorf("deploy/kubernetes has no %s", kind)
		}
	}
}

// The table in docs/kubernetes.md is the one by which "mayfly migrate helm-values" translates.
func TestChartValuesTable(t *testing.T) {
	t.Parallel()
	const page, end = "docs/kubernetes.md", "<!-- end of chart values -->"
	const begin = "<!-- chart values: written by go test . -update -->\n"
	head, rest, ok := strings.Cut(readDoc(t, page), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatal(page + " has no place for the table of values")
	}
	var table strings.Builder
	table.WriteString("\n| value of `fulcio` | value of `mayfly` | what differs, or why there is " +
		"none |\n|---|---|---|\n")
	for _, r := range chartvalues.Rows() {
		to, note := "–", r.Note
		if r.To != "" {
			to = "`" + strings.ReplaceAll(r.To, ", ", "`, `") + "`"
		}
		if r.Lost {
			to = "lost"
		}
		table.WriteString("| `" + r.From + "` | " + to + " | " + cmp.Or(note, "the same") + " |\n")
	}
	published(t, page, []byte(head+begin+table.String()+"\n"+end+tail))
}

// The template replaces the pods for exactly the settings that a running server does not apply (the tag restart of the
// configuration).
func TestRestartsOfChart(t *testing.T) {
	t.Parallel()
	text := readDoc(t, "deploy/helm/mayfly/templates/_helpers.tpl")
	_, text, _ = strings.Cut(text, `{{- define "mayfly.restart" -}}`)
	text, _, _ = strings.Cut(text, "{{- end -}}")
	words := func(pattern string) (out []string) {
		t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("the template has no %s: %s", pattern, text)
		}
		for _, quoted := range strings.Fields(m[1]) {
			out = append(out, strings.Trim(quoted, `"`))
		}
		return out
	}
	whole := words(`pick \$c ((?:"\w+" ?)+)`)
	live := words(`omit \(default dict \$c\.limits\) ((?:"\w+" ?)+)`)
	members := func(of reflect.Type, restart bool) (out []string) {
		for f := range of.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name != "" && name != "-" && (f.Tag.Get("restart") == "yes") == restart {
				out = append(out, name)
			}
		}
		slices.Sort(out)
		return out
	}
	slices.Sort(whole)
	slices.Sort(live)
	if want := members(reflect.TypeFor[config.Config](), true); !slices.Equal(whole, want) {
		t.Errorf("the template has the blocks %v; the configuration has %v", whole, want)
	}
	if want := members(reflect.TypeFor[config.Limits](), false); !slices.Equal(live, want) {
		t.Errorf("the template applies %v of limits without a restart; the configuration has %v", live, want)
	}
	if want := members(reflect.TypeFor[config.CT](), true); !slices.Equal(want, []string{"embedded"}) ||
		!strings.Contains(text, "$c.ct).embedded)") {
		t.Errorf("of ct, the configuration has %v", want)
	}
}
