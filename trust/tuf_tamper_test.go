package trust_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/trust"
)

// snapshot returns every file of a directory except the lock, by path.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name)
		out[filepath.ToSlash(rel)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func place(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		full := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o700),
			os.WriteFile(full, []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// state is the signed content of a metadata file, without the parts that each signature renews.
type state struct {
	Signed struct {
		Targets map[string]any            `json:"targets"`
		Keys    map[string]any            `json:"keys"`
		Roles   map[string]map[string]any `json:"roles"`
	} `json:"signed"`
}

// vouched lists the items that the metadata of a directory signs: target files with their digests, and keys.
func vouched(t testing.TB, files map[string]string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for name, data := range files {
		if !strings.HasPrefix(name, "repository/") || !strings.HasSuffix(name, ".json") ||
			strings.Contains(name, "targets/") {
			continue
		}
		var s state
		if err := json.Unmarshal([]byte(data), &s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for target, info := range s.Signed.Targets {
			text, _ := json.Marshal(info)
			out[target+" "+string(text)] = true
		}
		for id := range s.Signed.Keys {
			out["key "+id] = true
		}
	}
	return out
}

// lab is a repository with a history: three roots, three versions of targets, two target files.
type lab struct {
	dir     string
	o       trust.TUFOptions
	first   []byte // 1.root.json
	good    map[string]string
	old     map[string]string // an earlier state
	publish []byte
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{dir: filepath.Join(t.TempDir(), "tuf")}
	l.o = trust.TUFOptions{Dir: l.dir}
	r, err := trust.InitTUF(l.o)
	if err != nil {
		t.Fatal(err)
	}
	signing, err := trust.Services{CA: "https://ca", Operator: "us", From: time.Unix(0, 0)}.SigningConfig()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Publish(testdata(t, "trusted_root.json")); err != nil {
		t.Fatal(err)
	}
	l.old = snapshot(t, l.dir)
	if _, err := r.Publish(signing); err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate("snapshot"); err != nil {
		t.Fatal(err)
	}
	l.good = snapshot(t, l.dir)
	l.first = []byte(l.good["repository/1.root.json"])
	l.publish = append(testdata(t, "trusted_root.json"), '\n')
	return l
}

// commands returns all commands that sign.
func (l *lab) commands() map[string]func() error {
	with := func(do func(r *trust.Repository) error) func() error {
		return func() error {
			r, err := trust.OpenTUF(l.o)
			if err != nil {
				return err
			}
			return do(r)
		}
	}
	out := map[string]func() error{
		"publish": with(func(r *trust.Repository) error { _, err := r.Publish(l.publish); return err }),
		"renew":   with(func(r *trust.Repository) error { _, err := r.Publish(); return err }),
		"init":    func() error { _, err := trust.InitTUF(l.o); return err },
	}
	for _, role := range trust.Roles() {
		out["rotate "+role] = with(func(r *trust.Repository) error { return r.Rotate(role) })
	}
	return out
}

// check runs a command on the directory. The new metadata must not contain items that were not validly signed before,
// and a command that fails must not write.
func (l *lab) check(t *testing.T, what, name string, command func() error) (refused bool) {
	t.Helper()
	before := snapshot(t, l.dir)
	err := command()
	after := snapshot(t, l.dir)
	if err != nil {
		if !maps.Equal(before, after) {
			t.Errorf("%s, %s: failed (%v) and wrote something", what, name, err)
		}
		return true
	}
	fresh := map[string]string{}
	for file, data := range after {
		if before[file] != data {
			fresh[file] = data
		}
	}
	allowed := vouched(t, l.good)
	count := 0
	for item := range vouched(t, fresh) {
		if allowed[item] {
			continue
		}
		count++ // a new key, and the published file
		if !strings.HasPrefix(item, "key ") && !strings.HasPrefix(item, "trusted_root.json ") {
			t.Errorf("%s, %s: signed %s", what, name, item)
		}
	}
	if count > 1 {
		t.Errorf("%s, %s: %d items are new", what, name, count)
	}
	return false
}

// rewritten returns JSON texts that differ from data in one value, or have one more member.
func rewritten(t *testing.T, data string) []string {
	t.Helper()
	var out []string
	var tree any
	if err := json.Unmarshal([]byte(data), &tree); err != nil {
		return nil
	}
	emit := func() {
		text, err := json.MarshalIndent(tree, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(text))
	}
	var walk func(v any, set func(any))
	walk = func(v any, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			v["planted"] = map[string]any{"length": 1, "hashes": map[string]any{"sha256": strings.Repeat("0", 64)}}
			emit()
			delete(v, "planted")
			for k, child := range maps.Clone(v) {
				walk(child, func(n any) { v[k] = n })
				delete(v, k)
				emit()
				v[k] = child
			}
		case []any:
			for i, child := range v {
				walk(child, func(n any) { v[i] = n })
			}
			set(append(slices.Clone(v), v...))
			emit()
			set([]any{})
			emit()
			set(v)
		case float64:
			for _, n := range []float64{v + 1, v - 1, 0, 1 << 40} {
				set(n)
				emit()
			}
			set(v)
		case string:
			for _, s := range []string{v + "0", "", "2099-01-01T00:00:00Z", strings.ToUpper(v)} {
				set(s)
				emit()
			}
			set(v)
		default:
			set(nil)
			emit()
			set(v)
		}
	}
	walk(tree, func(any) {})
	emit() // only the white space differs
	return out
}

// whole is true if each combination of a command and a change is tested, as "make crash" does. Otherwise each command
// meets some changes of every kind, and each change some commands.
var whole = os.Getenv("MAYFLY_CRASH") != ""

// An attacker who can write to DIR/repository but has no key changes a byte or a value of a file. No command signs the
// change.
func TestTUFTampered(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var files []string
	for name := range l.good {
		if strings.HasPrefix(name, "repository/") {
			files = append(files, name)
		}
	}
	slices.Sort(files)
	commands := l.commands()
	names := slices.Sorted(maps.Keys(commands))
	turn, refusals := 0, 0
	for n, file := range files {
		data := l.good[file]
		_, current := l.good["keys/published/"+strings.TrimPrefix(file, "repository/")]
		mutants, kept, step := rewritten(t, data), 2, len(data)
		if whole {
			kept, step = 40, len(data)/8+1
		}
		thinned := mutants[:0]
		for i := 0; i < len(mutants); i += max(1, len(mutants)/kept) {
			thinned = append(thinned, mutants[i])
		}
		mutants = thinned
		for i := 0; i < len(data); i += step {
			end := min(i+step, len(data))
			flipped := []byte(data)
			flipped[i] ^= 1
			bytewise := []string{
				string(flipped), data[:i] + data[end:],
				data[:i] + data[i:end] + data[i:end] + data[end:], data[:i],
			}
			if !whole { // the files take turns
				bytewise = bytewise[n%2*2:][:2]
			}
			mutants = append(mutants, bytewise...)
		}
		full := filepath.Join(l.dir, file)
		for k, mutant := range mutants {
			if mutant == data {
				continue
			}
			if err := os.WriteFile(full, []byte(mutant), 0o600); err != nil {
				t.Fatal(err)
			}
			name := names[turn%len(names)] // each command meets each kind of change
			turn++
			if l.check(t, fmt.Sprintf("%s, change %d", file, k), name, commands[name]) {
				refusals++
				if current && turn%4 == 0 {
					if _, err := trust.InspectTUF(l.o); err == nil {
						t.Errorf("%s, change %d: refused by %s, but show reports no error", file, k, name)
					}
				}
			} else {
				if current {
					t.Errorf("%s, change %d: %s works on it", file, k, name)
				}
				place(t, l.dir, l.good)
			}
		}
		if err := os.WriteFile(full, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if refusals < turn/2 {
		t.Errorf("%d of %d changes were refused", refusals, turn)
	}
	// Each command works on the unchanged repository.
	for name, command := range commands {
		place(t, l.dir, l.good)
		if l.check(t, "nothing", name, command) != (name == "init") {
			t.Errorf("%s on an unchanged repository", name)
		}
	}
}

// Files and directories are replaced by others. Each command refuses and writes nothing, and "restore" repairs the
// repository.
func TestTUFReplaced(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	foreign := newLab(t)
	served := func(files map[string]string) {
		if err := os.RemoveAll(filepath.Join(l.dir, "repository")); err != nil {
			t.Fatal(err)
		}
		for name, data := range files {
			if full := filepath.Join(l.dir, name); strings.HasPrefix(name, "repository/") {
				if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o700),
					os.WriteFile(full, []byte(data), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	at := func(name string) string { return filepath.Join(l.dir, "repository", name) }
	instead := func(name string, put func(name string) error) func() {
		return func() {
			if err := errors.Join(os.RemoveAll(at(name)), put(at(name))); err != nil {
				t.Fatal(err)
			}
		}
	}
	copyOf := func(data string) func(string) error {
		return func(name string) error { return os.WriteFile(name, []byte(data), 0o600) }
	}
	folder := func(name string) error { return os.MkdirAll(filepath.Join(name, "x"), 0o700) }
	commands := slices.Sorted(maps.Keys(l.commands()))
	turn := 0
	for what, change := range map[string]func(){
		"an earlier state":               func() { served(l.old) },
		"an earlier timestamp":           instead("timestamp.json", copyOf(l.old["repository/timestamp.json"])),
		"another repository":             func() { served(foreign.good) },
		"another repository's timestamp": instead("timestamp.json", copyOf(foreign.good["repository/timestamp.json"])),
		"another repository's next root": instead("4.root.json", copyOf(foreign.good["repository/1.root.json"])),
		"the current root once more":     instead("4.root.json", copyOf(l.good["repository/3.root.json"])),
		"a root after the next one":      instead("5.root.json", copyOf("{}")),
		"no first root":                  instead("1.root.json", func(string) error { return nil }),
		"nothing":                        func() { served(nil) },
		"a named pipe": instead("timestamp.json",
			func(name string) error { return syscall.Mkfifo(name, 0o600) }),
		"a folder":                       instead("timestamp.json", folder),
		"a folder where files are to be": instead("5.snapshot.json", folder),
		"a folder for the next root":     instead("4.root.json", folder),
		"a link out of the directory": instead("timestamp.json", func(name string) error {
			return os.Symlink(filepath.Join(foreign.dir, "repository/timestamp.json"), name)
		}),
		"targets leads to another folder": instead("targets",
			func(name string) error { return os.Symlink(t.TempDir(), name) }),
	} {
		turn++
		for i, name := range commands {
			if !whole && (turn+i)%3 > 0 {
				continue
			}
			command := l.commands()[name]
			place(t, l.dir, l.good)
			change()
			done := make(chan bool, 1)
			go func() { done <- l.check(t, what, name, command) }()
			select {
			case refused := <-done:
				if !refused && what != "a folder where files are to be" && what != "a folder for the next root" {
					t.Errorf("%s, %s: not refused", what, name)
				}
			case <-time.After(time.Minute):
				t.Fatalf("%s, %s: hangs", what, name)
			}
		}
		place(t, l.dir, l.good)
		change()
		_, err := trust.RestoreTUF(l.o)
		if strings.Contains(what, "folder") || strings.Contains(what, "pipe") || strings.Contains(what, "link") {
			continue // the operator must remove the special file
		}
		if err == nil {
			_, err = trust.InspectTUF(l.o)
		}
		if err != nil {
			t.Errorf("%s, restore: %v", what, err)
		}
		for file, data := range snapshot(t, l.dir) {
			if strings.HasSuffix(file, ".root.json") && l.good[file] != data {
				t.Errorf("%s, restore left %s", what, file)
			}
		}
	}
}

// Metadata that another machine has published with the same keys is newer and verifies. Commands continue from it, and
// restore does not undo it.
func TestTUFTwoMachines(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	r, err := trust.OpenTUF(l.o)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Rotate("timestamp"), r.Rotate("root")); err != nil {
		t.Fatal(err)
	}
	newer := snapshot(t, l.dir)
	here := maps.Clone(newer)
	maps.DeleteFunc(here, func(name, _ string) bool { return strings.HasPrefix(name, "keys/published/") })
	for name, data := range l.good {
		if strings.HasPrefix(name, "keys/published/") {
			here[name] = data
		}
	}
	place(t, l.dir, here)
	if changed, err := trust.RestoreTUF(l.o); err != nil || len(changed) > 0 {
		t.Errorf("restore: %v, %v", changed, err)
	}
	place(t, l.dir, here)
	if err := os.Remove(filepath.Join(l.dir, "repository", "1.root.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.RestoreTUF(l.o); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("restore over newer metadata: %v", err)
	}
	place(t, l.dir, here)
	if r, err = trust.OpenTUF(l.o); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Publish(); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.InspectTUF(l.o); err != nil {
		t.Error(err)
	}
	// Now the earlier metadata is a rollback.
	for name := range snapshot(t, l.dir) {
		if data, ok := newer[name]; ok && name == "repository/timestamp.json" {
			if err := os.WriteFile(filepath.Join(l.dir, name), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := trust.OpenTUF(l.o); err == nil || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("rollback: %v", err)
	}
}

// A repository without an anchor is adopted only with the fingerprint of the root that clients have, and only if all
// metadata verifies from this root.
func TestTUFAdopt(t *testing.T) {
	t.Parallel()
	l, foreign := newLab(t), newLab(t)
	bare := func(files map[string]string) map[string]string {
		out := maps.Clone(files)
		maps.DeleteFunc(out, func(name, _ string) bool { return strings.HasPrefix(name, "keys/published/") })
		return out
	}
	place(t, l.dir, bare(l.good))
	_, err := trust.OpenTUF(l.o)
	none, ok := errors.AsType[*trust.NoAnchorError](err)
	if !ok {
		t.Fatalf("without the copy: %v", err)
	}
	for name, command := range l.commands() {
		if !l.check(t, "no anchor", name, command) {
			t.Errorf("%s works without an anchor", name)
		}
	}
	for what, change := range map[string]func(map[string]string) string{
		"another fingerprint": func(map[string]string) string { return strings.Repeat("0", 64) },
		"no fingerprint":      func(map[string]string) string { return "" },
		"a planted target": func(f map[string]string) string {
			f["repository/3.targets.json"] = strings.Replace(f["repository/3.targets.json"],
				`"length": `, `"length": 1`, 1)
			return none.Fingerprint
		},
		"a planted root": func(f map[string]string) string {
			f["repository/4.root.json"] = foreign.good["repository/1.root.json"]
			return none.Fingerprint
		},
		"another repository's key": func(f map[string]string) string {
			f["keys/root.pem"] = foreign.good["keys/root.pem"]
			return none.Fingerprint
		},
		"a target file that differs": func(f map[string]string) string {
			for name := range f {
				if strings.Contains(name, "/targets/") {
					f[name] += " "
				}
			}
			return none.Fingerprint
		},
	} {
		files := bare(l.good)
		fingerprint := change(files)
		place(t, l.dir, files)
		if !l.check(t, what, "adopt", func() error { _, err := trust.AdoptTUF(l.o, fingerprint); return err }) {
			t.Errorf("%s: adopted", what)
		}
	}
	place(t, l.dir, bare(l.good))
	r, err := trust.AdoptTUF(l.o, strings.ToUpper(none.Fingerprint))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate("targets"); err != nil {
		t.Error(err)
	}
	if _, err := trust.AdoptTUF(l.o, none.Fingerprint); err == nil {
		t.Error("adopted twice")
	}
}

// After a rotation the role has exactly one key, a new one. Clients refuse signatures of the old key.
func TestTUFRotationEndsTheOldKey(t *testing.T) {
	t.Parallel()
	for _, role := range trust.Roles() {
		l := newLab(t)
		r, err := trust.OpenTUF(l.o)
		if err != nil {
			t.Fatal(err)
		}
		keys := func() (out []string) {
			for _, i := range r.Info() {
				if i.Role == role {
					out = i.Keys
				}
			}
			return out
		}
		old := slices.Clone(keys())
		if err := r.Rotate(role); err != nil {
			t.Fatal(err)
		}
		if now := keys(); len(old) != 1 || len(now) != 1 || now[0] == old[0] {
			t.Errorf("%s: keys %v, then %v", role, old, now)
		}
		if role == "root" {
			continue // the old root key signs no other file
		}
		// An attacker with the old key signs a newer version, on a copy of the repository.
		before := filepath.Join(t.TempDir(), "old")
		place(t, before, l.good)
		attacker, err := trust.OpenTUF(trust.TUFOptions{Dir: before})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := attacker.Publish(l.publish); err != nil {
				t.Fatal(err)
			}
		}
		for file, data := range snapshot(t, before) {
			if full := filepath.Join(l.dir, file); strings.HasPrefix(file, "repository/") &&
				!strings.HasSuffix(file, ".root.json") {
				if err := os.WriteFile(full, []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		s := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(l.dir, "repository"))))
		if _, err := trust.Fetch(t.Context(), s.URL, l.first, "test"); err == nil {
			t.Errorf("%s: a client accepts a signature of the old key", role)
		}
		s.Close()
		if _, err := trust.OpenTUF(l.o); err == nil {
			t.Errorf("%s: a command accepts a signature of the old key", role)
		}
	}
}

// Plain http is allowed for loopback only, in URLs and in redirects.
func TestFetchPlainHTTP(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, u := range []string{
		"http://tuf.example.com", "http://127.0.0.1.example.com", "http://localhost.example.com", "http://192.0.2.1",
		"http://[2001:db8::1]",
		"ftp://127.0.0.1", "file:///tmp", "https://", "tuf.example.com", "",
	} {
		if _, err := trust.Fetch(t.Context(), u, l.first, "test"); err == nil ||
			!strings.Contains(err.Error(), "is not the URL of a TUF repository") {
			t.Errorf("%s: %v", u, err)
		}
	}
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "http://tuf.example.com"+r.URL.Path, http.StatusFound)
	}))
	t.Cleanup(s.Close)
	if _, err := trust.Fetch(t.Context(), s.URL, l.first, "test"); err == nil ||
		!strings.Contains(err.Error(), "redirects are followed to https only") || asked == 0 {
		t.Errorf("a redirect to plain http: %v", err)
	}
}

// FuzzTUF changes any file of the served directory.
func FuzzTUF(f *testing.F) {
	l := newLab(f)
	names := slices.Sorted(maps.Keys(l.good))
	f.Add(uint8(0), []byte("{}"))
	for i, name := range names {
		f.Add(uint8(i), []byte(l.good[name]))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		name := names[int(which)%len(names)]
		if !strings.HasPrefix(name, "repository/") || bytes.Equal(data, []byte(l.good[name])) {
			return
		}
		place(t, l.dir, l.good)
		if err := os.WriteFile(filepath.Join(l.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		l.check(t, name, "publish", l.commands()["publish"])
	})
}
