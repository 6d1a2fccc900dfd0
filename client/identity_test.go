package client_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/client"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/testkit/pki"
)

func jwt(claims map[string]any) string {
	data, _ := json.Marshal(claims)
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"RS256"}`)) + "." + part(data) + ".c2VjcmV0"
}

const idp = "https://idp.example.com"

type m = map[string]any

// A certificate is returned only if it has the identity of the token that was sent, or the expected identity.
// D19: the client refuses a certificate that names another identity than its token.
func TestNames(t *testing.T) {
	t.Parallel()
	github := m{
		"iss": idp, "sub": "repo:acme/app:ref:refs/heads/main",
		"job_workflow_ref": "acme/app/.github/workflows/a b.yml@refs/heads/m%61in",
	}
	email := func(v string) identity.SAN { return identity.SAN{Kind: identity.Email, Value: v} }
	uri := func(v string) identity.SAN { return identity.SAN{Kind: identity.URI, Value: v} }
	user := func(v string) identity.SAN { return identity.SAN{Kind: identity.OtherName, Value: v} }
	for _, c := range []struct {
		name            string
		claims          m
		san             identity.SAN
		issuer, subject string
		change          func(*client.Request)
		want            string // part of the error; "" expects no error
	}{
		{
			"an address",
			m{"iss": idp, "sub": "1", "email": "alice@example.com"},
			email("alice@example.com"),
			idp, "1", nil, "",
		},
		{
			"an address, no subject in the certificate",
			m{"iss": idp, "sub": "1", "email": "alice@example.com"},
			email("alice@example.com"), idp, "", nil, "",
		},
		{
			"another address",
			m{"iss": idp, "sub": "1", "email": "alice@example.com"},
			email("mallory@example.com"), idp,
			"", nil, "does not follow",
		},
		{
			"another case",
			m{"iss": idp, "sub": "1", "email": "alice@example.com"},
			email("Alice@example.com"), idp, "1",
			nil, "does not follow",
		},
		{
			"a claim of another case",
			m{"iss": idp, "sub": "1", "Email": "mallory@example.com"},
			email("mallory@example.com"), idp, "1", nil, "does not follow",
		},
		{
			"another issuer",
			m{"iss": idp, "sub": "1", "email": "alice@example.com"},
			email("alice@example.com"),
			"https://evil.example.com", "1", nil, "names the issuer",
		},
		{
			"no issuer",
			m{"iss": idp, "sub": "1", "email": "alice@example.com"},
			email("alice@example.com"), "", "1",
			nil, "no issuer",
		},
		{
			"another subject",
			m{"iss": idp, "sub": "1", "email": "alice@example.com"},
			email("alice@example.com"), idp,
			"2", nil, "has the subject",
		},
		{
			"a connector",
			m{
				"iss": idp, "sub": "1", "email": "a@example.com",
				"federated_claims": m{"connector_id": "https://c.example.com"},
			},
			email("a@example.com"),
			"https://c.example.com", "1", nil, "",
		},
		{
			"another connector",
			m{
				"iss": idp, "sub": "1", "email": "a@example.com",
				"federated_claims": m{"connector_id": "https://c.example.com"},
			},
			email("a@example.com"),
			"https://d.example.com", "1", nil, "names the issuer",
		},
		{"a user", m{"iss": idp, "sub": "alice"}, user("alice!example.com"), idp, "", nil, ""},
		{
			"another user",
			m{"iss": idp, "sub": "alice"},
			user("alicemallory!example.com"), idp, "", nil,
			"does not follow",
		},
		{
			"a user with a second domain",
			m{"iss": idp, "sub": "alice"},
			user("alice!x!example.com"), idp, "", nil,
			"does not follow",
		},
		{"a user without domain", m{"iss": idp, "sub": "alice"}, user("alice!"), idp, "", nil, "does not follow"},
		{
			"a URI",
			m{"iss": idp, "sub": "https://example.com/alice"},
			uri("https://example.com/alice"),
			idp, "", nil, "",
		},
		{
			"another URI",
			m{"iss": idp, "sub": "https://example.com/alice"},
			uri("https://example.com/mallory"), idp, "",
			nil, "does not follow",
		},
		{
			"SPIFFE",
			m{"iss": idp, "sub": "spiffe://example.com/a"},
			uri("spiffe://example.com/a"), idp,
			"spiffe://example.com/a", nil, "",
		},
		{
			"GitHub", github, uri("https://github.com/acme/app/.github/workflows/a%20b.yml@refs/heads/m%2561in"),
			idp, "", nil, "",
		},
		{
			"GitHub Enterprise", github,
			uri("https://ghes.example.com/acme/app/.github/workflows/a%20b.yml@refs/heads/m%2561in"), idp, "", nil, "",
		},
		{
			"GitHub, another branch", github,
			uri("https://github.com/acme/app/.github/workflows/a%20b.yml@refs/heads/main"), idp, github["sub"].(string),
			nil, "does not follow",
		},
		{
			"GitHub, another repository that ends alike", github,
			uri("https://github.com/evil/x@/acme/app/.github/workflows/a%20b.yml@refs/heads/m%2561in"), idp, "", nil,
			"does not follow",
		},
		{
			"GitLab",
			m{"iss": idp, "sub": "s", "ci_config_ref_uri": "gitlab.com/a/b//.gitlab-ci.yml@refs/heads/main"},
			uri("https://gitlab.com/a/b//.gitlab-ci.yml@refs/heads/main"), idp, "", nil, "",
		},
		{
			"GitLab, another host",
			m{
				"iss": idp, "sub": "s",
				"ci_config_ref_uri": "gitlab.com/a/b//.gitlab-ci.yml@refs/heads/main",
			},
			uri("https://evil.example.com/gitlab.com/a/b//.gitlab-ci.yml@refs/heads/main"), idp, "", nil,
			"does not follow",
		},
		{
			"Buildkite",
			m{"iss": idp, "sub": "s", "organization_slug": "o", "pipeline_slug": "p"},
			uri("https://buildkite.com/o/p"), idp, "", nil, "",
		},
		{
			"Buildkite, another",
			m{"iss": idp, "sub": "s", "organization_slug": "o", "pipeline_slug": "p"},
			uri("https://buildkite.com/o/q"), idp, "s", nil, "does not follow",
		},
		{"Codefresh", m{
			"iss": idp, "sub": "s", "account_name": "an", "pipeline_name": "x/y", "account_id": "ai",
			"pipeline_id": "pi",
		}, uri("https://g.codefresh.io/an/x/y:ai/pi"), idp, "", nil, ""},
		{
			"CircleCI",
			m{
				"iss": idp, "sub": "s", "oidc.circleci.com/project-id": "p",
				"oidc.circleci.com/pipeline-definition-id": "d",
			},
			uri("https://circleci.com/api/v2/projects/p/pipeline-definitions/d"), idp, "", nil, "",
		},
		{
			"Azure",
			m{"iss": idp, "sub": "s", "prj_id": "p", "def_id": "7"},
			uri("https://dev.azure.com/acme/p/_build?definitionId=7"), idp, "", nil, "",
		},
		{
			"Azure, another",
			m{"iss": idp, "sub": "s", "prj_id": "p", "def_id": "7"},
			uri("https://dev.azure.com/acme/p/_build?definitionId=17"), idp, "s", nil, "does not follow",
		},
		{
			"Bitbucket",
			m{"iss": idp, "sub": "s", "workspaceUuid": "{w}", "repositoryUuid": "{r}"},
			uri("https://bitbucket.org/%7Bw%7D/%7Br%7D"), idp, "", nil, "",
		},
		{
			"Buddy",
			m{"iss": idp, "sub": "s", "workspace_domain": "w", "project_name": "p", "pipeline_id": "1"},
			uri("https://app.buddy.works/w/p/pipelines/pipeline/1"), idp, "", nil, "",
		},
		{
			"Terraform",
			m{"iss": idp, "sub": "s", "terraform_organization_name": "o", "terraform_workspace_name": "w"},
			uri("https://app.terraform.io/app/o/workspaces/w"), idp, "", nil, "",
		},
		{
			"Kubernetes",
			m{
				"iss": idp, "sub": "s",
				"kubernetes.io": m{"namespace": "n", "serviceaccount": m{"name": "a"}},
			},
			uri("https://kubernetes.io/namespaces/n/serviceaccounts/a"), idp, "", nil, "",
		},
		{
			"Kubernetes, another",
			m{
				"iss": idp, "sub": "s",
				"kubernetes.io": m{"namespace": "n", "serviceaccount": m{"name": "a"}},
			},
			uri("https://kubernetes.io/namespaces/n/serviceaccounts/b"), idp, "s", nil, "does not follow",
		},
		{
			"own template, with subject",
			m{"iss": idp, "sub": "s", "x": "y"},
			uri("https://example.com/y"),
			idp, "s", nil, "",
		},
		{
			"own template, no subject",
			m{"iss": idp, "sub": "s", "x": "y"},
			uri("https://example.com/y"), idp, "", nil,
			"does not follow",
		},
		{
			"own template, named",
			m{"iss": idp, "sub": "s", "x": "y"},
			uri("https://example.com/y"), idp, "",
			func(r *client.Request) { r.Identity = "https://example.com/y" }, "",
		},
		{
			"expected, another came", github, email("mallory@example.com"), idp, "",
			func(r *client.Request) { r.Identity = "alice@example.com" },
			`it names "mallory@example.com", but "alice@example.com" was expected`,
		},
		{
			"expected issuer",
			m{"iss": idp, "sub": "1", "email": "a@example.com"},
			email("a@example.com"),
			"https://other.example.com", "", func(r *client.Request) { r.Issuer = "https://other.example.com" }, "",
		},
		{
			"expected issuer, another came",
			m{"iss": idp, "sub": "1", "email": "a@example.com"},
			email("a@example.com"),
			idp, "", func(r *client.Request) { r.Issuer = "https://other.example.com" }, "was expected",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			id := identity.Identity{SAN: c.san}
			id.Extensions.Set(identity.Issuer, c.issuer)
			id.Extensions.Set(identity.Subject, c.subject)
			p := pki.New(pki.Options{})
			key := pki.NewKey(pki.P256).(*ecdsa.PrivateKey)
			o := certifying(t, p, key, id)
			r := client.Request{Token: jwt(c.claims), Signer: key, CSR: true}
			if c.change != nil {
				c.change(&r)
			}
			cl, err := client.New(o)
			must(t, err)
			defer cl.Close()
			got, err := cl.Request(t.Context(), r)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) ||
				(got == nil) != (err != nil) {
				t.Errorf("%v; want %q", err, c.want)
			}
			if err != nil && !errors.Is(err, client.ErrOtherIdentity) {
				t.Errorf("%v is not an ErrOtherIdentity", err)
			}
			if err != nil && strings.Contains(err.Error(), r.Token) {
				t.Error("the token is in the error")
			}
		})
	}
}

// certifying returns the URL of a server that issues every certificate with identity id, and options of a client that
// trusts it.
func certifying(t *testing.T, p *pki.PKI, key *ecdsa.PrivateKey, id identity.Identity) client.Options {
	t.Helper()
	leaf := issuedTo(t, p, key, id)
	var chain []string
	for _, c := range append([]*x509.Certificate{leaf}, p.Chain...) {
		chain = append(chain, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
	}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		(&server{}).certificates(chain)(w)
	}))
	t.Cleanup(h.Close)
	return client.Options{URL: h.URL, Trust: &client.Trust{
		Chains:  [][]*x509.Certificate{p.Chain},
		MinSCTs: client.NoSCTs,
	}}
}

func issuedTo(t *testing.T, p *pki.PKI, key *ecdsa.PrivateKey, id identity.Identity) *x509.Certificate {
	t.Helper()
	return issued{p: p, key: key.Public(), change: func(c *x509.Certificate) {
		c.EmailAddresses = nil
		switch id.SAN.Kind {
		case identity.Email:
			c.EmailAddresses = []string{id.SAN.Value}
		case identity.URI:
			u, err := url.Parse(id.SAN.Value)
			must(t, err)
			c.URIs = []*url.URL{u}
		case identity.OtherName:
			c.ExtraExtensions = append(c.ExtraExtensions, otherName(t, id.SAN.Value))
		}
		for x := range identity.Known() {
			if v := id.Extensions.Get(x); v != "" {
				value, err := asn1UTF8(v)
				must(t, err)
				c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: x.OID(), Value: value})
			}
		}
	}}.certificate(t)
}

func asn1UTF8(v string) ([]byte, error) { return asn1.MarshalWithParams(v, "utf8") }

// otherName is the subject alternative name that Fulcio uses for user names (1.3.6.1.4.1.57264.1.7).
func otherName(t *testing.T, value string) pkix.Extension {
	t.Helper()
	text, err := asn1UTF8(value)
	must(t, err)
	der, err := asn1.Marshal([]asn1.RawValue{{FullBytes: other(t, text)}})
	must(t, err)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: der}
}

func other(t *testing.T, text []byte) []byte {
	t.Helper()
	oid, err := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 7})
	must(t, err)
	explicit, err := asn1.Marshal(asn1.RawValue{
		Class: asn1.ClassContextSpecific, Tag: 0,
		IsCompound: true, Bytes: text,
	})
	must(t, err)
	der, err := asn1.Marshal(asn1.RawValue{
		Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true,
		Bytes: append(oid, explicit...),
	})
	must(t, err)
	return der
}
