// Command minivault is the core of HashiCorp Vault, with its transit engine at transit/ and storage in memory. It
// serves a loopback port until it is stopped.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/helper/namespace"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	addr := flag.String("listen", "127.0.0.1:18200", "")
	token := flag.String("root-token", "root", "")
	flag.Parse()
	ctx := namespace.RootContext(context.Background())
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn})
	inm, err := inmem.NewInmem(nil, logger)
	if err != nil {
		log.Fatal(err)
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: inm, DisableMlock: true, Logger: logger,
		BuiltinRegistry: registry{},
		LogicalBackends: map[string]logical.Factory{"transit": transit.Factory},
	})
	if err != nil {
		log.Fatal(err)
	}
	init, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: &vault.SealConfig{
		SecretShares:    1,
		SecretThreshold: 1,
	}})
	if err != nil {
		log.Fatal(err)
	}
	if ok, err := core.Unseal(init.SecretShares[0]); err != nil || !ok {
		log.Fatal(ok, err)
	}
	for _, r := range []*logical.Request{
		{
			Operation: logical.UpdateOperation, ClientToken: init.RootToken, Path: "sys/mounts/transit",
			Data: map[string]any{"type": "transit"},
		},
		{
			Operation: logical.UpdateOperation, ClientToken: init.RootToken, Path: "auth/token/create",
			Data: map[string]any{"id": *token, "policies": []string{"root"}, "no_parent": true},
		},
	} {
		if resp, err := core.HandleRequest(ctx, r); err != nil || (resp != nil && resp.IsError()) {
			log.Fatal(r.Path, resp, err)
		}
	}
	log.Printf("vault %s", *addr)
	log.Fatal(http.ListenAndServe(*addr, vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core:           core,
		ListenerConfig: &configutil.Listener{},
	})))
}
