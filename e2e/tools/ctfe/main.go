// Ctfe is an RFC 6962 log for the end-to-end tests, in one process and without a database: the CTFE of
// certificate-transparency-go in front of Trillian's log server and sequencer, with Trillian's storage in memory.
package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/google/certificate-transparency-go/trillian/ctfe"
	"github.com/google/certificate-transparency-go/trillian/ctfe/configpb"
	"github.com/google/trillian"
	"github.com/google/trillian/crypto/keys"
	"github.com/google/trillian/crypto/keys/der"
	"github.com/google/trillian/crypto/keyspb"
	"github.com/google/trillian/extension"
	"github.com/google/trillian/monitoring"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/storage/memory"
	"github.com/google/trillian/testonly/integration"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

type options struct{ listen, prefix, key, roots string }

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "", "address of the log")
	flag.StringVar(&o.prefix, "prefix", "lab", "first path element of the log's URL")
	flag.StringVar(&o.key, "key", "", "key of the log, SEC1 PEM")
	flag.StringVar(&o.roots, "roots", "", "accepted roots, PEM")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, o options) error {
	key, err := loadKey(o.key)
	if err != nil {
		return err
	}
	env, tree, err := openTree(ctx)
	if err != nil {
		return err
	}
	keys.RegisterHandler(&keyspb.PrivateKey{}, der.FromProto)
	validated, err := ctfe.ValidateLogConfig(&configpb.LogConfig{
		LogId: tree, Prefix: o.prefix, RootsPemFile: []string{o.roots}, PrivateKey: key,
		ExtKeyUsages: []string{"CodeSigning"}, MaxMergeDelaySec: 86400, ExpectedMergeDelaySec: 60,
	})
	if err != nil {
		return fmt.Errorf("log configuration: %w", err)
	}
	instance, err := ctfe.SetUpInstance(ctx, ctfe.InstanceOptions{
		Validated: validated, Client: env.Log, Deadline: 10 * time.Second,
		MetricFactory: monitoring.InertMetricFactory{}, RequestLog: new(ctfe.DefaultRequestLog),
	})
	if err != nil {
		return fmt.Errorf("log instance: %w", err)
	}
	mux := http.NewServeMux()
	for path, handler := range instance.Handlers {
		mux.Handle(path, handler)
	}
	server := &http.Server{Addr: o.listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	log.Printf("log on http://%s/%s", o.listen, o.prefix)
	return server.ListenAndServe()
}

// openTree starts Trillian's log server and sequencer and makes one empty tree.
func openTree(ctx context.Context) (*integration.LogEnv, int64, error) {
	integration.SequencerInterval = 100 * time.Millisecond
	trees := memory.NewTreeStorage()
	env, err := integration.NewLogEnvWithRegistry(ctx, 1, extension.Registry{
		AdminStorage: memory.NewAdminStorage(trees),
		LogStorage:   memory.NewLogStorage(trees, nil),
		QuotaManager: quota.Noop(),
	})
	if err != nil {
		return nil, 0, fmt.Errorf("trillian: %w", err)
	}
	tree, err := env.Admin.CreateTree(ctx, &trillian.CreateTreeRequest{Tree: &trillian.Tree{
		TreeState: trillian.TreeState_ACTIVE, TreeType: trillian.TreeType_LOG,
		MaxRootDuration: durationpb.New(time.Hour),
	}})
	if err != nil {
		return nil, 0, fmt.Errorf("create the tree: %w", err)
	}
	if _, err := env.Log.InitLog(ctx, &trillian.InitLogRequest{LogId: tree.TreeId}); err != nil {
		return nil, 0, fmt.Errorf("initialise the tree: %w", err)
	}
	return env, tree.TreeId, nil
}

func loadKey(path string) (*anypb.Any, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	if _, err := x509.ParseECPrivateKey(block.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return anypb.New(&keyspb.PrivateKey{Der: block.Bytes})
}
