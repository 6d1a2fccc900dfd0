package migrate

import (
	"encoding/json"
	"fmt"
	"strings"
)

// isValues reports whether a document is a file of values for Sigstore's chart "fulcio", or for a chart that contains
// it, such as "scaffold".
func isValues(m map[string]any) bool {
	if at(m, "fulcio") != nil {
		return at(m, "fulcio", "server") != nil || at(m, "fulcio", "config") != nil
	}
	return at(m, "server", "args") != nil || at(m, "config", "contents") != nil && at(m, "services") == nil
}

// chartIssuers is the issuer file of the chart if the values have none.
const chartIssuers = `{
  "OIDCIssuers": {
    "https://kubernetes.default.svc": {
      "IssuerURL": "https://kubernetes.default.svc", "ClientID": "sigstore", "Type": "kubernetes"
    }
  },
  "MetaIssuers": {
    "https://kubernetes.*.svc": {"ClientID": "sigstore", "Type": "kubernetes"}
  }
}
`

// helmValues returns the process that the chart makes from values (charts/fulcio of sigstore/helm-charts).
func helmValues(d document) ([]candidate, error) {
	v := d.v
	if inner := at(v, "fulcio"); inner != nil {
		v = inner
	}
	or := func(fallback string, keys ...string) string {
		if s := textAt(v, keys...); s != "" {
			return s
		}
		return fallback
	}
	arg := func(name string) string { return textAt(v, "server", "args", name) }
	namespace := or(or("fulcio-system", "namespace", "name"), "forceNamespace")
	authority := or("fileca", "server", "args", "certificateAuthority")
	p := &Process{Name: d.file + " (values of the chart fulcio)", Container: true, Env: map[string]Variable{}}
	p.Args = []string{
		"serve", "--port=" + or("5555", "server", "args", "port"),
		"--grpc-port=" + or("5554", "server", "args", "grpcPort"), "--ca=" + authority,
	}
	secret := or("fulcio-server-secret", "server", "secret")
	k := newCluster(nil)
	switch authority {
	case "googleca":
		p.Args = append(p.Args, "--gcp_private_ca_parent="+arg("gcp_private_ca_parent"))
	case "pkcs11ca":
		p.Args = append(p.Args, "--hsm-caroot-id="+arg("hsm_caroot_id"))
	case "fileca":
		p.Args = append(p.Args, "--fileca-key=/var/run/fulcio-secrets/key.pem",
			"--fileca-cert=/var/run/fulcio-secrets/cert.pem", "--fileca-key-passwd=$(PASSWORD)")
		password := k.object("Secret", namespace, secret+"/password")
		p.Env["PASSWORD"] = Variable{Secret: &password}
		p.Mounts = append(p.Mounts, Mount{At: "/var/run/fulcio-secrets", Files: map[string]File{
			"key.pem":  k.object("Secret", namespace, secret+"/private"),
			"cert.pem": k.object("Secret", namespace, secret+"/cert"),
		}})
	case "kmsca":
		p.Args = append(p.Args, "--kms-resource="+arg("kms_resource"),
			"--kms-cert-chain-path=/etc/fulcio-config/chain.pem")
	}
	if textAt(v, "server", "logging", "production") == "true" {
		p.Args = append(p.Args, "--log_type=prod")
	}
	p.Args = append(p.Args, "--ct-log-url="+chartLog(v))
	if tls := at(v, "server", "grpcSvcTLS"); tls != nil {
		p.Args = append(p.Args, "--grpc-tls-certificate=/var/run/grpc-tls/cert.pem",
			"--grpc-tls-key=/var/run/grpc-tls/key.pem")
		name := textAt(tls, "secretName")
		p.Mounts = append(p.Mounts, Mount{At: "/var/run/grpc-tls", Files: map[string]File{
			"cert.pem": k.object("Secret", namespace, name+"/"+textAt(tls, "certField")),
			"key.pem":  k.object("Secret", namespace, name+"/"+textAt(tls, "keyField")),
		}})
	}
	p.Args = append(p.Args, textsAt(v, "server", "extraArgs")...)
	files, err := chartConfig(v)
	if err != nil {
		return nil, fmt.Errorf("%s: config.contents: %w", d.file, err)
	}
	p.Mounts = append(p.Mounts, Mount{At: "/etc/fulcio-config", Files: files})
	p.LogKey = chartLogKey(v)
	return []candidate{{"fulcio", p}}, nil
}

// chartLog returns the URL of the log that the chart configures.
func chartLog(v any) string {
	if textAt(v, "server", "args", "disable_ct_log") == "true" {
		return ""
	}
	if s := textAt(v, "server", "args", "ct_log_url"); s != "" {
		return s
	}
	or := func(s, fallback string) string {
		if s == "" {
			return fallback
		}
		return s
	}
	return "http://" + or(textAt(v, "ctlog", "name"), "ctlog") + "." +
		or(textAt(v, "ctlog", "namespace", "name"), "ctlog-system") + ".svc/" +
		or(textAt(v, "ctlog", "createctconfig", "logPrefix"), "fulcio")
}

// chartLogKey says where the chart "ctlog" keeps the public key of its log.
func chartLogKey(v any) *File {
	if textAt(v, "server", "args", "ct_log_url") != "" {
		return nil
	}
	namespace := textAt(v, "ctlog", "namespace", "name")
	if namespace == "" {
		namespace = "ctlog-system"
	}
	f := newCluster(nil).object("Secret", namespace, "ctlog-public-key/public")
	return &f
}

// chartConfig returns the files of the chart's ConfigMap.
func chartConfig(v any) (map[string]File, error) {
	out := map[string]File{"config.json": {Data: []byte(chartIssuers)}}
	switch contents := at(v, "config", "contents").(type) {
	case nil:
	case string:
		name := "config.json"
		if !strings.HasPrefix(strings.TrimSpace(contents), "{") {
			name = "config.yaml"
			delete(out, "config.json")
		}
		out[name] = File{Data: []byte(contents)}
	case map[string]any:
		if len(contents) > 0 {
			data, err := json.MarshalIndent(contents, "", "  ")
			if err != nil {
				return nil, err
			}
			out["config.json"] = File{Data: append(data, '\n')}
		}
	default:
		return nil, fmt.Errorf("the value is a %T; write a mapping or a text", contents)
	}
	if chain := textAt(v, "server", "args", "kms_cert_chain"); chain != "" {
		out["chain.pem"] = File{Data: []byte(chain)}
	}
	return out, nil
}
