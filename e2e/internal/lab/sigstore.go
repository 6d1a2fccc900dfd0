package lab

import (
	"context"
	"strings"
	"sync"
	"time"
)

// Services are the other servers of a Sigstore: a timestamp authority and a Rekor v2 log.
type Services struct {
	TSA, TSAChain string // URL of the endpoint, file
	Rekor         string
	RekorKey      KeyPair
}

// timestampServer is held by the test that runs a timestamp-server.
var timestampServer sync.Mutex

// ReserveTimestampServer waits until no other test runs a timestamp-server, and reserves it until this test ends:
// whatever its flags, a timestamp-server listens on port 2112, too.
func (l *Lab) ReserveTimestampServer() {
	timestampServer.Lock()
	l.Cleanup(timestampServer.Unlock)
}

// Services starts both.
func (l *Lab) Services() Services {
	l.Helper()
	l.ReserveTimestampServer()
	tsa, rekor := l.Address(), l.Address()
	s := Services{TSA: "http://" + tsa + "/api/v1/timestamp", Rekor: "http://" + rekor, RekorKey: l.Ed25519Key("rekor")}
	host, port, _ := strings.Cut(tsa, ":")
	l.Start("timestamp-server", Command{Name: "timestamp-server", Args: []string{
		"serve", "--host", host, "--port", port, "--timestamp-signer", "memory", "--disable-ntp-monitoring",
	}}, func(ctx context.Context) error { return GetOK(ctx, "http://"+tsa+"/ping") })
	s.TSAChain = l.Write("tsa-chain.pem", string(l.Get(s.TSA+"/certchain")))

	host, port, _ = strings.Cut(rekor, ":")
	_, grpcPort, _ := strings.Cut(l.Address(), ":")
	_, metricsPort, _ := strings.Cut(l.Address(), ":")
	l.Start("rekor-server", Command{Name: "rekor-server", Args: []string{
		"serve", "--http-address", host, "--http-port", port, "--grpc-address", host, "--grpc-port", grpcPort,
		"--http-metrics-port", metricsPort, "--hostname", host, // the origin of its checkpoints: host without port
		"--storage-dir", l.Mkdir("rekor", "log"), "--signer-filepath", s.RekorKey.Private,
		"--checkpoint-interval", "1s",
	}}, func(ctx context.Context) error { return GetOK(ctx, s.Rekor+"/healthz") })
	return s
}

// Trust are the two files that clients are configured with.
type Trust struct{ TrustedRoot, SigningConfig string }

// TrustOptions are the entries of the files.
type TrustOptions struct {
	Name      string // of the folder
	CA        string // URL
	ChainFile string
	OIDC      string
	Log       *Log
	LogKey    string // public key file; "" takes the log's own
	Services  Services
}

// Trust makes the files with cosign's own commands.
func (l *Lab) Trust(o TrustOptions) Trust {
	l.Helper()
	dir := l.Mkdir(o.Name)
	t := Trust{TrustedRoot: dir + "/trusted_root.json", SigningConfig: dir + "/signing_config.json"}
	if o.LogKey == "" {
		o.LogKey = o.Log.Key.Public
	}
	start := "start-time=" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	l.Run(Command{Name: "cosign", Args: []string{
		"trusted-root", "create",
		"--fulcio", "url=" + o.CA + ",certificate-chain=" + o.ChainFile + "," + start,
		"--ctfe", "url=" + o.Log.URL + ",public-key=" + o.LogKey + "," + start,
		"--tsa", "url=" + o.Services.TSA + ",certificate-chain=" + o.Services.TSAChain + "," + start,
		"--rekor", "url=" + o.Services.Rekor + ",public-key=" + o.Services.RekorKey.Public + "," + start +
			",origin=127.0.0.1",
		"--out", t.TrustedRoot,
	}})
	service := "," + start + ",operator=e2e"
	l.Run(Command{Name: "cosign", Args: []string{
		"signing-config", "create",
		"--fulcio", "url=" + o.CA + ",api-version=1" + service,
		"--oidc-provider", "url=" + o.OIDC + ",api-version=1" + service,
		"--rekor", "url=" + o.Services.Rekor + ",api-version=2" + service, "--rekor-config", "ANY",
		"--tsa", "url=" + o.Services.TSA + ",api-version=1" + service, "--tsa-config", "ANY",
		"--out", t.SigningConfig,
	}})
	return t
}
