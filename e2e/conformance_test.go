//go:build all

package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mayfly-ca/mayfly/e2e/internal/lab"
)

// conformant is a client behind the command-line protocol of sigstore-conformance.
type conformant struct {
	name    string
	command func(args ...string) lab.Command
	digests bool // verifies an artifact of which it has the digest alone
}

// devConformance has the signing and the verifying tests of sigstore-conformance: each client signs an artifact and an
// in-toto statement, and each verifies what the others have signed, and refuses what differs in one part.
func devConformance(w *environment) {
	w.startDev(false)
	python := w.python()
	js := w.javascript()
	all := []conformant{
		{"sigstore-go", func(args ...string) lab.Command {
			return lab.Command{Name: "sigstore-go-conformance", Args: args}
		}, true},
		{"cosign", w.cosignConformance, false},
		{"sigstore-python", func(args ...string) lab.Command {
			return lab.Command{
				Name: python + "/venv/bin/python",
				Args: append([]string{python + "/conformance.py"}, args...),
			}
		}, true},
		{"sigstore-js", func(args ...string) lab.Command {
			return lab.Command{
				Name: js + "/node_modules/.bin/node",
				Args: append([]string{js + "/conformance.mjs"}, args...),
			}
		}, false},
	}
	artifact := w.Write("artifact.txt", "an artifact\n")
	statement := w.statement(artifact)
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("an artifact\n")))
	var verified int
	for _, signer := range all {
		for _, inToto := range []bool{false, true} {
			b := blob{file: artifact, bundle: w.Path(fmt.Sprintf("%s-%v.json", signer.name, inToto))}
			sign := []string{"sign-bundle"}
			content := artifact
			if inToto {
				sign, content = append(sign, "--in-toto"), statement
			}
			w.Run(signer.command(append(sign, "--identity-token", w.dev.Token(w.Lab, alice), "--bundle", b.bundle,
				"--trusted-root", w.trust.TrustedRoot, "--signing-config", w.trust.SigningConfig, content)...))
			w.complete(b, 1)
			w.withoutRoot(b)
			for _, verifier := range all {
				w.Run(verifier.command(w.verifyBundle(b.bundle, alice, artifact)...))
				w.RunFails(verifier.command(w.verifyBundle(b.bundle, bob, artifact)...), "")
				if !inToto && verifier.digests {
					w.Run(verifier.command(w.verifyBundle(b.bundle, alice, digest)...))
				}
				verified++
			}
		}
	}
	w.proven("sigstore-conformance: %d clients sign and verify each other's bundles, of blobs and of "+
		"statements (%d pairs)",
		len(all), verified)
	w.refuseDamaged(all, artifact)
}

func (w *environment) verifyBundle(bundle, identity, artifact string) []string {
	return []string{
		"verify-bundle", "--bundle", bundle, "--certificate-identity", identity, "--certificate-oidc-issuer",
		w.dev.Issuer, "--trusted-root", w.trust.TrustedRoot, artifact,
	}
}

// cosignConformance translates the protocol as cmd/conformance of cosign does.
func (w *environment) cosignConformance(args ...string) lab.Command {
	out := []string{map[string]string{"sign-bundle": "sign-blob", "verify-bundle": "verify-blob"}[args[0]]}
	bundle := ""
	for i, a := range args {
		if a == "--bundle" {
			bundle = args[i+1]
		}
	}
	switch {
	case args[0] == "sign-bundle" && args[1] == "--in-toto":
		out, args = []string{"attest-blob", "--statement", args[len(args)-1], "--yes"}, args[1:len(args)-1]
	case args[0] == "sign-bundle":
		out = append(out, "--yes")
	case strings.Contains(w.Read(bundle), `"dsseEnvelope"`):
		out = []string{"verify-blob-attestation", "--type", "slsaprovenance1"}
	}
	return lab.Command{Name: "cosign", Args: append(out, args[1:]...)}
}

