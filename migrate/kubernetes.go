package migrate

import (
	"encoding/base64"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/shell"
)

// cluster has the objects of Kubernetes manifests (API core/v1, apps/v1, and the Service of Knative).
type cluster struct {
	// data has the contents of ConfigMaps and Secrets, by kind, namespace and name.
	data map[[3]string]map[string][]byte
}

func newCluster(docs []document) *cluster {
	k := &cluster{data: map[[3]string]map[string][]byte{}}
	for _, d := range docs {
		k.add(d.v)
	}
	return k
}

func (k *cluster) add(v any) {
	for _, item := range listAt(v, "items") {
		k.add(item)
	}
	kind := textAt(v, "kind")
	if kind != "ConfigMap" && kind != "Secret" {
		return
	}
	content := map[string][]byte{}
	each := func(member string, decode bool) {
		m, _ := at(v, member).(map[string]any)
		for key := range m {
			text := textAt(m, key)
			if !decode {
				content[key] = []byte(text)
			} else if raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err == nil {
				content[key] = raw
			}
		}
	}
	each("data", kind == "Secret")
	each("binaryData", true)
	each("stringData", false)
	k.data[[3]string{kind, textAt(v, "metadata", "namespace"), textAt(v, "metadata", "name")}] = content
}

// object returns one entry of a ConfigMap or Secret.
func (k *cluster) object(kind, namespace, nameAndKey string) File {
	name, key, _ := strings.Cut(nameAndKey, "/")
	for _, ns := range []string{namespace, ""} {
		if data, ok := k.data[[3]string{kind, ns, name}][key]; ok {
			return File{Data: data}
		}
	}
	in := name
	get := "kubectl get " + strings.ToLower(kind)
	if namespace != "" {
		in = namespace + "/" + name
		get += " -n " + shell.Quote(namespace)
	}
	get += " " + shell.Quote(name) + " -o " + shell.Quote("jsonpath={.data."+strings.ReplaceAll(key, ".", `\.`)+"}")
	if kind == "Secret" {
		get += " | base64 -d"
	}
	return File{From: "the key " + key + " of the " + kind + " " + in, Get: get}
}

// workloads are the kinds of objects with containers, and where their pod is.
var workloads = map[string][]string{
	"Deployment": {"spec", "template", "spec"}, "StatefulSet": {"spec", "template", "spec"},
	"DaemonSet": {"spec", "template", "spec"}, "ReplicaSet": {"spec", "template", "spec"},
	"Service": {"spec", "template", "spec"}, // of Knative
	"Pod":     {"spec"},
}

