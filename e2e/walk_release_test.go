//go:build all

package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// The release of Kubernetes: the identity that signs and the issuer of that identity.
const (
	releaser = "krel-staging@k8s-releng-prod.iam.gserviceaccount.com"
	google   = "https://accounts.google.com"
)

// kubernetesRelease signs binaries, checksums, an SBOM and an image as a Google service account, whose issuer's keys
// are a file here, and verifies them with the command lines of the Kubernetes documentation.
func kubernetesRelease(w *environment) {
	w.oidc = w.Issuer(nil)
	keys := w.Write("google-keys.json", string(w.Get(w.oidc.URL+"/keys")))
	w.start(environmentOptions{identity: fmt.Sprintf("oidc-issuers:\n  %s:\n    client-id: sigstore\n    type: "+
		"email\n    static-keys: {file: %q}\n"+
		"    policy:\n      rules:\n        - {name: releases, allow: 'claims.email == %q'}\n",
		google, keys, releaser)})
	w.issuer = google
	token := func(email string) string {
		return w.oidc.Token(map[string]any{"iss": google, "sub": "101", "email": email, "email_verified": true})
	}

	binary := w.Write("kubectl", "the binary\n")
	sums := w.Write("SHA256SUMS", w.Run(lab.Command{Name: "sha256sum", Args: []string{"kubectl"}}).Stdout)
	sbom := w.Write("sbom.spdx.json",
		`{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"kubernetes","dataLicense":"CC0-1.0","documentNamespace":"https://sbom.example.com/1","creationInfo":{"created":"2026-01-01T00:00:00Z","creators":["Tool: example"]},"packages":[]}`)
	for _, file := range []string{binary, sums, sbom} {
		b := blob{file: file, bundle: file + ".sigstore.json"}
		w.Run(w.cosignSign(b, "--identity-token", token(releaser)))
		w.Run(w.cosignVerify(b, releaser))
		w.RunFails(w.cosignVerify(b, "mallory@example.com"), "no matching CertificateIdentity")
		w.documented(b)
	}
	w.proven("binary, checksums and SBOM")
	w.RunFails(w.cosignSign(newBlob(w.Lab, "mallory"), "--identity-token", token("mallory@example.com")),
		"does not allow a certificate")
	w.proven("another account is refused by policy")

	ref := w.image(w.registry(), "kube-apiserver:v1")
	who := []string{"--certificate-identity", releaser, "--certificate-oidc-issuer", google}
	w.Run(w.cosignImage("sign", ref, "--identity-token", token(releaser)))
	w.Run(w.cosignImage("verify", ref, who...))
	w.Run(w.cosignImage("attest", ref, "--predicate", sbom, "--type", "spdxjson", "--identity-token", token(releaser)))
	w.Run(w.cosignImage("verify-attestation", ref, append(who, "--type", "spdxjson")...))
	w.proven("image and its SBOM as an attestation")
}

// documented verifies with the detached files that Kubernetes publishes beside its binaries, FILE.sig and FILE.cert.
func (w *environment) documented(b blob) {
	w.Helper()
	var parts struct {
		Material struct {
			Certificate struct {
				Raw []byte `json:"rawBytes"`
			} `json:"certificate"`
			Timestamps struct {
				RFC3161 []struct {
					Signed string `json:"signedTimestamp"`
				} `json:"rfc3161Timestamps"`
			} `json:"timestampVerificationData"`
		} `json:"verificationMaterial"`
		Signature struct {
			Signature string `json:"signature"`
		} `json:"messageSignature"`
	}
	if err := json.Unmarshal([]byte(w.Read(b.bundle)), &parts); err != nil {
		w.Fatal(err)
	}
	name := w.relative(b.file)
	sig := w.Write(name+".sig", parts.Signature.Signature)
	cert := w.Write(name+".cert", lab.PEM("CERTIFICATE", parts.Material.Certificate.Raw))
	verify := func(identity string) lab.Command {
		return lab.Command{Name: "cosign", Args: []string{
			"verify-blob", b.file, "--signature", sig, "--certificate", cert, "--certificate-identity", identity,
			"--certificate-oidc-issuer", google,
			// The documented command lacks the chain of this CA, and the flag for files without a log entry.
			"--certificate-chain", w.pki.ChainFile, "--insecure-ignore-tlog",
		}, Env: []string{"SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=" + w.log.Key.Public}}
	}
	w.Run(verify(releaser))
	w.RunFails(verify("mallory@example.com"), "")
}

