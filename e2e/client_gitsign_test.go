//go:build all

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// rekorV1 starts a Rekor of the first generation and returns its URL and the file of its public key.
func (w *environment) rekorV1() (url, key string) {
	w.Helper()
	w.Need("rekor-backend", "rekor1-server", "rekor-cli")
	_, redis, _ := strings.Cut(w.Address(), ":")
	w.Start("redis", lab.Command{
		Name: "redis-server",
		Args: []string{"--port", redis, "--bind", "127.0.0.1", "--save", ""},
	}, func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+redis)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	backend := w.Spawn("rekor-backend", lab.Command{Name: "rekor-backend"})
	var address, tree string
	w.Eventually("a Trillian", func(context.Context) error {
		_, err := fmt.Sscanf(backend.Stdout(), "ready %s %s", &address, &tree)
		return err
	})
	_, trillian, _ := strings.Cut(address, ":")
	own := w.Address()
	_, port, _ := strings.Cut(own, ":")
	url = "http://" + own
	w.Start("rekor1", lab.Command{Name: "rekor1-server", Args: []string{
		"serve", "--rekor_server.address", "127.0.0.1", "--port", port, "--rekor_server.signer", "memory",
		"--trillian_log_server.address", "127.0.0.1",
		"--trillian_log_server.port", trillian, "--trillian_log_server.tlog_id", tree, "--redis_server.address",
		"127.0.0.1", "--redis_server.port", redis,
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, url+"/api/v1/log") })
	return url, w.Write("rekor1.pub", string(w.Get(url+"/api/v1/log/publicKey")))
}

// gitsign signs commits over the v1 API, and verifies them with trust material from a TUF repository of this CA. The
// entries are found in Rekor by the identity in the certificate.
func gitsign(w *environment) {
	w.start(environmentOptions{})
	w.Need("gitsign")
	rekor, key := w.rekorV1()
	start := "start-time=" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	w.Run(lab.Command{Name: "cosign", Args: []string{
		"trusted-root", "create", "--fulcio", "url=" + w.ca.URL + ",certificate-chain=" + w.pki.ChainFile + "," + start,
		"--ctfe", "url=" + w.log.URL + ",public-key=" + w.log.Key.Public + "," + start, "--rekor",
		"url=" + rekor + ",public-key=" + key + "," + start,
		"--out", w.Path("trusted_root_v1.json"),
	}})
	w.Run(lab.Command{Name: "mayfly", Args: []string{"trust", "tuf", "init", "--dir", w.Path("tuf")}})
	w.Run(lab.Command{Name: "mayfly", Args: []string{
		"trust", "tuf", "publish", "--dir", w.Path("tuf"),
		w.Path("trusted_root_v1.json"),
	}})
	mirror := httptest.NewServer(http.FileServer(http.Dir(w.Path("tuf", "repository"))))
	w.Cleanup(mirror.Close)
	w.Run(lab.Command{Name: "gitsign", Args: []string{
		"initialize", "--mirror", mirror.URL, "--root",
		w.Path("tuf", "repository", "1.root.json"),
	}})

	repository := w.Mkdir("repository")
	git := func(args ...string) lab.Command {
		return lab.Command{Name: "git", Dir: repository, Args: append([]string{
			"-c", "user.name=Alice", "-c", "user.email=alice@example.com", "-c", "gpg.format=x509", "-c",
			"gpg.x509.program=" + w.Look("gitsign"),
		}, args...), Env: []string{
			"SIGSTORE_ID_TOKEN=" + w.oidc.Email("alice@example.com"), "GITSIGN_FULCIO_URL=" + w.ca.URL,
			"GITSIGN_REKOR_URL=" + rekor,
			"GITSIGN_FULCIO_ROOT=" + w.pki.ChainFile, "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=" + w.log.Key.Public,
			"SIGSTORE_REKOR_PUBLIC_KEY=" + key,
		}}
	}
	w.Run(git("init", "--quiet", "--initial-branch=main"))
	w.Run(git("commit", "--quiet", "--allow-empty", "-S", "-m", "a signed commit"))
	verify := func(identity string) lab.Command {
		c := git()
		c.Name, c.Args = "gitsign", []string{
			"verify", "--certificate-identity", identity, "--certificate-oidc-issuer",
			w.oidc.URL, "HEAD",
		}
		return c
	}
	w.Run(verify("alice@example.com"))
	w.RunFails(verify("bob@example.com"), "")
	w.proven("commit signed and verified, trust from `mayfly trust tuf`")

	found := func(email string) string {
		return w.Try(lab.Command{
			Name: "rekor-cli",
			Args: []string{"search", "--rekor_server", rekor, "--email", email},
		}).Stdout
	}
	entries := strings.Fields(found("alice@example.com"))
	if len(entries) == 0 {
		w.Fatal(errors.New("no entry of alice in Rekor"))
	}
	w.Run(lab.Command{Name: "rekor-cli", Args: []string{
		"get", "--rekor_server", rekor, "--uuid",
		entries[len(entries)-1],
	}})
	w.Run(lab.Command{Name: "rekor-cli", Args: []string{"loginfo", "--rekor_server", rekor}})
	if len(strings.Fields(found("nobody@example.com"))) > 0 {
		w.Error("Rekor has entries of nobody@example.com")
	}
	w.proven("its Rekor entry found by identity")
}