// withoutRoot proves that a bundle has no certificate of a CA.
func (w *environment) withoutRoot(b blob) {
	w.Helper()
	for _, c := range w.Certificates(w.Read(w.dev.Dir + "/chain.pem")) {
		if strings.Contains(w.Read(b.bundle), base64.StdEncoding.EncodeToString(c.Raw)) && c.Subject.String() ==
			c.Issuer.String() {
			w.Errorf("%s has the root", b.bundle)
		}
	}
}

// refuseDamaged damages one part of a bundle at a time. No client verifies the result.
func (w *environment) refuseDamaged(all []conformant, artifact string) {
	w.Helper()
	sign := func(name string) map[string]any {
		bundle := w.Path(name)
		w.Run(all[0].command("sign-bundle", "--identity-token", w.dev.Token(w.Lab, alice), "--bundle", bundle,
			"--trusted-root", w.trust.TrustedRoot, "--signing-config", w.trust.SigningConfig, artifact))
		var out map[string]any
		if err := json.Unmarshal([]byte(w.Read(bundle)), &out); err != nil {
			w.Fatal(err)
		}
		return out
	}
	good, other := sign("good.json"), sign("other.json")
	// part returns the object or the value at a path; a number is an index.
	part := func(of map[string]any, path ...any) any {
		var at any = of
		for _, p := range path {
			switch p := p.(type) {
			case string:
				at = at.(map[string]any)[p]
			case int:
				at = at.([]any)[p]
			}
		}
		return at
	}
	entry := []any{"verificationMaterial", "tlogEntries", 0}
	damages := map[string]func(b map[string]any){
		"signature": func(b map[string]any) {
			part(b, "messageSignature").(map[string]any)["signature"] = part(other, "messageSignature", "signature")
		},
		"certificate": func(b map[string]any) {
			part(b, "verificationMaterial").(map[string]any)["certificate"] = part(other,
				"verificationMaterial", "certificate")
		},
		"log entry of another signature": func(b map[string]any) {
			part(b, "verificationMaterial").(map[string]any)["tlogEntries"] = part(other,
				"verificationMaterial", "tlogEntries")
		},
		"no log entry": func(b map[string]any) { part(b, "verificationMaterial").(map[string]any)["tlogEntries"] = []any{} },
		"checkpoint": func(b map[string]any) {
			proof := part(b, append(entry, "inclusionProof")...).(map[string]any)
			text := part(proof, "checkpoint", "envelope").(string)
			lines := strings.SplitN(text, "\n", 3)
			proof["checkpoint"].(map[string]any)["envelope"] = lines[0] + "\n1" + lines[1] + "\n" + lines[2]
		},
		"timestamp of another signature": func(b map[string]any) {
			part(b, "verificationMaterial").(map[string]any)["timestampVerificationData"] = part(other,
				"verificationMaterial", "timestampVerificationData")
		},
		"no timestamp": func(b map[string]any) {
			delete(part(b, "verificationMaterial").(map[string]any), "timestampVerificationData")
		},
	}
	for name, damage := range damages {
		text, err := json.Marshal(good)
		if err != nil {
			w.Fatal(err)
		}
		var b map[string]any
		if err := json.Unmarshal(text, &b); err != nil {
			w.Fatal(err)
		}
		damage(b)
		changed, err := json.Marshal(b)
		if err != nil || bytes.Equal(changed, text) {
			w.Fatalf("%s: %v, or nothing changed", name, err)
		}
		bundle := w.Write("damaged-"+strings.ReplaceAll(name, " ", "-")+".json", string(changed))
		for _, verifier := range all {
			if r := w.Try(verifier.command(w.verifyBundle(bundle, alice, artifact)...)); r.Status == 0 {
				w.Errorf("%s verifies a bundle with a damage: %s", verifier.name, name)
			}
		}
	}
	changed := w.Write("changed.txt", "another artifact\n")
	for _, verifier := range all {
		w.RunFails(verifier.command(w.verifyBundle(w.Path("good.json"), alice, changed)...), "")
	}
	w.proven("each refuses a bundle with one of %d parts exchanged or removed", len(damages)+1)
}