// workflow holds the claims of a GitHub Actions job.
func workflow(change map[string]any) map[string]any {
	claims := map[string]any{
		"sub": "repo:octo/app:ref:refs/heads/main", "event_name": "push", "ref": "refs/heads/main",
		"repository": "octo/app", "repository_id": "1",
		"repository_owner": "octo", "repository_owner_id": "2", "repository_visibility": "public",
		"run_attempt": "1", "run_id": "9",
		"runner_environment": "github-hosted", "sha": strings.Repeat("a", 40), "workflow": "release",
		"job_workflow_ref": "octo/app/.github/workflows/release.yml@refs/heads/main",
		"job_workflow_sha": strings.Repeat("b", 40),
		"workflow_ref":     "octo/app/.github/workflows/release.yml@refs/heads/main",
		"workflow_sha":     strings.Repeat("b", 40),
	}
	for k, v := range change {
		claims[k] = v
	}
	return claims
}

// startWorkflows starts a CA that trusts the lab's issuer for GitHub Actions, whose runner hands out tokens with these
// claims.
func (w *environment) startWorkflows(claims map[string]any) {
	w.Helper()
	w.oidc = w.Issuer(claims)
	metadata := w.Run(lab.Command{Name: "mayfly", Args: []string{"config", "profiles", "github-workflow"}}).Stdout
	w.start(environmentOptions{identity: fmt.Sprintf("oidc-issuers:\n  %s: {client-id: sigstore, type: ci-provider, "+
		"ci-provider: github-workflow}\n%s", w.oidc.URL, metadata)})
}

// ambient runs a command as a job of GitHub Actions would: the token comes from the runner.
func (w *environment) ambient(c lab.Command) lab.Command {
	c.Env = append(c.Env, w.oidc.RunnerEnv()...)
	return c
}

// admission admits or rejects an image as an admission controller does: by identity, by issuer and by workflow.
func admission(w *environment) {
	w.startWorkflows(workflow(nil))
	ref := w.image(w.registry(), "app:v1")
	w.Run(w.ambient(w.cosignImage("sign", ref)))
	good := map[string]string{
		"--certificate-identity-regexp":            `^https://github\.com/octo/app/\.github/workflows/[^/]+@refs/heads/main$`,
		"--certificate-oidc-issuer-regexp":         `^http://127\.0\.0\.1:[0-9]+$`,
		"--certificate-github-workflow-repository": "octo/app", "--certificate-github-workflow-ref": "refs/heads/main",
		"--certificate-github-workflow-trigger": "push",
		"--certificate-github-workflow-name":    "release",
		"--certificate-github-workflow-sha":     strings.Repeat("a", 40),
	}
	admit := func(flag, value string) lab.Command {
		var args []string
		for k, v := range good {
			if k == flag {
				v = value
			}
			args = append(args, k, v)
		}
		return w.cosignImage("verify", ref, args...)
	}
	w.Run(admit("", ""))
	for flag, value := range map[string]string{
		"--certificate-identity-regexp":            `^https://github\.com/octo/other/`,
		"--certificate-oidc-issuer-regexp":         `^https://issuer\.example\.com$`,
		"--certificate-github-workflow-repository": "octo/other",
		"--certificate-github-workflow-ref":        "refs/heads/feature",
		"--certificate-github-workflow-trigger":    "pull_request", "--certificate-github-workflow-name": "test",
		"--certificate-github-workflow-sha": strings.Repeat("c", 40),
	} {
		w.RunFails(admit(flag, value), "")
	}
	w.proven("image of a GitHub Actions job admitted; refused for each of 7 differences")
}

