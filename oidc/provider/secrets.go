package provider

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/internal/bounded"
	"github.com/mayfly-ca/mayfly/internal/pemfile"
	"github.com/mayfly-ca/mayfly/oidc/token"
)

// secretsEvery is how often files with bearer tokens and client certificates are read again.
const secretsEvery = 5 * time.Second

// maxSecret limits the files with secrets, in bytes.
const maxSecret = 256 << 10

// secrets are the credentials with which mayfly authenticates to a provider. They are read when the configuration is
// loaded and again in the background, because tokens of pods and short-lived certificates change while the process
// runs.
type secrets struct {
	bearer string
	pair   *tls.Certificate
	err    error // of the last read; after an error, the other fields have the last good values
}

// readSecrets reads the bearer token and the client certificate again. If a file cannot be read, the last good value
// stays in use.
func (r *route) readSecrets() {
	if r.bearerFile == "" && r.clientPair == nil {
		return
	}
	next := secrets{}
	if last := r.secrets.Load(); last != nil {
		next.bearer, next.pair = last.bearer, last.pair
	}
	if r.bearerFile != "" {
		bearer, err := readBearer(r.bearerFile)
		if err == nil {
			next.bearer = bearer
		}
		next.err = err
	}
	if r.clientPair != nil {
		pair, err := readPair(*r.clientPair)
		if err == nil {
			next.pair = pair
		}
		next.err = errors.Join(next.err, err)
	}
	r.secrets.Store(&next)
}

// clientCertificate returns the client certificate for a connection.
func (r *route) clientCertificate() (*tls.Certificate, error) {
	s := r.secrets.Load()
	if s == nil || s.pair == nil {
		return nil, errors.New("the client certificate has not been read")
	}
	return s.pair, nil
}

func readBearer(name string) (string, error) {
	data, err := readFile(name, maxSecret)
	if err != nil {
		return "", err
	}
	bearer := strings.TrimSpace(string(data))
	if bearer == "" || len(bearer) > token.MaxSize || strings.ContainsAny(bearer, "\r\n \t") {
		return "", fmt.Errorf("%s does not contain a bearer token", name)
	}
	return bearer, nil
}

func readPair(c ClientCertificateConfig) (*tls.Certificate, error) {
	certificate, err := readFile(c.Certificate, maxSecret)
	if err != nil {
		return nil, err
	}
	key, err := readFile(c.Key, maxSecret)
	if err != nil {
		return nil, err
	}
	pair, err := pemfile.KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Certificate, err)
	}
	return &pair, nil
}

// readFile reads a regular file of at most limit bytes. A read of any other file, such as a pipe without a writer,
// could block.
func readFile(name string, limit int64) ([]byte, error) {
	st, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		return nil, &os.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", name)
	case st.Size() > limit:
		return nil, fmt.Errorf("%s has %d bytes; the limit is %d", name, st.Size(), limit)
	}
	return bounded.ReadFile(name, limit)
}

// Where Kubernetes mounts the credentials of a pod, and where Fulcio's manifests mount the CA.
const (
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
	fulcioClusterCA   = "/var/run/fulcio/ca.crt"
)

// outbound returns the outbound settings of an entry. The issuer of the cluster that mayfly itself runs in needs no
// settings: its keys are fetched with the CA of the pod, unless the entry names one, and with the token of the pod,
// unless the entry sets another token or another URL of the documents. No other host gets the token of the pod (E13).
func (o Options) outbound(e Entry) OutboundConfig {
	out := e.Outbound
	u, err := url.Parse(e.Key)
	configured := out.BearerTokenFile != "" || e.DiscoveryURL != "" || e.JWKSURL != ""
	if err != nil || e.Pattern || !e.Kubernetes || u.Scheme != "https" || configured ||
		u.Host != "kubernetes.default.svc" && u.Host != "kubernetes.default.svc.cluster.local" {
		return out
	}
	dir := o.ServiceAccountDir
	if dir == "" {
		dir = serviceAccountDir
	}
	for _, ca := range []string{fulcioClusterCA, filepath.Join(dir, "ca.crt")} {
		if _, err := os.Stat(ca); err == nil && out.CABundle == "" && e.CACert == "" {
			out.CABundle = ca
		}
	}
	if file := filepath.Join(dir, "token"); out.CABundle != "" || e.CACert != "" {
		if _, err := os.Stat(file); err == nil {
			out.BearerTokenFile = file
		}
	}
	return out
}