// processes returns the containers of an object that run "fulcio serve".
func (k *cluster) processes(d document) ([]candidate, error) {
	var out []candidate
	for _, item := range listAt(d.v, "items") {
		found, err := k.processes(document{d.file, item})
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	kind, name := textAt(d.v, "kind"), textAt(d.v, "metadata", "name")
	if strings.HasPrefix(textAt(d.v, "apiVersion"), "rhtas.redhat.com/") {
		return k.securesign(d)
	}
	namespace := textAt(d.v, "metadata", "namespace")
	pod := at(d.v, workloads[kind]...)
	if workloads[kind] == nil || pod == nil {
		return out, nil
	}
	for _, c := range listAt(pod, "containers") {
		p := k.container(c, pod, namespace)
		if !p.serves(textAt(c, "image") + " " + textAt(c, "name") + " " + name) {
			continue
		}
		p.Name = fmt.Sprintf("%s: %s %s", d.file, kind, strings.TrimPrefix(namespace+"/"+name, "/"))
		out = append(out, candidate{name, p})
	}
	return out, nil
}

func (k *cluster) container(c, pod any, namespace string) *Process {
	p := &Process{Container: true, Env: map[string]Variable{}}
	p.Args = append(textsAt(c, "command"), textsAt(c, "args")...)
	for _, from := range listAt(c, "envFrom") {
		for member, kind := range map[string]string{"configMapRef": "ConfigMap", "secretRef": "Secret"} {
			name := textAt(from, member, "name")
			for _, ns := range []string{"", namespace} {
				for key, data := range k.data[[3]string{kind, ns, name}] {
					p.Env[textAt(from, "prefix")+key] = Variable{Text: string(data)}
				}
			}
		}
	}
	for _, e := range listAt(c, "env") {
		p.Env[textAt(e, "name")] = k.variable(e, namespace, p)
	}
	for _, m := range listAt(c, "volumeMounts") {
		for _, v := range listAt(pod, "volumes") {
			if textAt(v, "name") != textAt(m, "name") {
				continue
			}
			mount := k.volume(v, namespace)
			mount.At = textAt(m, "mountPath")
			if sub := textAt(m, "subPath"); sub != "" {
				mount = below(mount, sub)
			}
			p.Mounts = append(p.Mounts, mount)
		}
	}
	p.LogKey = k.logKey()
	return p
}

// below returns a mount of one file or directory of a volume.
func below(m Mount, sub string) Mount {
	out := Mount{At: m.At, Files: map[string]File{}}
	for name, f := range m.Files {
		if name == sub {
			out.Files[""] = f
		} else if rest, ok := strings.CutPrefix(name, sub+"/"); ok {
			out.Files[rest] = f
		}
	}
	if m.Unknown != nil {
		out.Unknown = func(name string) File { return m.Unknown(path.Join(sub, name)) }
	}
	return out
}

func (k *cluster) variable(e any, namespace string, p *Process) Variable {
	for member, kind := range map[string]string{"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"} {
		ref := at(e, "valueFrom", member)
		if ref == nil {
			continue
		}
		f := k.object(kind, namespace, textAt(ref, "name")+"/"+textAt(ref, "key"))
		if f.Data != nil {
			return Variable{Text: string(f.Data)}
		}
		return Variable{Secret: &f}
	}
	text, secret := p.expand(textAt(e, "value"))
	if secret != nil && text == placeholder {
		return Variable{Secret: secret}
	}
	return Variable{Text: text} // read refuses a placeholder beside other text
}

// volume returns the files of a volume.
func (k *cluster) volume(v any, namespace string) Mount {
	m := Mount{Files: map[string]File{}}
	for _, s := range append([]any{v}, listAt(v, "projected", "sources")...) {
		for _, kind := range []string{"ConfigMap", "Secret"} {
			k.source(&m, s, [2]string{kind, namespace})
		}
	}
	if m.Unknown == nil {
		m.Unknown = func(name string) File {
			return File{From: "the file " + name + " of the volume " + textAt(v, "name")}
		}
	}
	return m
}

// source adds a ConfigMap or Secret to a mount; of has its kind and namespace.
func (k *cluster) source(m *Mount, v any, of [2]string) {
	kind, namespace := of[0], of[1]
	member, nameOf := "configMap", "name"
	if kind == "Secret" {
		member, nameOf = "secret", "secretName"
	}
	s := at(v, member)
	if s == nil {
		return
	}
	name := textAt(s, nameOf)
	if name == "" {
		name = textAt(s, "name") // in a projected volume
	}
	if items := listAt(s, "items"); len(items) > 0 {
		for _, i := range items {
			m.Files[textAt(i, "path")] = k.object(kind, namespace, name+"/"+textAt(i, "key"))
		}
		return
	}
	for _, ns := range []string{"", namespace} {
		for key, data := range k.data[[3]string{kind, ns, name}] {
			m.Files[key] = File{Data: data}
		}
	}
	m.Unknown = func(key string) File { return k.object(kind, namespace, name+"/"+key) }
}

// logKey finds the public key of the CT log, in the object in which Sigstore's scaffolding keeps it; of several, in
// the first one by namespace and name.
func (k *cluster) logKey() *File {
	byName := func(a, b [3]string) int { return slices.Compare(a[:], b[:]) }
	for _, id := range slices.SortedFunc(maps.Keys(k.data), byName) {
		data, ok := k.data[id]["public"]
		if ok && id[0] == "Secret" && strings.HasPrefix(id[2], "ctlog-public-key") {
			return &File{Data: data}
		}
	}
	return nil
}
