//go:build all

package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// kubernetesAccount signs as a service account, with a token that a real API server made and whose keys the CA fetches
// from it.
func kubernetesAccount(w *environment) {
	cluster := startKube(w.Lab)
	api := cluster.api
	cluster.must("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
		`{"metadata":{"name":"discovery"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io",`+
			`"kind":"ClusterRole","name":"system:service-account-issuer-discovery"},"subjects":[{"kind":"Group","apiGroup":"rbac.authorization.k8s.io","name":"system:unauthenticated"}]}`)
	w.Eventually("the namespace default", func(ctx context.Context) error {
		_, err := cluster.do(ctx, http.MethodPost, "/api/v1/namespaces/default/serviceaccounts",
			`{"metadata":{"name":"builder"}}`)
		return err
	})
	var made struct{ Status struct{ Token string } }
	if err := json.Unmarshal(cluster.must("/api/v1/namespaces/default/serviceaccounts/builder/token",
		`{"spec":{"audiences":["sigstore"],"expirationSeconds":600}}`), &made); err != nil {
		w.Fatal(err)
	}

	indented := strings.ReplaceAll(strings.TrimSpace(w.Read(w.Path("kube", "apiserver.crt"))), "\n", "\n      ")
	w.start(environmentOptions{identity: fmt.Sprintf("oidc-issuers:\n  %s:\n    client-id: sigstore\n    type: "+
		"kubernetes\n    ca-cert: |\n      %s\n", api, indented)})
	w.issuer = api
	b := newBlob(w.Lab, "blob")
	// a file, as it is signed with ES256
	w.Run(w.cosignSign(b, "--identity-token", w.Write("token", made.Status.Token)))
	w.Run(w.cosignVerify(b, "https://kubernetes.io/namespaces/default/serviceaccounts/builder"))
	w.RunFails(w.cosignVerify(b, "https://kubernetes.io/namespaces/default/serviceaccounts/other"),
		"no matching CertificateIdentity")
	w.checkBundle(w.Lab, b)
	w.proven("a token of a real API server, its keys fetched with the cluster's own CA")
}

// spiffeWorkload signs as a workload of SPIRE: cosign asks the agent's socket for a JWT-SVID, the CA fetches the keys
// from SPIRE's discovery provider.
func spiffeWorkload(w *environment) {
	w.Need("spire-server", "spire-agent", "oidc-discovery-provider")
	discovery := "http://" + w.Address()
	_, discoveryPort, _ := strings.Cut(strings.TrimPrefix(discovery, "http://"), ":")
	address := w.Address()
	_, port, _ := strings.Cut(address, ":")
	dir := w.Mkdir("spire")
	// a socket's path is short
	serverSocket, agentSocket := "/tmp/mayfly-e2e-"+port+"-s.sock", "/tmp/mayfly-e2e-"+port+"-a.sock"
	w.Write("spire/server.conf", fmt.Sprintf(`server {
  bind_address = "127.0.0.1"
  bind_port = "%s"
  socket_path = "%s"
  trust_domain = "e2e.test"
  data_dir = "%s/server"
  jwt_issuer = "%s"
  log_level = "WARN"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "%s/datastore.sqlite3" } }
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
}
`, port, serverSocket, dir, discovery, dir))
	w.Spawn("spire-server", lab.Command{Name: "spire-server", Args: []string{"run", "-config", dir + "/server.conf"}})
	spire := func(args ...string) lab.Command {
		return lab.Command{Name: "spire-server", Args: append(args, "-socketPath", serverSocket)}
	}
	w.Eventually("a SPIRE server", func(context.Context) error {
		if r := w.Try(spire("healthcheck")); r.Status != 0 {
			return errors.New(r.Stdout + r.Stderr)
		}
		return nil
	})
	_, token,
		_ := strings.Cut(strings.TrimSpace(w.Run(spire("token", "generate", "-spiffeID",
		"spiffe://e2e.test/node")).Stdout), "Token: ")
	token = strings.Fields(token)[0]
	w.Write("spire/bundle.pem", w.Run(spire("bundle", "show")).Stdout)
	w.Write("spire/agent.conf", fmt.Sprintf(`agent {
  data_dir = "%s/agent"
  server_address = "127.0.0.1"
  server_port = "%s"
  socket_path = "%s"
  trust_bundle_path = "%s/bundle.pem"
  trust_domain = "e2e.test"
  log_level = "WARN"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`, dir, port, agentSocket, dir))
	w.Spawn("spire-agent", lab.Command{
		Name: "spire-agent",
		Args: []string{"run", "-config", dir + "/agent.conf", "-joinToken", token},
	})
	uid := strings.TrimSpace(w.Run(lab.Command{Name: "id", Args: []string{"-u"}}).Stdout)
	w.Run(spire("entry", "create", "-parentID", "spiffe://e2e.test/node", "-spiffeID", "spiffe://e2e.test/builder",
		"-selector", "unix:uid:"+uid))
	w.Write("spire/discovery.conf", fmt.Sprintf(`log_level = "WARN"
domains = ["127.0.0.1"]
allow_insecure_scheme = true
insecure_addr = "127.0.0.1:%s"
set_key_use = true
server_api { address = "unix://%s" }
`, discoveryPort, serverSocket))
	w.Start("oidc-discovery-provider", lab.Command{
		Name: "oidc-discovery-provider",
		Args: []string{"-config", dir + "/discovery.conf"},
	},
		func(ctx context.Context) error { return lab.GetOK(ctx, discovery+"/keys") })
	w.Eventually("a JWT-SVID for the workload", func(context.Context) error {
		r := w.Try(lab.Command{
			Name: "spire-agent",
			Args: []string{"api", "fetch", "jwt", "-audience", "sigstore", "-socketPath", agentSocket},
		})
		if r.Status != 0 {
			return errors.New(r.Stdout + r.Stderr)
		}
		return nil
	})

	w.start(environmentOptions{identity: fmt.Sprintf("oidc-issuers:\n  %s: {client-id: sigstore, type: spiffe, "+
		"spiffe-trust-domain: e2e.test}\n", discovery)})
	w.issuer = discovery
	b := newBlob(w.Lab, "blob")
	sign := w.cosignSign(b, "--oidc-provider", "spiffe")
	sign.Env = []string{"SPIFFE_ENDPOINT_SOCKET=" + agentSocket}
	w.Run(sign)
	w.Run(w.cosignVerify(b, "spiffe://e2e.test/builder"))
	w.RunFails(w.cosignVerify(b, "spiffe://e2e.test/other"), "no matching CertificateIdentity")
	w.checkBundle(w.Lab, b)
	w.proven("a JWT-SVID of a real SPIRE agent, taken by cosign from its socket")
}
