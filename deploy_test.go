package mayfly_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The files for Prometheus and Grafana.
const (
	rulesFile     = "deploy/prometheus/rules.yml"
	alertsFile    = "deploy/prometheus/alerts.yml"
	dashboardFile = "deploy/grafana/mayfly.json"
)

// expressions returns the PromQL expressions of the rules and of the dashboard, with their places. make e2e has a real
// Prometheus parse and evaluate them.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	block := regexp.MustCompile(`(?s)(?:alert|record): (\S+)\n\s+expr: (?:>-\n)?(.*?)\n(?:\s+(?:for|labels|-)|\s*#|\z)`)
	for _, name := range []string{rulesFile, alertsFile} {
		for _, m := range block.FindAllStringSubmatch(readDoc(t, name)+"\n      - ", -1) {
			out[name+": "+m[1]] = strings.Join(strings.Fields(m[2]), " ")
		}
	}
	var walkJSON func(place string, v any)
	walkJSON = func(place string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if title, ok := v["title"].(string); ok {
				place = dashboardFile + ": " + title
			}
			if expr, ok := v["expr"].(string); ok {
				out[place+" "+expr] = expr
			}
			for _, one := range v {
				walkJSON(place, one)
			}
		case []any:
			for _, one := range v {
				walkJSON(place, one)
			}
		}
	}
	var dashboard any
	if err := json.Unmarshal([]byte(readDoc(t, dashboardFile)), &dashboard); err != nil {
		t.Fatal(err)
	}
	walkJSON(dashboardFile, dashboard)
	return out
}

// Every series and label of the rules and of the dashboard is one that the code registers, or one of Prometheus itself.
func TestSeriesExist(t *testing.T) {
	t.Parallel()
	known, all := metrics(t), expressions(t)
	if len(all) < 100 {
		t.Fatalf("only %d expressions found", len(all))
	}
	selector := regexp.MustCompile(`\b((?:mayfly|process|go)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?`)
	recorded := regexp.MustCompile(`mayfly:[a-z0-9_:]+`)
	label := regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	grouping := regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
	// of the collectors of the Prometheus library
	others := []string{
		"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds",
		"go_goroutines",
	}
	used := map[string]bool{}
	for place, expr := range all {
		labels := map[string]bool{"instance": true, "job": true}
		for _, m := range selector.FindAllStringSubmatch(expr, -1) {
			name := m[1]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base, cut := strings.CutSuffix(name, suffix)
				if cut && known[base].kind == "histogram" {
					name, labels["le"] = base, true
				}
			}
			used[name] = true
			if _, ok := known[name]; !ok && !slices.Contains(others, name) {
				t.Errorf("%s: the metric %s does not exist", place, m[1])
			}
			own := map[string]bool{}
			for _, l := range strings.Split(known[name].labels, ", ") {
				own[l], labels[l] = true, true
			}
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				if !own[l[1]] && l[1] != "instance" && l[1] != "job" && l[1] != "le" {
					t.Errorf("%s: %s has no label %s", place, name, l[1])
				}
			}
		}
		for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
			for _, l := range strings.Split(m[1], ",") {
				if l = strings.TrimSpace(l); !labels[l] {
					t.Errorf("%s: no metric of it has the label %s", place, l)
				}
			}
		}
		for _, name := range recorded.FindAllString(expr, -1) {
			if _, ok := all[rulesFile+": "+name]; !ok {
				t.Errorf("%s: no rule records %s", place, name)
			}
		}
	}
	if len(used) < 50 {
		t.Errorf("only %d metrics are used", len(used))
	}
}

// Each alert has its page with the same three headings, each page has its alert, and each alert has a unit test.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	text := readDoc(t, alertsFile)
	pages := map[string]bool{}
	names, err := filepath.Glob("docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		pages[strings.TrimSuffix(filepath.Base(name), ".md")] = true
	}
	alerts := strings.Split(text, "- alert: ")[1:]
	if len(alerts) < 30 {
		t.Fatalf("only %d alerts found", len(alerts))
	}
	tests := readDoc(t, "deploy/prometheus/alerts_test.yml")
	heading := regexp.MustCompile(`(?m)^#+ .*$`)
	for _, one := range alerts {
		name, rest, _ := strings.Cut(one, "\n")
		if !pages[name] {
			t.Errorf("docs/runbooks has no page for the alert %s", name)
			continue
		}
		delete(pages, name)
		if !strings.Contains(rest, "/docs/runbooks/"+name+".md\n") {
			t.Errorf("%s: runbook_url does not lead to its page", name)
		}
		if !regexp.MustCompile(`labels: \{severity: (page|ticket)\}`).MatchString(rest) ||
			!strings.Contains(rest, "summary: ") {
			t.Errorf("%s has no severity or no summary", name)
		}
		if !strings.Contains(tests, "  - name: "+name+"\n") {
			t.Errorf("%s has no unit test", name)
		}
		page := readDoc(t, "docs/runbooks/"+name+".md")
		want := []string{"# " + name, "## Meaning", "## Check", "## Repair"}
		if got := heading.FindAllString(page, -1); !slices.Equal(got, want) {
			t.Errorf("docs/runbooks/%s.md has the headings %q, want %q", name, got, want)
		}
		for _, part := range strings.Split(page, "\n## ")[1:] {
			if _, body, _ := strings.Cut(part, "\n"); len(strings.TrimSpace(body)) < 30 {
				t.Errorf("docs/runbooks/%s.md: %q says nothing", name, part)
			}
		}
	}
	for name := range maps.Keys(pages) {
		t.Errorf("docs/runbooks/%s.md is of no alert", name)
	}
}

// The commands of the runbooks exist, and so do their flags.
func TestRunbookCommands(t *testing.T) {
	t.Parallel()
	command := regexp.MustCompile("`mayfly ([a-z]+(?: [a-z]+)*)([^`]*)`")
	flag := regexp.MustCompile(`--[a-z0-9-]+`)
	defined := map[string]bool{}
	for _, f := range parseAll(t) {
		if f.pkg != "cmd/mayfly" && f.pkg != "cmd/internal/clients" || f.test() {
			continue
		}
		data, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`Use:\s+"([a-z]+)`).FindAllStringSubmatch(string(data), -1) {
			defined[m[1]] = true
		}
		for _, m := range regexp.MustCompile(`Var\([^"]*"([a-z0-9-]+)"`).FindAllStringSubmatch(string(data), -1) {
			defined["--"+m[1]] = true
		}
	}
	names, err := filepath.Glob("docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for _, m := range command.FindAllStringSubmatch(readDoc(t, name), -1) {
			for _, word := range append(strings.Fields(m[1]), flag.FindAllString(m[2], -1)...) {
				if !defined[word] {
					t.Errorf("%s: mayfly %s %s: there is no %s", name, m[1], m[2], word)
				}
			}
		}
	}
}