// slsaProvenance signs a provenance statement, at level 2 with the project's own workflow, at level 3 with a reusable
// builder that projects call and cannot change, and determines the origin of the artifact from the certificate.
func slsaProvenance(w *environment) {
	builder := "octo/builders/.github/workflows/generic.yml@refs/tags/v2.1.0"
	w.startWorkflows(workflow(map[string]any{"job_workflow_ref": builder, "job_workflow_sha": strings.Repeat("d", 40)}))
	artifact := newBlob(w.Lab, "app")
	predicate := w.Write("predicate.json",
		`{"buildDefinition":{"buildType":"https://example.com/build/v1","externalParameters":{},"internalParameters":{},"resolvedDependencies":[]},`+
			`"runDetails":{"builder":{"id":"https://github.com/`+builder+`"},"metadata":{"invocationId":"9"}}}`)
	w.Run(w.ambient(lab.Command{Name: "cosign", Args: []string{
		"attest-blob", "--yes", "--signing-config", w.trust.SigningConfig, "--trusted-root", w.trust.TrustedRoot,
		"--predicate", predicate,
		"--type", "slsaprovenance1", "--bundle", artifact.bundle, artifact.file,
	}}))
	verify := func(file, identity, repository string) lab.Command {
		return lab.Command{Name: "cosign", Args: []string{
			"verify-blob-attestation", "--trusted-root", w.trust.TrustedRoot, "--bundle", artifact.bundle, "--type",
			"slsaprovenance1",
			"--certificate-identity", identity, "--certificate-oidc-issuer", w.oidc.URL,
			"--certificate-github-workflow-repository", repository, file,
		}}
	}
	w.Run(verify(artifact.file, "https://github.com/"+builder, "octo/app"))
	w.RunFails(verify(artifact.file, "https://github.com/octo/app/.github/workflows/release.yml@refs/heads/main",
		"octo/app"), "")
	w.RunFails(verify(artifact.file, "https://github.com/"+builder, "octo/other"), "")
	w.RunFails(verify(w.Write("other.txt", "another artifact\n"), "https://github.com/"+builder, "octo/app"), "")

	r := w.Run(lab.Command{Name: "mayfly", Args: []string{
		"verify", artifact.bundle, "--trusted-root", w.trust.TrustedRoot, "--artifact", artifact.file, "--identity",
		"https://github.com/" + builder, "--issuer", w.oidc.URL, "--json",
	}})
	for what, want := range map[string]string{
		"source-repository-uri": "https://github.com/octo/app", "source-repository-digest": strings.Repeat("a", 40),
		"build-signer-uri":    "https://github.com/" + builder,
		"build-signer-digest": strings.Repeat("d", 40), "build-trigger": "push",
		"build-config-uri": "https://github.com/octo/app/.github/workflows/release.yml@refs/heads/main",
	} {
		if !strings.Contains(r.Stdout, what) || !strings.Contains(r.Stdout, want) {
			w.Errorf("the certificate does not say %s %s:\n%s", what, want, r.Stdout)
		}
	}
	w.proven("provenance by a shared builder (level 3): builder, source repository, digest and trigger " +
		"out of the certificate")
	w.ownWorkflow(artifact)
}

// ownWorkflow is level 2: the workflow that builds also signs, and the certificate names that workflow.
func (w *environment) ownWorkflow(b blob) {
	w.Helper()
	w.oidc.SetRunner(workflow(nil))
	w.Run(w.ambient(w.cosignSign(b)))
	w.Run(w.cosignVerify(b, "https://github.com/octo/app/.github/workflows/release.yml@refs/heads/main",
		"--certificate-github-workflow-trigger", "push"))
	w.proven("signature by the project's own workflow (level 2)")
}
