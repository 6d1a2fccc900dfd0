package migrate

import (
	"encoding/json"
	"fmt"
	"strings"
)

// securesign returns the process that the operator of Red Hat Trusted Artifact Signer makes from a resource Securesign
// or Fulcio (rhtas.redhat.com/v1alpha1).
func (k *cluster) securesign(d document) ([]candidate, error) {
	kind, name := textAt(d.v, "kind"), textAt(d.v, "metadata", "name")
	spec, status := at(d.v, "spec"), at(d.v, "status")
	switch kind {
	case "Securesign":
		spec, status = at(spec, "fulcio"), nil
	case "Fulcio":
	default:
		return nil, nil
	}
	if spec == nil {
		return nil, fmt.Errorf("%s: %s %s: spec.fulcio is missing", d.file, kind, name)
	}
	namespace := textAt(d.v, "metadata", "namespace")
	p := &Process{Name: fmt.Sprintf("%s: %s %s", d.file, kind, name), Container: true, Env: map[string]Variable{}}
	p.Args = []string{"serve", "--port=5555", "--grpc-port=5554", "--log_type=prod"}
	certificate := at(spec, "certificate")
	switch t := textAt(certificate, "caType"); t {
	case "", "file", "fileca":
		k.securesignFile(p, namespace, []any{certificate, at(status, "certificate")})
	case "pkcs11":
		if err := securesignModule(p, certificate); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
	default:
		return nil,
			fmt.Errorf("%s: the caType %q is not known to this command; write the Deployment that the operator "+
				"made (oc get deployment fulcio-server -o yaml) and name that file", p.Name, t)
	}
	p.Args = append(p.Args, "--ct-log-url="+securesignLog(spec, namespace))
	issuers, err := securesignIssuers(spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	p.Mounts = append(p.Mounts, Mount{At: "/etc/fulcio-config", Files: map[string]File{"config.yaml": {Data: issuers}}})
	p.LogKey = k.securesignLogKey(spec, namespace)
	return []candidate{{name, p}}, nil
}

// securesignFile adds a key in Secrets. References are in the resource, or in the status of the resource Fulcio if the
// operator made the key.
func (k *cluster) securesignFile(p *Process, namespace string, from []any) {
	file := func(member, what string) (File, bool) {
		for _, c := range from {
			if name := textAt(c, member, "name"); name != "" {
				return k.object("Secret", namespace, name+"/"+textAt(c, member, "key")), true
			}
		}
		return File{From: what + ", in the Secret that status.certificate." + member +
			" of the resource Fulcio names " +
			"(oc get fulcio -o yaml)"}, false
	}
	key, own := file("privateKeyRef", "the private key")
	chain, _ := file("caRef", "the certificate chain")
	p.Args = append(p.Args, "--ca=fileca", "--fileca-key=/var/run/fulcio-secrets/key.pem",
		"--fileca-cert=/var/run/fulcio-secrets/cert.pem", "--fileca-key-passwd=$(PASSWORD)")
	p.Mounts = append(p.Mounts, Mount{At: "/var/run/fulcio-secrets", Files: map[string]File{
		"key.pem": key, "cert.pem": chain,
	}})
	password, encrypted := file("privateKeyPasswordRef", "the password of the private key")
	switch {
	case own && !encrypted:
		p.Env["PASSWORD"] = Variable{}
	case password.Data != nil:
		p.Env["PASSWORD"] = Variable{Text: string(password.Data)}
	default:
		p.Env["PASSWORD"] = Variable{Secret: &password}
	}
}

// securesignModule adds a key in a hardware security module.
func securesignModule(p *Process, certificate any) error {
	m := at(certificate, "pkcs11")
	label := textAt(m, "keyConfig", "label")
	if label == "" {
		label = "PKCS11CA"
	}
	id := textAt(m, "keyConfig", "id")
	p.Args = append(p.Args, "--ca=pkcs11ca", "--hsm-caroot-id="+id, "--hsm-key-label="+label,
		"--pkcs11-config-path=/etc/fulcio-pkcs11/crypto11.conf")
	conf := File{From: "the configuration of the module (pkcs11ConfigRef of the resource)"}
	if library := textAt(m, "libraryPath"); library != "" {
		data, err := json.MarshalIndent(map[string]string{
			"Path": library, "TokenLabel": textAt(m, "tokenLabel"), "Pin": textAt(m, "pin"),
		}, "", "  ")
		if err != nil {
			return err
		}
		conf = File{Data: append(data, '\n')}
	}
	p.Mounts = append(p.Mounts, Mount{At: "/etc/fulcio-pkcs11", Files: map[string]File{"crypto11.conf": conf}})
	for _, e := range listAt(m, "serverEnv") {
		p.Env[textAt(e, "name")] = Variable{Text: textAt(e, "value")}
	}
	return nil
}

// securesignLog returns the URL of the log; its parts have the operator's defaults.
func securesignLog(spec any, namespace string) string {
	address, port := textAt(spec, "ctlog", "address"), textAt(spec, "ctlog", "port")
	prefix := textAt(spec, "ctlog", "prefix")
	if address == "" {
		address = "http://ctlog." + namespace + ".svc"
		if namespace == "" {
			address = "http://ctlog"
		}
	}
	if port == "" {
		port = "80"
	}
	if prefix == "" {
		prefix = "trusted-artifact-signer"
	}
	return address + ":" + port + "/" + prefix
}

func (k *cluster) securesignLogKey(spec any, namespace string) *File {
	if name := textAt(spec, "ctlog", "publicKeyRef", "name"); name != "" {
		f := k.object("Secret", namespace, name+"/"+textAt(spec, "ctlog", "publicKeyRef", "key"))
		return &f
	}
	return &File{
		From: "the public key of the CT log, which the operator keeps in the Secret with the label " +
			"rhtas.redhat.com/ctfe.pub",
		Get: "kubectl get secret -l rhtas.redhat.com/ctfe.pub -o " +
			"jsonpath='{.items[0].data.public}' | base64 -d",
	}
}

// securesignIssuers returns the issuer file. The resource has a list of entries with the member Issuer, or in its first
// versions a mapping by issuer.
func securesignIssuers(spec any) ([]byte, error) {
	out := map[string]any{}
	for member, key := range map[string]string{"OIDCIssuers": "oidc-issuers", "MetaIssuers": "meta-issuers"} {
		entries := map[string]any{}
		src := at(spec, "config", member)
		if src == nil && member == "OIDCIssuers" {
			src = at(spec, "oidcIssuers") // the first version
		}
		switch src := src.(type) {
		case nil:
			continue
		case map[string]any:
			for issuer, e := range src {
				entries[issuer] = kebab(e)
			}
		case []any:
			for _, e := range src {
				issuer := textAt(e, "Issuer")
				if issuer == "" {
					issuer = textAt(e, "IssuerURL")
				}
				if issuer == "" {
					return nil, fmt.Errorf("an entry of config.%s has no Issuer", member)
				}
				entries[issuer] = kebab(e)
			}
		default:
			return nil, fmt.Errorf("config.%s is neither a list nor a mapping", member)
		}
		out[key] = entries
	}
	if ci := listAt(spec, "config", "CIIssuerMetadata"); len(ci) > 0 {
		entries := map[string]any{}
		for _, e := range ci {
			entries[textAt(e, "IssuerName")] = kebab(e)
		}
		out["ci-issuer-metadata"] = entries
	}
	data, err := json.MarshalIndent(out, "", "  ") // JSON is YAML
	return append(data, '\n'), err
}

// dropped are members that name an entry; the operator does not write them into it.
var dropped = map[string]bool{"Issuer": true, "IssuerName": true}

// kebab returns an entry with the names of Fulcio's issuer file: ClientID becomes client-id.
func kebab(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for k, inner := range m {
		if dropped[k] || inner == "" {
			continue
		}
		if k == "DefaultTemplateValues" { // its names are data
			out["default-template-values"] = inner
			continue
		}
		out[kebabName(k)] = kebab(inner)
	}
	return out
}

// kebabName writes a name in kebab-case; "URL", "URI", "ID", "CI" and "SPIFFE" are words.
func kebabName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		upper := s[i] >= 'A' && s[i] <= 'Z'
		if upper && i > 0 {
			before := s[i-1] >= 'a' && s[i-1] <= 'z'
			next := i+1 < len(s) && s[i+1] >= 'a' && s[i+1] <= 'z'
			if before || next {
				b.WriteByte('-')
			}
		}
		b.WriteString(strings.ToLower(s[i : i+1]))
	}
	return b.String()
}
