//go:build all || kube

package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
	"github.com/mayfly-ca/mayfly/e2e/internal/matrix"
)

// startKube starts an API server of Kubernetes, without controllers and nodes.
func startKube(w *lab.Lab) kubeClient {
	w.Helper()
	w.Need("kube-apiserver")
	if err := matrix.Install(w.Context(), os.Stderr, []string{"etcd"}); err != nil {
		w.Fatal(err)
	}
	etcd, peers := "http://"+w.Address(), "http://"+w.Address()
	w.Start("etcd", lab.Command{Name: "etcd", Args: []string{
		"--data-dir", w.Mkdir("etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", peers,
		"--initial-advertise-peer-urls", peers, "--initial-cluster", "default=" + peers,
	}}, func(ctx context.Context) error { return lab.GetOK(ctx, etcd+"/health") })
	address := w.Address()
	api := "https://" + address
	host, port, _ := strings.Cut(address, ":")
	key := w.LogKey("service-accounts")
	w.Write("tokens.csv", "admin-token,admin,admin,system:masters\n")
	server := w.Spawn("kube-apiserver", lab.Command{Name: "kube-apiserver", Args: []string{
		"--etcd-servers", etcd, "--bind-address", host, "--secure-port", port, "--cert-dir", w.Mkdir("kube"),
		"--token-auth-file", w.Path("tokens.csv"),
		"--service-account-issuer", api, "--service-account-jwks-uri", api + "/openid/v1/jwks",
		"--service-account-key-file", key.Public, "--service-account-signing-key-file", key.Private,
		"--api-audiences", api, "--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.0.0.0/24",
	}})
	cluster := kubeClient{Lab: w, api: api}
	w.Eventually("an API server", func(ctx context.Context) error {
		select {
		case <-server.Done():
			w.Fatalf("kube-apiserver ended:\n%s", server.Stderr())
		default:
		}
		_, err := cluster.do(ctx, http.MethodGet, "/readyz", "")
		return err
	})
	w.Eventually("the namespace default", func(ctx context.Context) error {
		_, err := cluster.do(ctx, http.MethodGet, "/api/v1/namespaces/default", "")
		return err
	})
	return cluster
}

// kubeClient is a client of the API server with administrator rights.
type kubeClient struct {
	*lab.Lab
	api string
}

// do sends a request with a body in JSON, or for PATCH in YAML as a server-side apply.
func (k kubeClient) do(ctx context.Context, method, path, body string) ([]byte, error) {
	own, err := os.ReadFile(k.Path("kube", "apiserver.crt")) // the server makes it when it starts
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(own)
	req, err := http.NewRequestWithContext(ctx, method, k.api+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer admin-token")
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/apply-patch+yaml")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, data)
	}
	return data, err
}

func (k kubeClient) must(path, body string) []byte {
	k.Helper()
	data, err := k.do(k.Context(), http.MethodPost, path, body)
	if err != nil {
		k.Fatal(err)
	}
	return data
}
