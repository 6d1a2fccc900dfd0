package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Mayfly is a running CA.
type Mayfly struct {
	*Process
	URL, GRPC, Admin string // GRPC is HOST:PORT
	Issuer           string // of the development provider, for Dev
	Dir              string // of the development CA, for Dev
	ReadyIn          time.Duration
}

// Dev starts the development CA in folder dir on free ports.
func (l *Lab) Dev(dir string) *Mayfly {
	l.Helper()
	m := &Mayfly{
		URL: "http://" + l.Address(), GRPC: l.Address(), Admin: "http://" + l.Address(),
		Issuer: "http://" + l.Address(), Dir: dir,
	}
	m.startDev(l)
	return m
}

// DevTLS starts the development CA with TLS, with REST and gRPC on one port.
func (l *Lab) DevTLS(dir string) *Mayfly {
	l.Helper()
	address := l.Address()
	m := &Mayfly{
		URL: "https://" + address, GRPC: address, Admin: "http://" + l.Address(), Issuer: "http://" + l.Address(),
		Dir: dir,
	}
	m.startDev(l)
	return m
}

// Again starts a development CA that was stopped or killed, in the same folder on the same ports.
func (m *Mayfly) Again(l *Lab) *Mayfly {
	l.Helper()
	again := *m
	again.startDev(l)
	return &again
}

func (m *Mayfly) startDev(l *Lab) {
	l.Helper()
	start := time.Now()
	bare := func(url string) string {
		_, address, _ := strings.Cut(url, "://")
		return address
	}
	args := []string{
		"dev", "--dir", m.Dir, "--http", bare(m.URL), "--grpc", m.GRPC, "--admin", bare(m.Admin), "--idp",
		bare(m.Issuer),
	}
	if strings.HasPrefix(m.URL, "https:") {
		args = append(args, "--tls")
	}
	m.Process = l.Start("dev", Command{Name: "mayfly", Args: args},
		func(ctx context.Context) error { return GetOK(ctx, m.Admin+"/readyz") })
	m.ReadyIn = time.Since(start)
}

// Spawned starts "mayfly serve" again under a wrapping command, and does not wait: the process may end before it is
// ready.
func (m *Mayfly) Spawned(l *Lab, wrap ...string) {
	l.Helper()
	argv := append(wrap, l.Look("mayfly"), "serve", "--config", m.Dir+"/mayfly.yaml")
	m.Process = l.Spawn("serve-"+filepath.Base(m.Dir), Command{Name: argv[0], Args: argv[1:]})
}

// Log returns the log inside a development CA.
func (m *Mayfly) Log() *Log {
	return &Log{
		Name: "embedded", URL: m.URL + "/ct", Origin: "mayfly.local/ct",
		Key: KeyPair{Public: m.Dir + "/ct/log.pub.pem"},
	}
}

// Token returns a token of the development provider.
func (m *Mayfly) Token(l *Lab, email string) string {
	l.Helper()
	r := l.Run(Command{Name: "mayfly", Args: []string{"dev", "token", "--dir", m.Dir, "--email", email}})
	return strings.TrimSpace(r.Stdout)
}

// ServeOptions are the parts of mayfly.yaml that differ between tests.
type ServeOptions struct {
	Name     string // of the folder
	PKI      PKI
	CA       string // the block under ca:, indented by two spaces; "" is the key file of PKI
	CT       string // the block under ct:, indented by two spaces
	Identity string // identity.yaml
	OnePort  bool   // gRPC on the address of REST
	Listen   string // further settings of listen, indented by two spaces
	More     string // further settings
	Unready  bool   // do not wait until it is ready, because it never will be
}

// Serve starts "mayfly serve" with a configuration file and waits until it is ready.
func (l *Lab) Serve(o ServeOptions) *Mayfly {
	l.Helper()
	m := &Mayfly{URL: "http://" + l.Address(), GRPC: l.Address(), Admin: "http://" + l.Address()}
	if o.OnePort {
		m.GRPC = strings.TrimPrefix(m.URL, "http://")
	}
	if o.CA == "" {
		o.CA = fmt.Sprintf("  file:\n    chain: %s\n    key: %s\n", o.PKI.ChainFile, o.PKI.KeyFile)
	}
	l.Write(o.Name+"/identity.yaml", o.Identity)
	file := l.Write(o.Name+"/mayfly.yaml", fmt.Sprintf(`listen:
  http: %q
  grpc: %q
  admin: %q
%sidentity:
  file: identity.yaml
ca:
%sct:
%s%s`, strings.TrimPrefix(m.URL, "http://"), m.GRPC, strings.TrimPrefix(m.Admin, "http://"), o.Listen, o.CA, o.CT,
		o.More))
	l.Run(Command{Name: "mayfly", Args: []string{"config", "check", "--config", file}})
	m.Dir = l.Path(o.Name)
	if o.Unready {
		m.Spawned(l)
		return m
	}
	m.ServeAgain(l)
	return m
}

// ServeAgain starts "mayfly serve" on the files that are there, after it was stopped or killed, and waits until it is
// ready. wrap is a command that runs it, such as strace with its flags; without one it runs by itself.
func (m *Mayfly) ServeAgain(l *Lab, wrap ...string) {
	l.Helper()
	start := time.Now()
	argv := append(wrap, l.Look("mayfly"), "serve", "--config", m.Dir+"/mayfly.yaml")
	m.Process = l.Start("serve-"+filepath.Base(m.Dir), Command{Name: argv[0], Args: argv[1:]},
		func(ctx context.Context) error { return GetOK(ctx, m.Admin+"/readyz") })
	m.ReadyIn = time.Since(start)
}

// EmailIssuer is an identity.yaml with one e-mail issuer.
func EmailIssuer(url string) string {
	return fmt.Sprintf("oidc-issuers:\n  %[1]s: {issuer-url: %[1]s, client-id: sigstore, type: email}\n", url)
}

// RemoteLog is the ct: block of one remote log.
func RemoteLog(g *Log) string {
	return fmt.Sprintf("  logs:\n    - {name: %s, url: %q, public_key: %s}\n", g.Name, g.URL, g.Key.Public)
}
