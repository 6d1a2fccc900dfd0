// Tesseract is a static-ct log for the end-to-end tests: TesseraCT's own handler and POSIX storage, with the read path
// of the log (checkpoint, tiles, issuers) served from the same port.
//
// TesseraCT has such a command, which needs an unreleased version of Tessera; its library builds with the released
// version. The options are those that the tests set.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera"
	tesseraposix "github.com/transparency-dev/tessera/storage/posix"
	antispam "github.com/transparency-dev/tessera/storage/posix/antispam"
	"github.com/transparency-dev/tesseract"
	"github.com/transparency-dev/tesseract/storage"
	"github.com/transparency-dev/tesseract/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

type options struct {
	listen, origin, dir, key, roots string
	checkpointInterval              time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "", "address of the log, submission and reading")
	flag.StringVar(&o.origin, "origin", "", "origin of the log, as in its checkpoint")
	flag.StringVar(&o.dir, "dir", "", "folder of the log")
	flag.StringVar(&o.key, "key", "", "P-256 key of the log, SEC1 PEM")
	flag.StringVar(&o.roots, "roots", "", "accepted roots, PEM")
	flag.DurationVar(&o.checkpointInterval, "checkpoint-interval", time.Second, "time between checkpoints")
	flag.Parse()
	if err := run(o); err != nil {
		log.Fatal(err)
	}
}

func run(o options) error {
	key, err := loadKey(o.key)
	if err != nil {
		return err
	}
	ctx := context.Background()
	open := func(ctx context.Context, signer note.Signer) (*storage.CTStorage, error) {
		return openStorage(ctx, o, signer)
	}
	validation := tesseract.ChainValidationConfig{RootsPEMFile: o.roots, ExtKeyUsages: "CodeSigning"}
	handler, err := tesseract.NewLogHandler(ctx, o.origin, key, validation, open, 10*time.Second, false, "",
		tesseract.LogHandlerOpts{DedupRL: -1, MaxCertChainBytes: 512 << 10})
	if err != nil {
		return fmt.Errorf("log handler: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", handler)
	files := http.FileServer(http.Dir(o.dir))
	for _, path := range []string{"/checkpoint", "/tile/", "/issuer/"} {
		mux.Handle("GET "+path, files)
	}
	server := &http.Server{Addr: o.listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	log.Printf("log %s on %s", o.origin, o.listen)
	return server.ListenAndServe()
}

// openStorage opens the log's folder. The log responds to a submission when a checkpoint covers its entry.
func openStorage(ctx context.Context, o options, signer note.Signer) (*storage.CTStorage, error) {
	driver, err := tesseraposix.New(ctx, tesseraposix.Config{Path: o.dir})
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	dedup, err := antispam.NewAntispam(ctx, filepath.Join(o.dir, ".state", "antispam"), antispam.AntispamOpts{})
	if err != nil {
		return nil, fmt.Errorf("deduplication: %w", err)
	}
	appender, _, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCTLayout().
		WithAntispam(256<<10, dedup).
		WithCheckpointInterval(o.checkpointInterval).
		WithBatching(tessera.DefaultBatchMaxSize, 100*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("appender: %w", err)
	}
	issuers, err := posix.NewIssuerStorage(ctx, o.dir)
	if err != nil {
		return nil, fmt.Errorf("issuer storage: %w", err)
	}
	return storage.NewCTStorage(ctx, &storage.CTStorageOptions{
		Appender: appender, Reader: reader, IssuerStorage: issuers,
		EnablePubAwaiter: true, AwaiterPollInterval: storage.DefaultAwaiterPollInterval,
	})
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}
