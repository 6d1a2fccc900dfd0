package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/version"
	"github.com/mayfly-ca/mayfly/node"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/trial"
	"github.com/mayfly-ca/mayfly/trust"
)

// The checks that need a token of an operator.
const (
	clientsCheck   = "files of clients"
	signatureCheck = "signature"
)

// signature signs once with every service of the running CA, over the addresses that clients use, and verifies the
// signature with nothing but what clients get.
func (e *exam) signature(ctx context.Context) []Row {
	switch {
	case e.Token == "":
		return []Row{skipped(signatureCheck, "no token was given",
			"write --token-file FILE to sign once with every service; it makes a certificate, and entries in the logs")}
	case len(e.running) == 0:
		return []Row{skipped(signatureCheck, "no CA is running", "start the CA")}
	}
	x, err := oidc.NewExplainer(e.cfg.Issuers)
	if err != nil {
		return []Row{problem(signatureCheck, err.Error(), "")}
	}
	decided := x.Token(e.Token, time.Now())
	if decided.Err != nil {
		return []Row{problem(signatureCheck, "the CA would refuse the token: "+decided.Err.Error(),
			"mayfly config explain shows every step")}
	}
	root, rows := e.filesOfClients(ctx)
	if root == nil {
		return append(rows, skipped(signatureCheck, "clients have no trusted root", "see the row above"))
	}
	o, err := e.services()
	if err != nil {
		return append(rows, problem(signatureCheck, err.Error(), ""))
	}
	id := decided.Decision.Identity
	o.TrustedRoot, o.Token, o.Identity, o.Issuer, o.Timeout = root, e.Token, id.SAN.Value,
		id.Extensions.Get(identity.Issuer), e.Timeout
	r, err := trial.Sign(ctx, o)
	if err != nil {
		return append(rows, problem(signatureCheck, err.Error(), fixOf(err)))
	}
	var steps []string
	for _, s := range r.Steps {
		steps = append(steps, fmt.Sprintf("%s %.3f s", s.Name, s.Took.Seconds()))
	}
	return append(rows, ok(signatureCheck, strings.Join(steps, ", ")))
}

// fixOf says where to look if a step of the signature fails.
func fixOf(err error) string {
	failed, is := errors.AsType[*trial.StepError](err)
	if !is {
		return ""
	}
	return map[string]string{
		trial.StepCertificate: "see the rows of the CA, and publish.url: clients reach the CA there",
		trial.StepTimestamp:   "see tsa in the configuration, and /readyz",
		trial.StepEntry:       "see rekor in the configuration, and /readyz",
		trial.StepVerify:      "publish the trusted root that the running CA has (mayfly trust export)",
	}[failed.Step]
}

// filesOfClients returns the trusted root as clients get it: from the TUF repository, else as the configuration makes
// it.
func (e *exam) filesOfClients(ctx context.Context) ([]byte, []Row) {
	t := e.cfg.Publish.TUF
	if t == nil {
		root, _, err := node.Documents(e.cfg)
		if err != nil {
			return nil, []Row{problem(clientsCheck, err.Error(), "")}
		}
		return root, []Row{skipped(clientsCheck, "there is no TUF repository; mayfly trust export makes the files", "")}
	}
	url, first := t.URL, t.Root
	switch {
	case url != "":
	case t.Serves():
		url, first = e.cfg.PublicURL()+"/tuf", filepath.Join(t.Dir, "repository", "1.root.json")
	default:
		return filesInDir(t.Dir)
	}
	anchor, err := os.ReadFile(first) //nolint:gosec // named by the configuration
	if err != nil {
		return nil, []Row{problem(clientsCheck, err.Error(), "restore the file")}
	}
	root, err := trust.Fetch(ctx, url, anchor, version.UserAgent())
	if err != nil {
		return nil, []Row{problem(clientsCheck, err.Error(), "see mayfly trust tuf show, and publish.url: clients "+
			"reach the repository there")}
	}
	return root, []Row{ok(clientsCheck, url+" gives the trusted root to a client that has 1.root.json")}
}

// filesInDir returns the trusted root of a TUF repository that a web server gives to clients at an unknown URL.
func filesInDir(dir string) ([]byte, []Row) {
	r, err := trust.InspectTUF(trust.TUFOptions{Dir: dir})
	if err != nil {
		return nil, []Row{problem(clientsCheck, err.Error(), "see mayfly trust tuf show --dir "+dir)}
	}
	root, published := r.Target(trust.TrustedRootTarget)
	if !published {
		return nil, []Row{problem(clientsCheck, dir+": no trusted root is published yet", "mayfly trust tuf publish")}
	}
	return root, []Row{skipped(clientsCheck, "the URL of the TUF repository is not in the configuration; the trusted "+
		"root in "+dir+" is used", "write publish.tuf.url and publish.tuf.root to examine what clients get")}
}

// services returns the addresses of the services, from the signing configuration that clients get.
func (e *exam) services() (trial.Options, error) {
	_, signing, err := node.Documents(e.cfg)
	if err != nil {
		return trial.Options{}, err
	}
	type service struct {
		URL     string `json:"url"`
		Version int    `json:"majorApiVersion"`
	}
	var in struct {
		Rekor []service `json:"rekorTlogUrls"`
		TSA   []service `json:"tsaUrls"`
	}
	if err := json.Unmarshal(signing, &in); err != nil {
		return trial.Options{}, err
	}
	o := trial.Options{CA: e.cfg.PublicURL()}
	if len(in.TSA) > 0 {
		o.TSA = in.TSA[0].URL
	}
	for _, s := range in.Rekor {
		if s.Version == 2 && o.Rekor == "" {
			o.Rekor = s.URL
		}
	}
	if o.Rekor == "" && e.cfg.Rekor != nil { // the log shares the listener of the CA
		o.Rekor = o.CA
	}
	return o, nil
}
