package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/testkit/idp"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

// A rotation costs no request, needs no restart, and does not wait for a configuration file that somebody is about to mend.
func TestRotateUnderLoad(t *testing.T) {
	t.Parallel()
	provider := idp.New(t, idp.Options{})
	s := startServe(t, serveSetup{pki: pki.New(pki.Options{}), issuer: provider.URL(), embedded: true})
	requests := makeRequests(t, provider)
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for i := range 4 {
		call, release := s.caller(t, i%2 == 0)
		callers.Go(func() {
			defer release()
			for n := i; ; n += 4 {
				select {
				case <-stop:
					return
				default:
				}
				if err := call(requests[n%len(requests)]); err != nil {
					t.Errorf("a request failed during a rotation: %v", err)
					return
				}
			}
		})
	}
	s.replace(t, "identity.yaml", []byte("oidc-issuers: {broken"))
	s.until(t, "refused", func() bool { return strings.Contains(s.logs.String(), "not reloaded") })
	c := embedded.Config{Dir: filepath.Join(s.dir, "log"), Origin: "mayfly.local/ct"}
	if _, err := c.MakeShard(embedded.Rotation{Name: "next", At: time.Now(), Unpublished: true}, time.Now()); err != nil {
		t.Fatal(err)
	}
	s.until(t, "logged in the new shard", func() bool {
		resp, err := http.Get("http://" + s.http + "/ct/next/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		lines := strings.Split(string(text), "\n")
		return err == nil && len(lines) > 2 && lines[0] == "mayfly.local/ct/next" && lines[1] != "0"
	})
	close(stop)
	callers.Wait()
	if _, err := os.Stat(filepath.Join(c.Dir, "shards", "next", "tile")); err != nil {
		t.Error(err)
	}
}
